"""What there is to caption: pictures of folders, list files and webdataset shards, one by one."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captioning.data.rows import Place
from captioning.data.shards import shard_pictures
from captioning.data.text_files import lines
from captioning.pictures import EXTENSIONS

LISTS = frozenset({".txt", ".lst", ".list"})
SHARD = ".tar"


class Item(NamedTuple):
    """A picture to caption, or, where there is no place, the reason why not.

    `order` is what it is sorted by; items of one order stay as they came. `image` is its id.
    """

    name: str
    place: Place | None
    order: tuple[int, bytes] = (0, b"")
    image: str | None = None
    reason: str = ""


def is_many(path: Path) -> bool:
    """Whether a file's name says that it names or holds pictures: a list, a shard."""
    return path.suffix.lower() in {*LISTS, SHARD} and not path.is_dir()


def items(sources: Iterable[Path]) -> Iterator[Item]:
    """Every picture; sorted by `order` they are as the sources were given, folders by name."""
    for number, path in enumerate(_paths(sources)):
        if isinstance(path, Item):
            yield path._replace(order=(number, b""))
        elif path.is_dir():
            yield from _folder(path, number)
        else:
            yield from _file(path, (number, b""))


def _paths(sources: Iterable[Path]) -> Iterator[Path | Item]:
    """The sources, and in place of a list file what its lines name.

    Those count from the folder that the list lies in.
    """
    for source in sources:
        if source.suffix.lower() not in LISTS or source.is_dir():
            yield source
        elif not source.is_file():
            reason = f"{source} is not there, wanted a list of pictures; check the name."
            yield Item(str(source), None, reason=reason)
        else:
            for number, line in lines(source):
                if isinstance(line, str):
                    yield source.parent / line.strip()
                else:
                    reason = f"{source}, line {number}: {line.reason}; correct it."
                    yield Item(f"{source}:{number}", None, reason=reason)


def _file(path: Path, order: tuple[int, bytes]) -> Iterator[Item]:
    if path.suffix.lower() != SHARD:
        yield Item(str(path), Place(os.path.abspath(path)), order)
        return
    try:
        for member, place, image in shard_pictures(path):
            yield Item(os.path.join(path, member), place, order, image)
    except (tarfile.TarError, OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or error
        reason = f"{path} can't be read to its end ({why}), wanted a tar file; get it again."
        yield Item(str(path), None, order, reason=reason)


def _folder(folder: Path, number: int) -> Iterator[Item]:
    """The pictures and shards of a folder to its depths, as `captioning.pictures` finds them."""
    unreadable: list[OSError] = []
    empty = True
    for parent, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if not name.startswith(".") and suffix in {*EXTENSIONS, SHARD}:
                path = Path(parent, name)
                empty = False
                yield from _file(path, (number, _key(path)))
    for error in unreadable:
        path = Path(os.fsdecode(error.filename))
        reason = f"{path} can't be searched ({error.strerror}); change its permissions."
        yield Item(str(path), None, (number, _key(path)), reason=reason)
    if empty and not unreadable:
        reason = f"{folder} holds no picture, wanted at least one; name another folder."
        yield Item(str(folder), None, (number, b""), reason=reason)


def _key(path: Path) -> bytes:
    """Sorts as Path does: a folder's parts before what only begins like it."""
    return os.fsencode(path).replace(os.fsencode(os.sep), b"\0")


def stamps(sources: Sequence[Path]) -> list[list[Any]]:
    """What a job is of: whole paths, and of lists and shards what tells that they changed."""
    found: list[list[Any]] = []
    for source in sources:
        stamp: list[Any] = [os.path.abspath(source)]
        if is_many(source) and source.is_file():
            held = source.stat()
            stamp += [held.st_size, held.st_mtime_ns]
        found.append(stamp)
    return found
