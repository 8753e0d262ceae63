"""`data`: sets of captioned pictures, fetched, checked, counted and packed."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import subcommand

from captioning.commands.shared import at_least
from weights.console import one_line

if TYPE_CHECKING:
    from captioning.data.check import Report
    from captioning.data.index import Index
    from captioning.data.rows import Fault
    from gpt2_scratch.tokenizer import Tokenizer

Set = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|FOLDER")]
Scheme = Literal["hash", "article", "official"]


@dataclass(frozen=True)
class Options:
    """What says where a set lies and how it is read."""

    source: Set
    """Localized Narratives or other JSON lines, the article's TSV, COCO captions JSON, Flickr8k/30k
    tokens, CSV, webdataset shards, or a folder of pictures with .txt beside them."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the pictures are, if not in the folder of the captions."""
    split: Scheme = "hash"
    """By picture, 0.8/0.1/0.1 through a hash of its id; the article's shuffled lines, of which
    pictures leak; or the official one where the files bring it."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="gpt2|FOLDER")] = None
    """Counts a caption's tokens: "gpt2", or a folder with a tokenizer.json. Without it, its pieces,
    words and signs, which are a little fewer and need no vocabulary."""
    longest: int = 256
    """A caption with more tokens is left out."""

    @contextmanager
    def index(self, **others: int) -> Iterator[Index]:
        """The set's index, for as long as it is looked at; `others` must be at least 1 too."""
        at_least(1, longest=self.longest, **others)
        from captioning.data.build import open_index
        from captioning.data.index import told

        with (
            tempfile.TemporaryDirectory() as folder,
            told(folder),
            open_index(
                self.source,
                Path(folder, "index.sqlite"),
                images=self.images,
                split=self.split,
                tokenizer=load_tokenizer(self.tokenizer),
                longest=self.longest,
            ) as index,
        ):
            yield index


@dataclass(frozen=True)
class Check(Options):
    """Decode every picture, look at every caption, and list what can't be used, a line each.

    Exit code: 0; 1 where rows can't be used; 2 where the set can't be read, or none of its rows.
    """

    workers: int = 2
    """Threads that decode pictures."""
    json: bool = False
    """JSON lines: one a fault, the last with the counts."""

    def run(self) -> int:
        from captioning.data.check import check

        with self.index(workers=self.workers) as index:
            report = check(index, workers=self.workers)
            _print_faults(index.faults(), as_json=self.json)
        print(json.dumps(asdict(report)) if self.json else _table(report))
        return 0 if report.is_clean else 1


@dataclass(frozen=True)
class Stats(Options):
    """Count captions and pictures, and draw how long and how large they are."""

    pictures: int = 1000
    """About how many pictures are looked at for their sizes; of the others nothing is read."""
    json: bool = False
    """One line of JSON instead of text."""

    def run(self) -> int:
        from captioning.data.stats import as_json, as_text, statistics

        with self.index(pictures=self.pictures) as index:
            found = statistics(index, pictures=self.pictures)
        if self.json:
            print(json.dumps(as_json(found)))
        else:
            unit = "pieces" if self.tokenizer is None else "tokens"
            print(f"{_table(found.report)}\n\n{as_text(found, unit)}")
        return 0


@dataclass(frozen=True)
class Pack(Options):
    """Write webdataset shards: tar files of pictures, unchanged, with their captions beside them.

    Killed, it goes on where it was when started again. What can't be used is listed and left out.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("shards")
    """Where data-000000.tar and the others go."""
    only: Literal["train", "validation", "test"] | None = None
    """This side alone; every picture where not given."""
    pictures_a_shard: int = 1000
    """Pictures in a tar file."""

    def run(self) -> int:
        from captioning.data.packing import left_out, pack

        with self.index(pictures_a_shard=self.pictures_a_shard) as index:
            _print_faults(index.faults(), as_json=False)
            done = pack(index, self.out, side=self.only, pictures_a_shard=self.pictures_a_shard)
        _print_faults(left_out(self.out), as_json=False)
        print(
            f"{done.pictures:,} pictures with {done.captions:,} captions in {done.shards:,} shards"
            f" of {one_line(self.out)}, {done.bytes / 1e6:,.1f} MB; {done.skipped:,} pictures left"
            " out."
        )
        return 0


@dataclass(frozen=True)
class Fetch:
    """Fetch a part of a public set: captions, pictures by id, and each picture's licence.

    Killed, it goes on where it was when started again. Exit code: 0; 1 where pictures failed, which
    failures-SPLIT.csv lists; 2 where nothing goes.
    """

    name: Annotated[
        Literal["open-images", "coco"],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="open-images|coco"),
    ]
    """Localized Narratives of Open Images, or COCO 2017 with five captions a picture."""
    split: Literal["train", "validation", "test"] = "train"
    """The official split that pictures are chosen from."""
    n: int = 20_000
    """How many pictures, of about 0.3 MB each; with more of one seed the others stay."""
    seed: int = 0
    """Which pictures."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("data")
    """Where they go; what is there is not fetched again."""
    mirror: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """An address that has every file at MIRROR/HOST/PATH; nothing else is asked then."""
    workers: int = 16
    """Pictures that are fetched at a time."""
    timeout: float = 30.0
    """Seconds without an answer that end an attempt."""
    retries: int = 4
    """Of an attempt, without progress between."""

    def run(self) -> int:
        at_least(1, n=self.n, workers=self.workers)
        at_least(0, seed=self.seed, retries=self.retries)
        from captioning.data.fetching import fetch
        from weights.download import Patience

        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"got --timeout {self.timeout}, wanted seconds above 0; change it.")
        done = fetch(
            self.name,
            self.out,
            split=self.split,
            n=self.n,
            seed=self.seed,
            mirror=self.mirror,
            workers=self.workers,
            patience=Patience(
                connect=min(self.timeout, 10.0), read=self.timeout, retries=self.retries
            ),
            tell=_tell,
        )
        print(
            f"{done.pictures:,} pictures with {done.captions:,} captions in {one_line(self.out)},"
            f" {done.new:,} of them new; {done.failed:,} failed.\n"
            f"Look at them with: python -m captioning data check {one_line(self.out)}"
        )
        return 1 if done.failed else 0


@dataclass(frozen=True)
class Data:
    """Sets of captioned pictures: fetch them, check them, count them, pack them."""

    action: Annotated[
        Annotated[Fetch, subcommand("fetch", prefix_name=False)]
        | Annotated[Check, subcommand("check", prefix_name=False)]
        | Annotated[Stats, subcommand("stats", prefix_name=False)]
        | Annotated[Pack, subcommand("pack", prefix_name=False)],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        return self.action.run()


def load_tokenizer(name: str | None) -> Tokenizer | None:
    """GPT-2's, the one of a folder, or none."""
    from gpt2_scratch.tokenizer import BPETokenizer, gpt2_tokenizer

    if name is None:
        return None
    return gpt2_tokenizer() if name == "gpt2" else BPETokenizer.load(name)


def _tell(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(one_line(message), file=sys.stderr)  # above a progress bar, not into it


def _print_faults(faults: Iterable[Fault], *, as_json: bool) -> None:
    for fault in faults:
        fields = {**asdict(fault), "file": str(fault.file)} if as_json else None
        print(json.dumps(fields) if fields else one_line(fault))


def _table(report: Report) -> str:
    from captioning.data.rows import KINDS, NOTES

    lines = [
        f"{report.kind}: {report.rows:,} rows, of which {report.usable:,} can be used; they caption"
        f" {report.pictures:,} pictures"
    ]
    for side, counts in report.sides.items():
        lines.append(f"  {counts['captions']:>9,} {side}, {counts['pictures']:,} pictures")
    if report.leaks:
        lines.append(
            f"  {report.leaks:>9,} pictures have captions on more than one side: they leak"
        )
    if report.duplicates_on_two_sides:
        twice = report.duplicates_on_two_sides
        lines.append(f"  {twice:>9,} pictures lie, byte for byte, on two sides under other ids")
    for title, notes in (("left out", False), ("noted, and kept", True)):
        kinds = {kind: n for kind, n in report.faults.items() if (kind in NOTES) == notes}
        if kinds:
            lines.append(f"{title}:")
            lines += [f"  {n:>9,} {kind}: {KINDS[kind]}" for kind, n in kinds.items()]
    return "\n".join(lines)
