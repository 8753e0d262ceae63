"""Who is for training, validation and test: by picture, never by caption (but for the article)."""

from __future__ import annotations

import os
import random
from array import array
from hashlib import blake2b
from typing import Literal

from captioning.data.rows import SIDES, Side
from captioning.pictures import EXTENSIONS

Scheme = Literal["hash", "article", "official", "none"]

SHARES = (0.8, 0.1, 0.1)  # of SIDES


def canonical(image: str) -> str:
    """One spelling for what names one picture: 139, "139", "000000000139", "./000000000139.jpg"."""
    stem, suffix = os.path.splitext(os.path.normpath(image))
    name = stem if suffix.lower() in EXTENSIONS else os.path.normpath(image)
    return (name.lstrip("0") or "0") if name.isascii() and name.isdecimal() else name


def hash_side(image: str) -> Side:
    """The side of a picture by its id alone: it stays where it is when others come or go."""
    digest = blake2b(canonical(image).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    for side, end in zip(SIDES, (SHARES[0], SHARES[0] + SHARES[1]), strict=False):
        if share < end:
            return side
    return SIDES[-1]


def article_sides(rows: int) -> bytearray:
    """The article's split: lines shuffled with seed 0, the first tenth test, the next validation.

    One byte a row, its side's place in SIDES; four more while it is made (507,444 rows: 2.5 MB).
    """
    order = array("I", range(rows))
    random.Random(0).shuffle(order)  # what random.seed(0), random.shuffle(lines) do to the lines
    tenth = rows // 10
    sides = bytearray(rows)
    for place in range(min(2 * tenth, rows)):
        sides[order[place]] = SIDES.index("test" if place < tenth else "validation")
    return sides
