"""Captions of very many pictures: killed in the middle, gone on, shared by two, always the same.

    python benchmarks/many_pictures.py                       # 20,000 drawn scenes
    python benchmarks/many_pictures.py --pictures 2000 --folder FOLDER

Draws small scenes and a few files that are none, then captions them with the embedded model by
`python -m captioning caption FOLDER --out FILE.jsonl`, each time in processes of their own:

    whole       in one go; speed, and the largest memory at a tenth of the pictures and at all
    killed      SIGKILL in the middle, a line torn by hand, and the same command again
    two ranks   torchrun --nproc-per-node 2; SIGKILL of all in the middle, and again
    from shards the same pictures as webdataset tar files

All four files must be the same, byte for byte (those of shards but for the names). Kept in
--folder, so that a second start draws nothing anew.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro
from tqdm import trange

from captioning.data.shards import add
from captioning.scenes.draw import draw
from weights.console import run_command
from weights.store import replacing

SEED = 8  # first number of these pictures' seeds, as in captioning.scenes
SIDE = 72  # pixels: the embedded tower's
BROKEN = (b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n")  # in place of some pictures
A_SHARD = 1000

# Runs the command and prints the largest resident size of this process, in MB.
CHILD = """
import sys
from captioning.__main__ import main
code = main(sys.argv[1:])
peak = next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]
print(f"peak {int(peak) / 1024:.0f} MB")
sys.exit(code)
"""


@dataclass(frozen=True)
class ManyPictures:
    """Show that captions of many pictures survive a kill, and fit in flat memory."""

    pictures: int = 20_000
    """How many scenes to draw."""
    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where everything goes, to be kept; a temporary folder where not given."""
    batch_size: int = 50
    """Pictures that go through the model at once."""
    max_new_tokens: int = 80
    """The longest caption; shorter ones take less time."""
    only: tuple[str, ...] = ("whole", "killed", "ranks", "shards")
    """Which of the four."""

    def run(self) -> int:
        with TemporaryDirectory() as temporary:
            folder = self.folder or Path(temporary)
            prepare(folder, self.pictures)
            begun = Show(self, folder)
            for name in self.only:
                getattr(begun, name)()
        return 0


def prepare(folder: Path, n: int) -> None:
    """n scenes, three of each thousand broken, as files, as shards, and a tenth as a list."""
    scenes, shards = folder / "scenes", folder / "shards"
    note = folder / "drawn.json"
    if note.is_file() and json.loads(note.read_text())["pictures"] == n:
        return
    scenes.mkdir(parents=True, exist_ok=True)
    shards.mkdir(exist_ok=True)
    for number in trange(n, desc="drawing", unit="scene", disable=None):
        path = scenes / f"{number:06d}.png"
        if not path.is_file():
            with replacing(path) as temporary:
                if number % A_SHARD in (7, 77, 777):
                    temporary.write_bytes(BROKEN[number % 3])
                else:
                    draw((SEED, number), SIDE).image.save(temporary, "PNG")
    for start in range(0, n, A_SHARD):
        path = shards / f"data-{start // A_SHARD:06d}.tar"
        with replacing(path) as temporary, tarfile.open(temporary, "w") as tar:
            for number in range(start, min(start + A_SHARD, n)):
                add(tar, f"{number:06d}.png", (scenes / f"{number:06d}.png").read_bytes())
    tenth = "".join(f"scenes/{number:06d}.png\n" for number in range(n // 10))
    (folder / "tenth.txt").write_text(tenth, "utf-8")
    note.write_text(json.dumps({"pictures": n}))


class Show:
    """The four ways, each in a file of its own."""

    def __init__(self, asked: ManyPictures, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }

    def words(self, source: str, out: str) -> list[str]:
        sizes = ["--batch-size", str(self.asked.batch_size)]
        sizes += ["--max-new-tokens", str(self.asked.max_new_tokens)]
        return ["caption", source, "--out", out, *sizes]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a kill reaches what it started
        )

    def finish(self, words: Sequence[str], wanted: int = 1) -> str:
        process = self.start(*words)
        out, err = process.communicate()
        if process.returncode != wanted:
            raise ValueError(f"{' '.join(words[:6])} ended with {process.returncode}: {err[-900:]}")
        return out

    def killed_after(self, words: Sequence[str], lines: int, files: str) -> int:
        """Starts it and kills it once it has written so many lines; how many there are."""
        process = self.start(*words)
        while (count := self.count(files)) < lines and process.poll() is None:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return count

    def count(self, files: str) -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob(files))

    def bytes(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def whole(self) -> None:
        for source, out in (("tenth.txt", "tenth.jsonl"), ("scenes", "whole.jsonl")):
            self.forget(out)
            began = time.monotonic()
            peak = self.finish(["-c", CHILD, *self.words(source, out)]).splitlines()[-1]
            seconds = time.monotonic() - began
            lines = self.count(out)
            say(f"{source}: {lines:,} captions in {seconds:.0f} s, {lines / seconds:.0f}/s; {peak}")
        failed = [json.loads(line) for line in self.bytes("whole.failed.jsonl").splitlines()]
        bad = [n for n in range(self.asked.pictures) if n % A_SHARD in (7, 77, 777)]
        check("the bad pictures are listed", [row["number"] for row in failed] == bad)
        numbers = [json.loads(line)["number"] for line in self.bytes("whole.jsonl").splitlines()]
        good = sorted(set(range(self.asked.pictures)) - set(bad))
        check("all others are captioned once, in order", numbers == good)

    def killed(self) -> None:
        self.forget("killed.jsonl")
        words = ["-m", "captioning", *self.words("scenes", "killed.jsonl")]
        count = self.killed_after(words, self.asked.pictures // 2, "killed.jsonl")
        path = self.folder / "killed.jsonl"
        os.truncate(path, path.stat().st_size - 40)  # as a full disk or a power cut would
        say(f"killed after {count:,} captions, the last line torn")
        self.finish(words)
        self.same("killed.jsonl")

    def ranks(self) -> None:
        self.forget("ranks.jsonl")
        words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "captioning"]
        words += self.words("scenes", "ranks.jsonl")
        count = self.killed_after(words, self.asked.pictures // 2, "ranks.jsonl.job/said-*")
        say(f"two ranks killed after {count:,} captions")
        self.finish(words, wanted=0)
        self.same("ranks.jsonl")

    def shards(self) -> None:
        self.forget("shards.jsonl")
        self.finish(["-m", "captioning", *self.words("shards", "shards.jsonl")])
        said, wanted = ([self.said(name)] for name in ("shards.jsonl", "whole.jsonl"))
        check("shards.jsonl says the same of the same pictures", said == wanted)

    def said(self, name: str) -> list[tuple[int, str, float]]:
        rows: list[dict[str, Any]] = [json.loads(line) for line in self.bytes(name).splitlines()]
        return [(row["number"], row["caption"], row["logprob"]) for row in rows]

    def same(self, name: str) -> None:
        check(f"{name} is whole.jsonl", self.bytes(name) == self.bytes("whole.jsonl"))

    def forget(self, name: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        job = path.with_name(name + ".job")
        if job.is_dir():
            for left in job.iterdir():
                left.unlink()


def check(what: str, right: bool) -> None:
    say(f"{'yes' if right else 'NO'}: {what}")
    if not right:
        raise ValueError(f"not so: {what}.")


def say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(ManyPictures, description=__doc__).run()))
