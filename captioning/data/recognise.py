"""Which format a file or folder has, told by what it holds; and its rows, each looked at."""

from __future__ import annotations

import csv
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from captioning.data import formats
from captioning.data.lookup import SUFFIXES, Pictures
from captioning.data.rows import Bad, Fault, Raw, Row, caption_text, image_id, shorten
from captioning.data.shards import shard_rows
from captioning.data.text_files import DELIMITERS, elements, fields_of

HEAD = 2**16  # bytes that tell a format
LOOKED_AT = 50  # lines of them: the first ones may be broken
BINARY = 8  # a file in which more than one byte of so many is zero is no text; UTF-16 is none
TEXTS = frozenset({".jsonl", ".json", ".tsv", ".csv", ".token", ".txt", ".tar"})
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>.*)")

KNOWN = (
    "Localized Narratives or other JSON lines, the article's TSV (id, tab, caption), COCO captions"
    " JSON, a Flickr8k/30k token file, CSV with a header such as image,caption, webdataset .tar"
    " shards, a folder of pictures with .txt beside them"
)


@dataclass
class Reader:
    """The rows of a set, whatever its format: iterate for each Row or Fault, as often as wanted.

    Nothing is held but the row at hand. `pictures` finds pictures where the format gives ids.
    """

    kind: str
    files: list[Path]
    parse: Callable[[Path], formats.Parsed]
    pictures: Pictures
    faults: list[Fault] = field(default_factory=list)  # of the set as a whole

    def __iter__(self) -> Iterator[Row | Fault]:
        yield from self.faults
        for file in self.files:
            for raw in self.parse(file):
                yield raw if isinstance(raw, Fault) else self._look(raw, file)

    def _look(self, raw: Raw, file: Path) -> Row | Fault:
        file = raw.file or file
        try:
            image = self.pictures.below(image_id(raw.image))
            split = formats.side_of(raw.split)
            place = raw.place
            if place is None:
                name = image if raw.name is None else self.pictures.below(image_id(raw.name))
                place = self.pictures.find(name, split)
            return Row(image, caption_text(raw.caption), place, file, raw.row, split)
        except Bad as bad:
            return Fault(bad.kind, bad.reason, file, raw.row)


def read(source: str | Path, images: str | Path | None = None) -> Reader:
    """The reader of a file, or of the files of one format that a folder holds.

    `images` is the folder of pictures, by default the one that the file or its `annotations`
    folder lies in. ValueError names what was found where no format fits, or several.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there, wanted {KNOWN}; check the name.")
    if source.is_file():
        known = recognise(source)
        if known is None:
            raise ValueError(f"{source} {_seen(source)}, wanted {KNOWN}; name another file.")
        files, refused, beside = [source], [], source.parent
        beside = beside.parent if beside.name == "annotations" else beside
    else:
        found = _recognised(source)
        refused = found.pop("", [])
        if not found:
            return _folder(source)
        if len(found) > 1:
            listed = "; ".join(f"{kind}: {files[0].name}" for kind, files in found.items())
            raise ValueError(
                f"{source} holds captions in several formats ({listed}), wanted one; name a file"
                f" and, with --images {source}, its pictures."
            )
        ((kind, files),) = found.items()
        known, beside = recognise(files[0]), source
        assert known is not None and known[0] == kind
    faults = _unreadable(files, refused) + _missing_shards(files, refused)
    return Reader(known[0], files, known[1], Pictures(images or beside), faults)


def recognise(path: Path) -> tuple[str, Callable[[Path], formats.Parsed]] | None:
    """The format of one file and its parser, None where it has none of those known."""
    with path.open("rb") as file:
        data = file.read(HEAD)
    if data[257:262] == b"ustar" and tarfile.is_tarfile(path):
        return "webdataset shards", shard_rows
    if BINARY * data.count(b"\0") > len(data):  # a caption or two may hold one
        return None
    text = data.decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith("{"):
        return _json(path, text)
    lines = [line for line in text.splitlines()[:LOOKED_AT] if line.strip()]
    if any(_json_row(line) for line in lines):
        return "JSON lines", formats.json_lines
    delimiter = _delimiter(lines[0]) if lines else None
    if delimiter is not None:
        return "CSV", partial(formats.csv_rows, delimiter=delimiter)
    if 2 * sum(bool(formats.TOKEN.fullmatch(line)) for line in lines) > len(lines):
        return "Flickr tokens", formats.flickr_tokens
    if 2 * sum(bool(re.match(r"[^\t]+\t.", line)) for line in lines) > len(lines):
        return "the article's TSV", formats.article_tsv
    return None


def _json(path: Path, text: str) -> tuple[str, Callable[[Path], formats.Parsed]] | None:
    """JSON lines or one large object, of which `text` may show a part of the first element."""
    first, _, rest = text.partition("\n")
    lines = [first, *rest.splitlines()[:LOOKED_AT]]
    if any(_json_row(line) for line in lines):
        return "JSON lines", formats.json_lines
    if re.search(r'"(images|annotations)"\s*:\s*\[', text):
        return ("COCO captions", formats.coco_json) if _has_captions(path) else None
    if re.search(r'"image_id"\s*:', first) and '"caption"' in text:
        return "JSON lines", formats.json_lines  # a narrative whose traces are longer than the head
    return None


def _has_captions(path: Path) -> bool:
    """Whether COCO's JSON is one of captions; its boxes and its keypoints begin alike."""
    try:
        for key, _, held in elements(path, ["images", "annotations"]):
            if isinstance(held, dict):
                if {"caption", "captions", "sentences"} & held.keys():
                    return True
                if key == "annotations":
                    return False
    except ValueError:
        return True  # damaged: reading it will say where
    return False


def _json_row(line: str) -> bool:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(held, dict) and bool(
        formats.choose(formats.IMAGE, held) and formats.choose(formats.CAPTION, held)
    )


def _delimiter(line: str) -> str | None:
    """What separates the fields of a CSV header, None where the line is none."""
    for delimiter in DELIMITERS:
        try:
            names = formats.columns(fields_of(line, delimiter))
        except csv.Error:
            continue
        if formats.choose(formats.IMAGE, names) and formats.choose(formats.CAPTION, names):
            return delimiter
    return None


def _recognised(folder: Path) -> dict[str, list[Path]]:
    """The caption files of a folder and of its `annotations`, by format; "" where it has none.

    A text with a picture of its name beside it is that picture's, and no file of captions.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, folder / "annotations"):
        for path in _texts(place) if place.is_dir() else ():
            # Flickr8k's lemmas are the same captions once more, in another spelling.
            if ".lemma." not in path.name:
                known = recognise(path)
                found.setdefault(known[0] if known else "", []).append(path)
    return {kind: sorted(files) for kind, files in found.items()}


def _texts(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.path)
            if suffix not in TEXTS or entry.name.startswith(".") or not entry.is_file():
                continue
            of_picture = suffix in (".txt", ".json") and any(
                os.path.exists(stem + picture) for picture in SUFFIXES if picture
            )
            if not of_picture:
                yield Path(entry.path)


def _folder(source: Path) -> Reader:
    reader = Reader("pictures with .txt", [source], formats.picture_folder, Pictures(source))
    parsed = formats.picture_folder(source)
    if not any(isinstance(found, Raw) or found.kind == "missing" for found in parsed):
        raise ValueError(f"{source} holds no captions, wanted {KNOWN}; name another folder.")
    return reader


def _unreadable(files: list[Path], refused: list[Path]) -> list[Fault]:
    """A fault for each file that should be one of the set and is none: a .tar, one that is empty,
    one whose name differs from theirs in numbers alone."""
    names = {_unnumbered(file) for file in files}
    return [
        Fault("malformed", f"the file {_seen(file)}; no row of it can be read", file, 0)
        for file in refused
        if _unnumbered(file) in names
        or file.suffix == ".tar"
        or (file.suffix != ".txt" and file.stat().st_size == 0)
    ]


def _unnumbered(file: Path) -> Path:
    return file.with_name(re.sub(r"\d+", "0", file.name))


def _missing_shards(files: list[Path], refused: list[Path]) -> list[Fault]:
    """A note for each set of numbered files (`-00003-of-00010`) that is not whole."""
    sets: dict[tuple[str, ...], set[int]] = {}
    for file in files + refused:
        if match := SHARD.fullmatch(file.name):
            key = (str(file.parent), match["stem"], match["count"], match["rest"])
            sets.setdefault(key, set()).add(int(match["number"]))
    faults = []
    for (parent, stem, count, rest), held in sets.items():
        lacking = sorted(set(range(int(count))) - held)
        if lacking and len(files) > 1:  # one named alone is one that was wanted alone
            reason = f"of {count} files {len(lacking)} are not there: {shorten(lacking)}"
            faults.append(Fault("missing shard", reason, Path(parent, stem + rest), 0))
    return faults


def _seen(path: Path) -> str:
    """What a file looks like, for an error."""
    with path.open("rb") as file:
        data = file.read(262)
    if not data:
        return "is empty"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "is UTF-16 (save it as UTF-8)"
    if data[:2] == b"\x1f\x8b":
        return "is compressed (unpack it)"
    return f"begins with {shorten(data[:40])}"
