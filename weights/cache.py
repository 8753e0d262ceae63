"""Where fetched files lie: ~/.cache/gpt2-scratch, or the folder that GPT2_SCRATCH_CACHE names.

gpt2-large/openai/hparams.json      <name>/<source>/<file>; a name of one source: <name>/<file>
gpt2-large/openai/received.json     bytes and SHA-256 of each file when it came, and from where
gpt2-large/openai/*.part            what has arrived so far of a file
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weights.manifest import Entry, File, Source, find


def cache_folder() -> Path:
    """The folder below which everything fetched lies; it need not exist yet."""
    return expanded(os.environ.get("GPT2_SCRATCH_CACHE") or "~/.cache/gpt2-scratch")


def expanded(folder: str | Path) -> Path:
    """A folder that may begin with ~; FileNotFoundError where nobody's home folder is meant."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise FileNotFoundError(
            f"{folder} begins in a home folder that is not known here. Name the folder in full"
            " (for fetched weights: GPT2_SCRATCH_CACHE)."
        ) from None


def model_folder(name: str, source: str | None = None) -> Path:
    """Where the files of a name go (of its default source, unless told); it need not exist yet."""
    return folder_of(find(name).source(source))


def folder_of(source: Source) -> Path:
    return cache_folder() / source.folder


def locate(name: str, source: str | None = None) -> Path:
    """The folder with the files of a name: of `source`, or of the first source that is there.

    FileNotFoundError says how to get them, and what works without. Sizes are looked at, hashes
    are not: `python -m weights check` reads every byte.
    """
    entry = find(name)
    candidates = [entry.source(source)] if source else list(entry.sources)
    for candidate in candidates:
        if is_whole(candidate):
            return folder_of(candidate)
    raise FileNotFoundError(_not_there(entry, candidates, source))


def is_whole(source: Source) -> bool:
    """Every file that a model needs is there, in its published size."""
    return not missing_files(source)


def missing_files(source: Source) -> list[File]:
    """The files that are needed and not there, or not in their published size."""
    folder = folder_of(source)
    return [file for file in source.files if not file.optional and not has_size(folder, file)]


def has_size(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and file.size in (None, path.stat().st_size)


@contextmanager
def locked(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Only one process at a time writes into a folder; a killed one leaves no lock behind.

    What the system says of a folder that can't be written to is told with what to do.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"Another process is writing into {folder}; waiting for it.")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()
    except OSError as error:
        if error.errno is None:  # one of ours, which says all that
            raise
        raise OSError(
            f"{error.filename or folder}: {error.strerror}, wanted to write into {folder}. Make"
            " that possible (rights, room, what is in the way), or name another folder"
            " (GPT2_SCRATCH_CACHE for fetched weights)."
        ) from None


def _not_there(entry: Entry, candidates: list[Source], source: str | None) -> str:
    started = [c for c in candidates if folder_of(c).is_dir()]
    if started:
        names = ", ".join(file.name for file in missing_files(started[0]))
        seen = f"{folder_of(started[0])} lacks {names}"
    else:
        seen = f"{cache_folder()} holds no {entry.name}"
    option = f" --source {source}" if source else ""
    return (
        f"{seen}. Run: python -m weights fetch {entry.name}{option}, or, with files carried over by"
        f" hand, python -m weights import {entry.name} FOLDER. What works without: the embedded"
        " model `scenes`."
    )
