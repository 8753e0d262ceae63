"""How far the captions of many pictures have come, on the disk: killed at any moment, it goes on.

captions.jsonl         a line a picture; with one process it grows here
captions.failed.jsonl  a line for each picture that could not be used, once all are done
captions.jsonl.job/    job.json: what was asked; until all are done also what there is to do
                       and the parts of several processes, joined by the last of them
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from captioning.many.parts import Bits, as_line, block_of, heal, merged, written
from captioning.many.sources import Item
from captioning.many.todo import read_todo, write_todo
from weights.store import read_json, replacing, write_json

JOB, TODO, LOCK = "job.json", "todo.sqlite", ".lock"


@dataclass(frozen=True)
class Totals:
    """What a finished job came to."""

    captions: int
    failed: int
    unfamiliar: int


@dataclass(frozen=True)
class Share:
    """This process among those of the job: `rank` of `world`, as torchrun counts them."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Left:
    """The blocks of a process that were not done when it started, in order."""

    pictures: int
    block: int
    share: Share
    done: Bits

    def __iter__(self) -> Iterator[range]:
        step = self.block * self.share.world
        for start in range(self.share.rank * self.block, self.pictures, step):
            block = block_of(start, self.block, self.pictures)
            if not self.done.holds(block):
                yield block

    def __len__(self) -> int:
        """How many pictures they have."""
        return sum(map(len, self))


class Job:
    """Pictures in blocks of `block`, each block whole or not at all.

    A block is the work of one process and one batch of the model, always of the same pictures: so
    neither a kill nor the number of processes changes a caption.
    """

    def __init__(self, out: Path, settings: dict[str, Any], block: int, share: Share) -> None:
        self.out, self.settings, self.block, self.share = out, settings, block, share
        self.folder = out.with_name(out.name + ".job")
        self.failures = out.with_name(out.stem + ".failed.jsonl")
        self.pictures = 0

    def start(self, items: Callable[[], Iterable[Item]]) -> Totals | None:
        """Lists what there is to do, or takes up what an earlier start listed.

        The totals where all is done already. ValueError where `out` is of something else, or done
        and pictures came since.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK):
            held = self._held()
            if held is None:
                said = self.folder.glob("said-*")
                for left in (self.folder / JOB, *said, *self._parts("failed")):
                    left.unlink(missing_ok=True)
                self.pictures = write_todo(self.folder / TODO, items())
                if not self.pictures:
                    raise ValueError("there is no picture to caption; name some.")
                self._note(None)
                return None
            self.pictures = held["pictures"]
            if held["totals"] is None:
                return None
            if self.out.stat().st_size != held["bytes"]:  # torn, or changed by hand
                self._note(None)
                return None
            now = sum(1 for _ in items())
            if now != self.pictures:
                raise ValueError(
                    f"{self.out} is done: it is of the {self.pictures:,} pictures that there were,"
                    f" and there are {now:,} now. Name another file, or delete it to begin anew."
                )
            return Totals(**held["totals"])

    def _note(self, totals: Totals | None) -> None:
        note: dict[str, Any] = {"settings": self.settings, "pictures": self.pictures}
        note["totals"] = None if totals is None else vars(totals)
        note["bytes"] = None if totals is None else self.out.stat().st_size
        write_json(self.folder / JOB, note)

    def _held(self) -> dict[str, Any] | None:
        """What an earlier start noted; None where this is the first, or its result is gone."""
        there = self.out.is_file() and self.out.stat().st_size > 0
        if not (self.folder / JOB).is_file():
            if there:
                raise ValueError(
                    f"{self.out} is there already, and not of a job that can go on; name another"
                    " file, or delete it."
                )
            return None
        held: dict[str, Any] = read_json(self.folder / JOB)
        then, now = held["settings"], self.settings
        changed = [
            f"{name} was {then.get(name)}, now {now.get(name)}"
            for name in {**then, **now}
            if then.get(name) != now.get(name)
        ]
        if changed and self._begun():
            raise ValueError(
                f"{self.out} is of another job: {'; '.join(changed)}. Name another file, or delete"
                f" it and {self.folder}."
            )
        gone = held["totals"] is not None and not self.out.is_file()
        return None if changed or gone else held

    def _begun(self) -> bool:
        """Whether there is a line of any part, or a process that will write one.

        If not, options that were a mistake bind nobody.
        """
        if any(path.is_file() and path.stat().st_size for path in self._parts("said")):
            return True
        try:
            for path in self.folder.glob(".*-of-*.lock"):
                with FileLock(path, timeout=0):
                    pass
        except Timeout:
            return True
        return False

    def _parts(self, kind: str) -> list[Path]:
        """Every part of the captions (`said`) or of the failures (`failed`)."""
        joined = self.out if kind == "said" else self.failures
        return [joined, *sorted(self.folder.glob(f"{kind}-*"))]

    def _own(self, kind: str) -> Path:
        if kind == "said" and self.share.world == 1:
            return self.out
        return self.folder / f"{kind}-{self.share.rank}-of-{self.share.world}.jsonl"

    def done(self) -> Bits:
        """The numbers of all pictures that have a caption or failed, whoever did them."""
        return written([*self._parts("said"), *self._parts("failed")], self.pictures)

    def left(self) -> Left:
        """What this process has still to do; heals what a kill tore.

        Call it with nobody else writing this process's parts: inside `writing`.
        """
        own = [self._own("said"), self._own("failed")]
        mine = written([*own, self.failures], self.pictures)
        last = max(heal(path, self.pictures, self.block, mine) for path in own)
        left = Left(self.pictures, self.block, self.share, self.done())
        if next(iter(left), range(last, last)).start < last:  # a part of another process is lost
            for kind, path in zip(("said", "failed"), own, strict=True):
                if path.is_file():  # what comes before it can't be added to it: begin a new one
                    number = len(list(self.folder.glob(f"{kind}-*")))
                    path.rename(self.folder / f"{kind}-before-{number}.jsonl")
        return left

    def items(self, numbers: range) -> list[Item]:
        """The pictures of some numbers."""
        return read_todo(self.folder / TODO, numbers)

    def writing(self) -> Writing:
        """For a `with`: this process's parts, which it alone writes."""
        return Writing(self)

    def finish(self) -> Totals | None:
        """Joins the parts in input order if all is done. None where it is not, or was already."""
        with FileLock(self.folder / LOCK):
            held = read_json(self.folder / JOB)
            if held["totals"] is not None:
                return None
            if not self.done().holds(range(self.pictures)):
                return None
            unfamiliar = 0
            counts = {}
            for kind, target in (("said", self.out), ("failed", self.failures)):
                counts[kind] = 0
                for left in target.parent.glob(f".{target.name}.*"):  # by a kill in this place
                    left.unlink()
                with replacing(target) as temporary, temporary.open("wb") as file:
                    for line in merged(self._parts(kind), self.pictures):
                        file.write(line)
                        counts[kind] += 1
                        unfamiliar += b'"familiar": false' in line
            if not counts["failed"]:
                self.failures.unlink()
            totals = Totals(counts["said"], counts["failed"], unfamiliar)
            self._note(totals)
            for left in self.folder.iterdir():
                if left.name not in (JOB, LOCK, TODO):
                    left.unlink()
            return totals


class Writing:
    """The parts of one process while it adds to them; two processes can't have the same."""

    def __init__(self, job: Job) -> None:
        self.job = job
        name = f".{job.share.rank}-of-{job.share.world}.lock"
        self.lock = FileLock(job.folder / name, timeout=0)
        self.files: dict[str, BinaryIO] = {}

    def __enter__(self) -> Writing:
        try:
            self.lock.acquire()
        except Timeout:
            raise ValueError(
                f"{self.job.out} is being written by another process; wait for it, or name another"
                " file."
            ) from None
        return self

    def add(self, kind: str, rows: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Adds lines and hands them to the system: a kill after that does not lose them."""
        lines = b"".join(as_line(number, fields) for number, fields in rows)
        if lines:
            if kind not in self.files:
                self.files[kind] = self.job._own(kind).open("ab")
            self.files[kind].write(lines)
            self.files[kind].flush()

    def __exit__(self, *_: object) -> None:
        for file in self.files.values():
            file.close()
        self.lock.release()


def shares(environment: Mapping[str, str]) -> Share:
    """This process's share by torchrun's RANK and WORLD_SIZE; all of it without them."""
    return Share(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))
