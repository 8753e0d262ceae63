"""The formats of captions, each read row by row: what stands there, not yet whether it is usable.

A parser takes a file and yields a Raw for each row, or a Fault where there is no row to be read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from captioning.data.rows import Bad, Fault, Raw, image_id, shorten, side_of
from captioning.data.text_files import OnDisk, elements, lines, records
from captioning.pictures import EXTENSIONS

Parsed = Iterator[Raw | Fault]
Parser = Callable[[Path], Parsed]

# Names of columns and keys, in the order in which they are preferred.
NAME = ("image", "file_name", "filename", "file", "image_name", "image_path", "filepath", "path")
IMAGE = ("image_id", *NAME)
CAPTION = ("caption", "captions", "text", "comment", "description", "sentence")
TOKEN = re.compile(r"(?P<image>[^\t]+)#\d+\t(?P<caption>.*)")  # 1000268201_693b08cb0e.jpg#0\tA ...


def choose(names: tuple[str, ...], among: Any) -> str | None:
    """The first of `names` that is there."""
    return next((name for name in names if name in among), None)


def pick(names: tuple[str, ...], among: dict[str, Any]) -> Any:
    """What stands under the first of `names` that is there; None where none is."""
    name = choose(names, among)
    return None if name is None else among[name]


def columns(names: list[str]) -> list[str]:
    """The names of a CSV header as IMAGE and CAPTION spell them: "Image Name" -> image_name."""
    return [name.strip().lower().replace(" ", "_") for name in names]


def json_lines(path: Path) -> Parsed:
    """Localized Narratives, and any JSON lines with an image and its caption or captions.

    `image_id`, `caption` and `dataset_id` as Google has them; what else a line holds is not kept.
    """
    for number, line in lines(path):
        try:
            if isinstance(line, Bad):
                raise line
            yield from _object(number, _json_object(line), side_of(path.name))
        except Bad as bad:
            yield Fault(bad.kind, bad.reason, path, number)


def _object(number: int, held: dict[str, Any], split: Any) -> Iterator[Raw]:
    image, caption = choose(IMAGE, held), choose(CAPTION, held)
    if image is None or caption is None:
        lacking = "image" if image is None else "caption"
        raise Bad("malformed", f"the line has no {lacking}, but {shorten(list(held))}")
    split = side_of(held.get("split")) or side_of(held.get("dataset_id")) or split
    captions = held[caption]
    for text in captions if isinstance(captions, list) and captions else [captions]:
        yield Raw(number, held[image], text, split, pick(NAME, held))


def _json_object(line: str) -> dict[str, Any]:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Bad("malformed", f"the line is no JSON ({error})") from None
    if not isinstance(held, dict):
        raise Bad("malformed", f"the line holds {shorten(held)}, wanted an object")
    return held


def article_tsv(path: Path) -> Parsed:
    """The article's `dataset.txt`: an image id, a tab, a caption."""
    for number, line in lines(path):
        if isinstance(line, Bad):
            yield Fault(line.kind, line.reason, path, number)
            continue
        image, tab, caption = line.partition("\t")
        if tab:
            yield Raw(number, image, caption)
        else:
            yield Fault("malformed", f"no tab in {shorten(line)}", path, number)


def flickr_tokens(path: Path) -> Parsed:
    """Flickr8k's and Flickr30k's token files: `name.jpg#0`, a tab, a caption.

    Flickr8k's official split is taken from the three lists of names that lie beside.
    """
    with closing(OnDisk()) as sides:
        for name, side in (("train", "train"), ("dev", "validation"), ("test", "test")):
            for listed in sorted(path.parent.glob(f"*{name}Images.txt")):
                for _, line in lines(listed):
                    if isinstance(line, str):
                        sides[line.strip()] = side
        for number, line in lines(path):
            if isinstance(line, Bad):
                yield Fault(line.kind, line.reason, path, number)
            elif token := TOKEN.fullmatch(line):
                yield Raw(number, token["image"], token["caption"], sides.get(token["image"]))
            else:
                reason = f"no name#number and tab in {shorten(line)}"
                yield Fault("malformed", reason, path, number)


def csv_rows(path: Path, delimiter: str) -> Parsed:
    """CSV with a header that names an image and a caption; a column `split` is its official split.

    The rows after a broken one are read as if it were not there.
    """
    rows = records(path, delimiter)
    _, names = next(rows)
    assert not isinstance(names, Bad)  # else it would not have been recognised
    header = columns(names)
    image, caption = choose(IMAGE, header), choose(CAPTION, header)
    assert image is not None and caption is not None
    for number, fields in rows:
        if isinstance(fields, Bad):
            yield Fault(fields.kind, fields.reason, path, number)
        elif len(fields) != len(header):
            reason = f"{len(fields)} fields, the header has {len(header)}: {shorten(fields)}"
            yield Fault("malformed", reason, path, number)
        else:
            held = dict(zip(header, fields, strict=True))
            split = side_of(held.get("split")) or side_of(path.name)
            yield Raw(number, held[image], held[caption], split, pick(NAME, held))


def coco_json(path: Path) -> Parsed:
    """COCO's captions JSON, a file of one large object, and Karpathy's, with the captions inside.

    Read twice: for the pictures' names, which go into a table on the disk, then for the captions.
    """
    split = side_of(path.stem)
    with closing(OnDisk()) as names:
        yield from _coco_images(path, split, names)
        try:
            for _, number, held in elements(path, ["annotations"]):
                try:
                    image = image_id(held["image_id"])
                    yield Raw(number, image, held["caption"], split, names.get(image))
                except (Bad, KeyError, TypeError):
                    reason = f"{shorten(held)}, wanted an image_id and a caption"
                    yield Fault("malformed", reason, path, number)
        except ValueError as error:
            reason = f"{error}; what comes after is lost, get the file again"
            yield Fault("malformed", reason, path, 0)


def _coco_images(path: Path, split: Any, names: OnDisk) -> Parsed:
    """Fills `names`; yields what captions the pictures' own entries have."""
    with suppress(ValueError):  # the second reading meets the same damage, and tells it
        for _, number, held in elements(path, ["images"]):
            try:
                name = image_id(pick(NAME, held))
                image = image_id(pick(("id", "cocoid", "imgid", *NAME), held))
            except (Bad, TypeError):
                reason = f"{shorten(held)}, wanted an id and a file_name"
                yield Fault("malformed", reason, path, number)
                continue
            names[image] = name
            yield from _own_captions(Raw(number, image, None, split, name), held)


def _own_captions(raw: Raw, held: dict[str, Any]) -> Iterator[Raw]:
    """The captions that stand in a picture's own entry: `captions`, or Karpathy's `sentences`."""
    if held.get("filepath"):
        raw = raw._replace(name=f"{held['filepath']}/{raw.name}")
    raw = raw._replace(split=side_of(held.get("split")) or raw.split)
    captions = held.get("captions") or held.get("sentences") or []
    for caption in captions if isinstance(captions, list) else [captions]:
        yield raw._replace(caption=caption.get("raw") if isinstance(caption, dict) else caption)


def picture_folder(folder: Path) -> Parsed:
    """A folder of pictures, `a.txt` beside `a.jpg` with one caption a line, at any depth.

    Ids are the paths below the folder. Names are sorted on the disk, not in memory.
    """
    with closing(OnDisk()) as names, closing(OnDisk()) as stems:
        for name in _files(folder, ""):
            stem, suffix = os.path.splitext(name)
            names[name] = ""
            if suffix.lower() in EXTENSIONS:
                stems[stem] = ""
        for name in names:
            stem, suffix = os.path.splitext(name)
            text = folder / f"{stem}.txt"
            if suffix.lower() not in EXTENSIONS:
                if stems.get(stem) is None:
                    yield Fault("missing", "no picture of this name beside it", text, 0)
            elif names.get(f"{stem}.txt") is None:
                yield Fault("empty caption", f"no {text.name} beside it", folder / name, 0)
            elif text.is_symlink() and not text.resolve().is_relative_to(folder.resolve()):
                yield Fault("outside", f"{text.name} is a link out of {folder}", text, 0)
            else:
                yield from _beside(name, text)


def _beside(name: str, text: Path) -> Parsed:
    """The captions of one picture, a line each."""
    empty = True
    try:
        for number, line in lines(text):
            empty = False
            if isinstance(line, Bad):
                yield Fault(line.kind, line.reason, text, number)
            else:
                yield Raw(number, name, line, file=text)
    except OSError as error:
        yield Fault("malformed", f"it can't be read ({error.strerror})", text, 0)
        return
    if empty:
        yield Fault("empty caption", "the file holds no caption", text, 0)


def _files(folder: Path, inside: str) -> Iterator[str]:
    """Paths, below `folder`, of the pictures and texts; hidden names and linked folders not."""
    with os.scandir(folder / inside) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder, name)
            elif os.path.splitext(name)[1].lower() in {*EXTENSIONS, ".txt"} and entry.is_file():
                yield name  # no pipe, and no link to nothing
