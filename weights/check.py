"""Are the files of a name what they should be: there, whole, unchanged, and do they open?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weights.cache import folder_of, is_whole, locate
from weights.manifest import File, Source, find
from weights.received import look
from weights.tf_checkpoint import CheckpointError, read_checkpoint


@dataclass(frozen=True)
class Finding:
    """What was found of one file; a model of which every finding is `good` is whole."""

    file: str
    good: bool
    text: str


def check(name: str, source: str | None = None) -> tuple[Path, Iterator[Finding]]:
    """The folder of a name, and a finding a file, as they are read.

    Of `source`, or of the first that is there, or is begun; FileNotFoundError where none is.
    """
    entry = find(name)
    begun = [s for s in entry.sources if any((folder_of(s) / f.name).exists() for f in s.files)]
    begun.sort(key=lambda source: not is_whole(source))
    chosen = entry.source(source) if source or not begun else begun[0]
    if chosen not in begun:
        locate(name, source)  # raises, and says what to do
    return folder_of(chosen), _findings(chosen)


def _findings(source: Source) -> Iterator[Finding]:
    folder = folder_of(source)
    for file in source.files:
        yield _find(folder, file)
    index = [file.name for file in source.files if file.name.endswith(".index")]
    if index:
        yield _read_tensorflow(folder, index[0])


def _find(folder: Path, file: File) -> Finding:
    path = folder / file.name
    if file.optional and not path.exists():
        return Finding(file.name, True, "not there, and not needed")
    seen = look(path, file, folder)
    if seen.wrong:
        return Finding(file.name, False, seen.wrong)
    which = seen.known or f"unpublished: {seen.sha256}"
    return Finding(file.name, True, f"{seen.size:,} bytes, SHA-256 {which}")


def _read_tensorflow(folder: Path, index: str) -> Finding:
    try:
        count = read_every_tensor(folder)
    except CheckpointError as error:
        # Unpublished files are held against their first arrival, which may have been broken.
        more = f"Where that changes nothing, delete {folder} first"
        return Finding(index, False, f"does not open: {error} {more}")
    return Finding(index, True, f"opens: {count} tensors, each with the checksum it should")


def read_every_tensor(place: Path) -> int:
    """How many tensors a checkpoint has; CheckpointError where one lacks the checksum it should."""
    checkpoint = read_checkpoint(place, verify=True)
    for name in checkpoint:
        checkpoint[name]
        checkpoint.release(name)
    return len(checkpoint)
