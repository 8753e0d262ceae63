"""Small sets of captioned pictures, whole and with faults, for the tests of `captioning.data`."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from captioning.data.recognise import read
from captioning.data.rows import Fault, Row


def picture_bytes(number: int = 0, form: str = "PNG", size: tuple[int, int] = (6, 4)) -> bytes:
    """A picture whose pixels are those of its number alone."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def huge_png() -> bytes:
    """A PNG whose header promises more pixels than anything should decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def pictures(folder: Path, names: Iterable[str]) -> None:
    """A different picture under each name."""
    for number, name in enumerate(names):
        put(folder / name, picture_bytes(number))


def narrative(image: Any, caption: Any, split: str = "train") -> str:
    """A line of a Localized Narratives file, traces and all."""
    trace = [{"x": 0.2086, "y": -0.0533, "t": 0.022}, {"x": 0.3, "y": 0.5, "t": 0.5}]
    held = {
        "dataset_id": f"open_images_{split}",
        "image_id": image,
        "annotator_id": 93,
        "caption": caption,
        "timed_caption": [{"utterance": "In this", "start_time": 0.0, "end_time": 0.4}],
        "traces": [trace],
        "voice_recording": "x/y.ogg",
    }
    return json.dumps(held) + "\n"


def narratives(folder: Path, count: int, captions: int = 1) -> Path:
    """`count` pictures with `captions` narratives each, all usable."""
    ids = [f"{number:016x}" for number in range(1, count + 1)]
    pictures(folder / "train", [f"{image}.jpg" for image in ids])
    said = (
        narrative(image, f"In this image {turn} we see {image}" + " and more" * (number % 9) + ".")
        for turn in range(captions)
        for number, image in enumerate(ids)
    )
    return put(folder / "open_images_train_v6_localized_narratives.jsonl", "".join(said))


def rows(source: Path, images: Path | None = None) -> list[Row]:
    return [row for row in read(source, images) if isinstance(row, Row)]


def faults(source: Path, images: Path | None = None) -> list[Fault]:
    return [row for row in read(source, images) if isinstance(row, Fault)]


def kinds(found: Iterable[Fault]) -> list[tuple[str, int]]:
    """(kind, row) of each."""
    return [(fault.kind, fault.row) for fault in found]


def said(found: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """(image, caption) of each."""
    return ((row.image, row.caption) for row in found)
