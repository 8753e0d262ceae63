"""A set as webdataset shards: tar files of pictures, unchanged, with their captions beside them.

data-000000.tar    000000001.jpg, 000000001.json, ...; whole or not there
data-000000.json   how many pictures and captions, and what was left out
pack.json          what the shards were made of
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioning.data.index import Index, Picture
from captioning.data.opening import look, read_bytes
from captioning.data.rows import Bad, Fault, Side
from captioning.data.shards import add
from weights.store import read_json, replacing, write_json

NAME, MANIFEST = "data", "pack.json"
SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


@dataclass(frozen=True)
class Packed:
    """What lies in a folder of shards, and what was left out of it."""

    shards: int
    pictures: int
    captions: int
    bytes: int
    skipped: int  # pictures


def pack(
    index: Index, folder: str | Path, *, side: Side | None = None, pictures_a_shard: int = 1000
) -> Packed:
    """Every picture of an index (or of a side) that can be decoded, with its captions.

    Killed and started again it goes on after the last whole shard. ValueError where the folder
    holds shards of something else.
    """
    folder = Path(folder)
    files = [Path(file) for file, *_ in index.identity["files"]]
    if any(folder.resolve() in (file, file.parent) for file in files):
        raise ValueError(
            f"{folder} holds the set itself, wanted another folder for its shards; change --out."
        )
    if side is not None and not index.one("SELECT count(*) FROM captions WHERE side = ?", side):
        raise ValueError(f"no caption of the set is for {side}; choose another side or split.")
    manifest = {
        "fingerprint": index.fingerprint,
        "split": index.identity["split"],
        "side": side,
        "pictures_a_shard": pictures_a_shard,
    }
    if (folder / MANIFEST).is_file():
        held = read_json(folder / MANIFEST)
        if held != manifest:
            raise ValueError(
                f"{folder} holds shards of something else ({MANIFEST} has {held}, wanted"
                f" {manifest}); name another folder, or delete that one."
            )
    else:
        try:
            write_json(folder / MANIFEST, manifest)
        except OSError as error:
            raise OSError(
                f"{folder} can't be written ({error.strerror}), wanted a folder for the shards;"
                " make that possible, or change --out."
            ) from None
    for left in folder.glob(f".{NAME}-*"):  # what a kill left half written
        left.unlink()
    shards = pictures = captions = size = skipped = 0
    total = index.one("SELECT count(*) FROM images") if side is None else None
    with tqdm(total=total, desc="packing", unit="picture", disable=None) as bar:
        for number, chunk in enumerate(_chunks(index.pictures(side), pictures_a_shard)):
            done = _shard(folder / f"{NAME}-{number:06}.tar", chunk)
            shards += bool(done["pictures"])
            pictures += done["pictures"]
            captions += done["captions"]
            size += done["bytes"]
            skipped += len(done["skipped"])
            bar.update(len(chunk))
    return Packed(shards, pictures, captions, size, skipped)


def left_out(folder: str | Path) -> Iterator[Fault]:
    """The pictures that are in none of a folder's shards; row 0, as they are no row."""
    for path in sorted(Path(folder).glob(f"{NAME}-*.json")):
        for kind, reason, file in read_json(path)["skipped"]:
            yield Fault(kind, reason, Path(file), 0)


def _chunks(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    while chunk := list(islice(pictures, size)):
        yield chunk


def _shard(path: Path, pictures: list[Picture]) -> dict[str, Any]:
    """One shard, unless it is there; the note beside it, which is written after it, says so."""
    note = path.with_suffix(".json")
    if note.is_file():
        done: dict[str, Any] = read_json(note)
        if done["bytes"] == (path.stat().st_size if path.is_file() else 0):
            return done
    packed = captions = 0
    skipped = []
    with (
        replacing(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for picture in pictures:
            try:
                seen, data = look(picture.place), read_bytes(picture.place)
            except Bad as bad:
                skipped.append([bad.kind, bad.reason, picture.place.path])
                continue
            fields: dict[str, Any] = {"image": picture.image, "captions": picture.captions}
            if picture.split is not None:
                fields["split"] = picture.split
            key = f"{picture.number:09}"
            add(tar, f"{key}.{SUFFIXES[seen.format]}", data)
            add(tar, f"{key}.json", json.dumps(fields, ensure_ascii=False).encode())
            packed += 1
            captions += len(picture.captions)
    if not packed:
        path.unlink()
    size = path.stat().st_size if packed else 0
    done = {"pictures": packed, "captions": captions, "bytes": size, "skipped": skipped}
    write_json(note, done)
    return done
