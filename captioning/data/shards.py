"""Webdataset shards: plain tar files in which neighbours of one name are a picture and its text.

000000012.jpg   000000012.json   {"image": id, "captions": [...], "split": ...}
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from captioning.data.formats import CAPTION, Parsed, pick
from captioning.data.lookup import leaves
from captioning.data.rows import Bad, Fault, Place, Raw, shorten
from captioning.pictures import EXTENSIONS

LARGEST_TEXT = 2**24  # bytes of a member that is not a picture


def shard_rows(path: Path) -> Parsed:
    """The captions of a shard, ours or anybody's (`.txt`, `.json` with "caption" or "captions").

    Row numbers count the pictures. An id that the shard does not give is its name / the key: keys
    need be different inside one shard only.
    """
    size = path.stat().st_size
    number = 0
    with path.open("rb") as file:
        try:
            for key, group in groupby(_members(file), key=lambda member: _key(member.name)):
                number += 1
                members = list(group)
                try:
                    yield from _captions(number, path, file, key, members, size)
                except Bad as bad:
                    yield Fault(bad.kind, bad.reason, path, number)
        except (tarfile.TarError, EOFError) as error:
            reason = f"the shard breaks off or is damaged ({error}); what comes after is lost"
            yield Fault("truncated", reason, path, number)


def shard_pictures(path: Path) -> Iterator[tuple[str, Place, str | None]]:
    """(name in the tar, place, id) of each picture, with captions or without.

    The id is what the `.json` beside a picture says. TarError where the tar is damaged.
    """
    with path.open("rb") as file:
        for _, group in groupby(_members(file), key=lambda member: _key(member.name)):
            members = list(group)
            image = None
            try:
                held = _text(file, members, ".json")
                image = _fields(held).get("image") if held is not None else None
            except Bad:
                pass  # a caption is what is wanted, so nothing depends on the one beside
            for member in members:
                if os.path.splitext(member.name)[1].lower() in EXTENSIONS:
                    place = Place(os.path.abspath(path), member.offset_data, member.size)
                    yield member.name, place, None if image is None else str(image)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The files of a tar. ReadError where it does not end as a tar ends."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would remember every one
            if member.isreg() and not os.path.basename(member.name).startswith("."):
                yield member
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
        if block != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"no header and no end mark at byte {tar.offset:,}")


def _key(name: str) -> str:
    """Webdataset's key: up to the first dot of the last part."""
    folder, _, last = name.rpartition("/")
    key = last.partition(".")[0]
    return f"{folder}/{key}" if folder else key


def _captions(
    number: int, path: Path, file: BinaryIO, key: str, members: list[tarfile.TarInfo], size: int
) -> Iterator[Raw]:
    pictures = [m for m in members if os.path.splitext(m.name)[1].lower() in EXTENSIONS]
    if leaves(key):
        raise Bad("outside", f"the name {shorten(key)} leads out of its folder")
    if len(pictures) != 1:
        kind = "malformed" if pictures else "missing"
        names = shorten([member.name for member in members])
        raise Bad(kind, f"{len(pictures)} pictures under the key {shorten(key)}: {names}")
    picture = pictures[0]
    if picture.offset_data + picture.size > size:
        raise Bad("truncated", f"the shard ends inside {picture.name}")
    held = _text(file, members, ".json")
    fields = _fields(held) if held is not None else {}
    captions = pick(CAPTION, fields)
    if captions is None:
        text = _text(file, members, ".txt")
        captions = text and [line for line in text.splitlines() if line.strip()]
    if captions is None:
        raise Bad("empty caption", f"{shorten(key)} has neither .txt nor .json with a caption")
    place = Place(os.path.abspath(path), picture.offset_data, picture.size)
    image = fields.get("image", f"{path.stem}/{key}")
    for caption in captions if isinstance(captions, list) and captions else [captions]:
        yield Raw(number, image, caption, fields.get("split"), place=place)


def _text(file: BinaryIO, members: list[tarfile.TarInfo], suffix: str) -> str | None:
    for member in members:
        if member.name.lower().endswith(suffix):
            file.seek(member.offset_data)
            data = file.read(min(member.size, LARGEST_TEXT))
            try:
                return str(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Bad("malformed", f"{member.name} is not UTF-8 ({error.reason})") from None
    return None


def _fields(text: str) -> dict[str, Any]:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Bad("malformed", f"the .json is none ({error})") from None
    if not isinstance(held, dict):
        raise Bad("malformed", f"the .json holds {shorten(held)}, wanted an object")
    return held


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """One member; nothing in it depends on when and by whom it was written."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
