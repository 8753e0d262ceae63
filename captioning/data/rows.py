"""A row: one caption of one picture. And a fault: why a row can't be used."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")

# What can be wrong with a row. All but the notes take the row out.
KINDS = {
    "malformed": "the row is not what its format asks for",
    "outside": "the image id leads out of the folder of pictures",
    "missing": "there is no such picture",
    "empty picture": "the picture's file holds no byte",
    "truncated": "the picture's file ends before the picture does",
    "corrupt": "the picture can't be decoded",
    "oversized": "the picture has too many pixels or bytes",
    "empty caption": "the caption has no visible character",
    "long caption": "the caption is longer than the limit",
    "control characters": "the caption holds characters that are no text",
    "no split": "the row belongs to none of the official splits",
    "two splits": "another row puts the picture into another official split; the first stays",
    "same id": "another picture has this id; the later one is called by its file",
    "missing shard": "a numbered file of the set is not there",
    "duplicate": "another id has the same picture, byte for byte",
    "duplicate caption": "the picture has this caption already",
}
AROUND = " \t\r\n\u00a0\u3000\ufeff"  # what is taken off both ends of a caption without a word
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # line breaks too: a caption is one line of text
NOTES = frozenset(
    {"two splits", "same id", "missing shard", "duplicate", "duplicate caption"}
)  # these rows are kept


class Place(NamedTuple):
    """Where a picture's bytes lie: a file, or `size` bytes at `offset` of a tar file."""

    path: str  # a Path would intern its parts, and there are as many as rows
    offset: int = 0
    size: int = -1  # -1: the whole file

    def __str__(self) -> str:
        return self.path if self.size < 0 else f"{self.path} at byte {self.offset}"


@dataclass(frozen=True, slots=True)
class Row:
    """One caption of one picture; `row` counts from 1 in `file`, by lines or by elements."""

    image: str
    caption: str
    place: Place
    file: Path
    row: int
    split: Side | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row can't be used, or what is to be noted about it; `row` 0 stands for its file."""

    kind: str
    reason: str
    file: Path
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}: {self.kind}: {self.reason}"


class Raw(NamedTuple):
    """What a format's parser found in a row, not yet looked at."""

    row: int
    image: Any
    caption: Any
    split: Any = None
    name: Any = None  # of the picture's file, where it is not the id
    place: Place | None = None  # where the format itself says it
    file: Path | None = None  # where the row stands, if not in what the parser was given


class Bad(ValueError):
    """A fault of the row or the picture at hand; whoever reads the file adds where that is."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind, self.reason = kind, reason


def image_id(value: Any) -> str:
    """An id as text, whether the file has it as a number or as a string."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Bad("malformed", f"the image id is {shorten(value)}, wanted a string or whole number")
    text = str(value).strip()
    if not text:
        raise Bad("malformed", "the image id is empty")
    return _text(text, "image id")


def caption_text(value: Any) -> str:
    """A caption without the white space around it; Bad where it is no text to learn."""
    if not isinstance(value, str):
        raise Bad("malformed", f"the caption is {shorten(value)}, wanted a string")
    text = _text(value, "caption").strip(AROUND)
    control = CONTROL.search(text)
    if control:
        raise Bad("control characters", f"{control[0]!r} at character {control.start() + 1}")
    if all(unicodedata.category(character)[0] in "CZ" for character in text):
        raise Bad("empty caption", f"the caption is {shorten(value)}")
    return text


def side_of(name: Any) -> Side | None:
    """The official split that a name speaks of: "val2017", "open_images_train_v6", "restval"."""
    found = re.search(
        r"(?<![a-z])(restval|train|validation|valid|val|dev|test)(?![a-z])", str(name or "").lower()
    )
    if not found:
        return None
    # COCO's restval is what its Karpathy split adds to the training pictures.
    if found[1] in ("train", "restval"):
        return "train"
    return "test" if found[1] == "test" else "validation"


def shorten(value: Any) -> str:
    """A value as it may stand in an error: at most 60 characters, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(value: str, what: str) -> str:
    """`value`; Bad where it holds half of a surrogate pair, which no UTF-8 file can."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise Bad("malformed", f"the {what} holds {half!r}, half of a character") from None
    return value
