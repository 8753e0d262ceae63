"""Import: take files that were carried over by hand, each checked, all of them or none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from weights.cache import expanded, folder_of, locked
from weights.check import read_every_tensor
from weights.contents import sha256_of
from weights.download import NoSpace
from weights.fetch import Tell
from weights.manifest import Entry, File, Source, entries, find
from weights.received import Look, keep, look
from weights.tf_checkpoint import CheckpointError

PLACED = ".import."  # begins the name of a file that has not taken its place yet
Found = dict[str, Path]  # a file's name in the manifest -> where it was found


def bring(
    name: str,
    folder: str | Path,
    source: str | None = None,
    *,
    tell: Tell = lambda message: None,
) -> Path:
    """Take the files of `name` from a folder into the cache; the folder there.

    The source is told by the files. A file is known by its name, or by its published SHA-256. All
    are checked before any takes its place; ValueError says got, wanted, and what to do.
    """
    entry, here = find(name), expanded(folder)
    if not here.is_dir():
        raise FileNotFoundError(f"{here} is not a folder. Name the folder that holds the files.")
    chosen, found = _choose(entry, here, source)
    _take(chosen, found, tell)
    for needed in entry.needs:
        only = find(needed).source()
        found = _search(here, only)
        if _lacking(only, found):
            tell(f"{here} holds no {needed}, which {name} needs: python -m weights fetch {needed}")
        else:
            _take(only, found, tell)
    return folder_of(chosen)


def _choose(entry: Entry, here: Path, source: str | None) -> tuple[Source, Found]:
    """The source whose files the folder holds, and where each is."""
    candidates = [entry.source(source)] if source else list(entry.sources)
    found = {candidate.name: _search(here, candidate) for candidate in candidates}
    for candidate in candidates:
        if not _lacking(candidate, found[candidate.name]):
            return candidate, found[candidate.name]
    nearest = max(candidates, key=lambda candidate: len(found[candidate.name]))
    held = sorted(path.name for path in here.iterdir())
    more = ", ..." if len(held) > 8 else ""
    raise ValueError(
        f"{here} holds {', '.join(held[:8]) or 'nothing'}{more}; {entry.name} in the layout of"
        f" {nearest.name} still wants {', '.join(_lacking(nearest, found[nearest.name]))}."
        " Put the missing files there, under these names."
    )


def _search(here: Path, source: Source) -> Found:
    """Each file that is here: under its name, or, where its hash is published, under any."""
    found = {f.name: here / f.name for f in source.files if (here / f.name).is_file()}
    sizes = {path: path.stat().st_size for path in here.iterdir() if path.is_file()}
    for file in source.files:
        if file.name not in found and file.sha256:
            for path, size in sizes.items():
                if _may_be(file, size) and sha256_of(path) == file.sha256:
                    found[file.name] = path
    return found


def _may_be(file: File, size: int) -> bool:
    """Whether it is worth the time to hash a file of this size, where the size is unpublished."""
    if file.size is not None:
        return size == file.size
    return abs(size - file.about) <= max(file.about // 100, 2**16)


def _lacking(source: Source, found: Found) -> list[str]:
    return [f.name for f in source.files if not f.optional and f.name not in found]


def _take(source: Source, found: Found, tell: Tell) -> None:
    """Place every file beside where it goes and check it there; then all take their place."""
    folder = folder_of(source)
    placed: list[Path] = []
    seen: dict[str, Look] = {}
    with locked(folder, tell):
        try:
            for file in source.files:
                if file.name in found:
                    temporary = folder / f"{PLACED}{file.name}"  # keeps its ending
                    temporary.unlink(missing_ok=True)
                    placed.append(temporary)
                    _link_or_copy(found[file.name].resolve(), temporary)
                    seen[file.name] = look(temporary, file, folder)
                    if wrong := seen[file.name].wrong:
                        do = _what_to_do(temporary, file, source)
                        raise ValueError(
                            f"{found[file.name]} is not the {file.name} of {source.folder}:"
                            f" {wrong}. Nothing was imported. {do}"
                        )
            index = [path for path in placed if path.suffix == ".index"]
            if index:
                _read_through(index[0])
            for temporary, (name, it) in zip(placed, seen.items(), strict=True):
                temporary.replace(folder / name)
                keep(folder, name, it.size, it.sha256, str(found[name]))
                tell(f"{name}: {it.size:,} bytes, SHA-256 {it.known or it.sha256}")
        finally:
            for temporary in placed:
                temporary.unlink(missing_ok=True)


def _what_to_do(path: Path, file: File, source: Source) -> str:
    """Whoever took one model for another is told which other has a file of this name and size."""
    size = path.stat().st_size
    for other in entries().values():
        files = [f for each in other.sources if each.folder != source.folder for f in each.files]
        if size != file.size and any(f.name == file.name and f.size == size for f in files):
            return f"It has the size of {other.name}'s: import that, or carry the file over again."
    return "Carry the file over again."


def _read_through(index: Path) -> None:
    """ValueError where an index and its data, each as it should be, are not of one checkpoint."""
    try:
        read_every_tensor(index)
    except CheckpointError as error:
        wrong = str(error).replace(f"{index.parent / PLACED}", "")
        raise ValueError(f"{wrong} Nothing was imported: index and data do not belong.") from None


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:  # on another disk, of another user, or on a file system without links
        need, free = source.stat().st_size, shutil.disk_usage(path.parent).free
        if need > free:
            raise NoSpace(
                f"{source.name} needs {need:,} bytes, and the disk of {path.parent} has {free:,}."
                " Free some, or set GPT2_SCRATCH_CACHE to a folder on another disk."
            ) from None
        shutil.copyfile(source, path)
