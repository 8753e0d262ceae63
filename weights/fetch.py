"""Fetch what a name stands for: every file of one source, one after the other, into the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from weights.cache import folder_of, locked
from weights.contents import fault
from weights.download import PATIENCE, FetchError, NoSpace, Patience, download
from weights.manifest import File, Source, find
from weights.received import expected_sha256, if_meant, keep, look, read_received

Tell = Callable[[str], None]


def fetch(
    name: str,
    source: str | None = None,
    *,
    force: bool = False,
    patience: Patience = PATIENCE,
    tell: Tell = lambda message: None,
    bar: bool = False,
) -> Path:
    """The folder of `name`, with the files it lacks fetched; `force` fetches those there too.

    FetchError names the file, what was got and wanted, and what to do. What a name needs (GPT-2's
    vocabulary) comes with it; where that fails it is told, for it may lie elsewhere.
    """
    entry = find(name)
    chosen = entry.source(source)
    folder = folder_of(chosen)
    with locked(folder, tell):
        wanted = [file for file in chosen.files if force or not _is_there(folder, file, tell)]
        _check_space(folder, wanted, name)
        for file in wanted:
            try:
                _fetch_file(chosen, file, folder, patience, tell, bar)
            except NoSpace:
                raise
            except FetchError as error:
                if not file.optional:
                    raise FetchError(f"{name}: {error} {_what_to_do(name)}") from None
                tell(f"{name} goes without {file.name}, which it does not need: {error}")
    for needed in entry.needs:
        try:
            fetch(needed, force=force, patience=patience, tell=tell, bar=bar)
        except FetchError as error:
            tell(f"{name} is there, {needed} is not: {error}")
    return folder


def _is_there(folder: Path, file: File, tell: Tell) -> bool:
    """Whether a file is here and as it should be. One that was put here by hand is noted."""
    path = folder / file.name
    if not path.is_file():
        return False
    found = look(path, file, folder)
    if found.wrong:
        tell(f"{path}: {found.wrong}; fetching it again.")
        return False
    if file.name not in read_received(folder):
        keep(folder, file.name, found.size, found.sha256, "found here")
    return True


def _check_space(folder: Path, files: list[File], name: str) -> None:
    parts = [folder / f"{file.name}.part" for file in files]
    arrived = sum(part.stat().st_size for part in parts if part.is_file())
    need, free = sum(file.expected for file in files) - arrived, shutil.disk_usage(folder).free
    if need > free:
        raise NoSpace(
            f"{name} needs {need:,} more bytes, and the disk of {folder} has {free:,}. Free some,"
            " or set GPT2_SCRATCH_CACHE to a folder on another disk."
        )


def _fetch_file(
    source: Source, file: File, folder: Path, patience: Patience, tell: Tell, bar: bool
) -> None:
    sha256, why = expected_sha256(folder, file)
    try:
        got = download(
            source.urls_of(file),
            folder / file.name,
            sha256=sha256,
            size=file.size,
            patience=patience,
            tell=tell,
            bar=bar,
            fault=partial(fault, name=file.name),
        )
    except FetchError as error:
        if sha256 and not file.sha256 and sha256 in str(error):
            raise FetchError(f"{error} Wanted is what it was {why}. {if_meant(folder)}.") from None
        raise
    keep(folder, file.name, got.size, got.sha256, got.url)
    tell(f"{file.name}: {got.size:,} bytes, SHA-256 {why or got.sha256 + ' (unpublished; noted)'}")


def _what_to_do(name: str) -> str:
    return (
        "Check the connection (a proxy: HTTPS_PROXY; a mirror: HF_ENDPOINT, GPT2_SCRATCH_MIRROR)"
        " and run the command again, or carry the files over by hand:"
        f" python -m weights import {name} FOLDER."
    )
