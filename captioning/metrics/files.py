"""Captions and references from files, each caption put beside the references of its image.

Read are JSON (COCO's annotations and results, a list of records, {image: captions}) and JSON lines.
A record names its image in one of NAMES and holds text in one of TEXTS. A number, a file name and a
path mean one image where they end alike: 139, 000000000139.jpg, val2017/000000000139.jpg.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

NAMES = ("image_id", "cocoid", "path", "file_name", "filename", "file", "image", "ImageID", "id")
TEXTS = ("caption", "captions", "references", "sentences", "text")

_PICTURE = re.compile(r"\.(png|jpe?g|webp|gif|bmp)$", re.IGNORECASE)
_NUMBER = re.compile(r"(?:COCO_\w+_)?0*(\d+)")


@dataclass
class Captions:
    """What a file says of one image: the names it has there, and the texts, in order."""

    names: list[str]
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Matched:
    """Captions beside the references of their images, in the order of the references.

    `names`: all that either file calls each image. `missing`: images without a caption. `unknown`:
    captions without an image. `repeated`: images captioned twice, of which the first counts.
    """

    images: list[str]
    names: list[list[str]]
    candidates: list[str]
    references: list[list[str]]
    missing: list[str]
    unknown: list[str]
    repeated: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.repeated)


def match(predictions: Path, references: Path) -> Matched:
    """Reads both files and puts them together. ValueError where no image is in both."""
    wanted = [one for one in read_captions(references) if one.texts]
    known = _by_alias([one.names for one in wanted])
    said: dict[int, tuple[int, Captions]] = {}  # and how loosely the image was named
    unknown: list[str] = []
    repeated: list[str] = []
    for one in read_captions(predictions):
        try:
            found = _find(one.names, known)
        except LookupError as error:
            several = few([wanted[i].names[0] for i in error.args[1]])
            raise ValueError(
                f"{predictions}: {error.args[0]!r} could be {several}; write the whole path in both"
                " files."
            ) from None
        if found is None:
            unknown.append(one.names[0])
            continue
        place, loose = found
        loosest, rest = said.get(place, (loose + 1, None))
        if loose < loosest:  # cat/1.jpg itself counts, though dog/1.jpg came first and ends alike
            said[place] = loose, one
        else:
            rest = one
        if rest is not None or len(one.texts) > 1:
            repeated.append((rest or one).names[0])
    if not said:
        raise ValueError(
            f"{predictions} and {references} have no image in common: the first names"
            f" {few(unknown)}, the second {few([one.names[0] for one in wanted])}. Wanted the"
            " same ids, file names or paths; check that they belong together."
        )
    both = sorted(said)
    return Matched(
        images=[wanted[i].names[0] for i in both],
        names=[said[i][1].names + wanted[i].names for i in both],
        candidates=[said[i][1].texts[0] for i in both],
        references=[wanted[i].texts for i in both],
        missing=[one.names[0] for i, one in enumerate(wanted) if i not in said],
        unknown=unknown,
        repeated=repeated,
    )


def read_captions(path: Path) -> list[Captions]:
    """All that a file says, by image. ValueError, with the line or the place, where it is wrong."""
    found: dict[str, Captions] = {}
    for where, record in _records(path):
        if not isinstance(record, dict):
            raise ValueError(f"{where} is {record!r:.60}, wanted a record in {{ }}; correct it.")
        names = _names(record, where)
        # By its first name: an image's several captions may be records of their own.
        one = found.setdefault(names[0], Captions(names))
        one.texts += _texts(record, where)
    if not found:
        raise ValueError(f"{path} holds no captions, wanted one image or more; get it again.")
    return list(found.values())


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Each record of the file and where it stands."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there; check the name.") from None
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):  # the latter where brackets lie thousands deep
        whole = None  # then it is JSON lines, or the fault is in one of them
    if isinstance(whole, list):
        yield from ((f"{path}, record {i}", record) for i, record in enumerate(whole, 1))
    elif isinstance(whole, dict):
        yield from [(f"{path}", whole)] if _is_record(whole) else _of_a_dict(path, whole)
    else:
        for i, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may be in a caption
            if line.strip():
                try:
                    yield f"{path}, line {i}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(
                        f"{path}, line {i} is no JSON ({error}), wanted one record a line, or one"
                        " JSON document; correct it."
                    ) from None


def _is_record(value: dict[str, Any]) -> bool:
    return any(key in value for key in (*NAMES, *TEXTS))


def _of_a_dict(path: Path, whole: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """COCO's annotations, a list of images under its key, or image: captions."""
    annotations, images = whole.get("annotations"), whole.get("images")
    if isinstance(annotations, list):
        files = {
            image["id"]: image["file_name"]
            for image in (images if isinstance(images, list) else [])
            if isinstance(image, dict) and "file_name" in image and _is_name(image.get("id"))
        }
        for i, record in enumerate(annotations, 1):
            if isinstance(record, dict) and _is_name(number := record.get("image_id")):
                record = {**record, **({"file_name": files[number]} if number in files else {})}
            yield f"{path}, annotation {i}", record
    elif isinstance(images, list):
        yield from ((f"{path}, image {i}", record) for i, record in enumerate(images, 1))
    else:
        for name, captions in whole.items():
            yield f"{path}, {name}", {"image_id": name, "captions": captions}


def _names(record: dict[str, Any], where: str) -> list[str]:
    # COCO's "id" is the annotation's wherever there is an "image_id".
    keys = [key for key in NAMES if key in record and not (key == "id" and "image_id" in record)]
    names = [record[key] for key in keys]
    if not names or not all(map(_is_name, names)):
        raise ValueError(
            f"{where} names its image {names or 'nowhere'}, wanted a string or a whole number under"
            f" one of {', '.join(NAMES)}; add it."
        )
    return [str(name) for name in names]


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and value != ""


def _texts(record: dict[str, Any], where: str) -> list[str]:
    for key in TEXTS:
        if key in record:
            value = record[key]
            several = value if isinstance(value, list) else [value]
            # Karpathy's sentences are records again.
            texts = [v.get("raw") if isinstance(v, dict) else v for v in several]
            strings = [text for text in texts if isinstance(text, str)]
            if strings and len(strings) == len(texts):
                return strings
            raise ValueError(
                f"{where} has {value!r:.60} under {key!r}, wanted a caption or a list of captions,"
                " as strings; correct it."
            )
    raise ValueError(f"{where} has no text, wanted some under one of {', '.join(TEXTS)}; add it.")


def _aliases(name: str) -> list[str]:
    """Ways to say the same image, the most exact first: path, ends of it, no extension, number."""
    parts = PureWindowsPath(name).parts  # takes / and \ alike
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    stem = _PICTURE.sub("", ends[-1]) if ends else name
    number = _NUMBER.fullmatch(stem)
    return [name, *ends, stem, *([number[1]] if number else [])]


def _by_alias(names: Sequence[Sequence[str]]) -> dict[str, dict[int, int]]:
    """Each way to say an image -> which ones it may be, by their places, and how loosely."""
    known: dict[str, dict[int, int]] = defaultdict(dict)
    for i, several in enumerate(names):
        for name in several:
            for loose, alias in enumerate(_aliases(name)):
                known[alias][i] = min(loose, known[alias].get(i, loose))
    return known


def _find(names: Sequence[str], known: Mapping[str, dict[int, int]]) -> tuple[int, int] | None:
    """The image of one of these names, and how many more exact ways to say it are not known.

    Of 1.jpg and a/1.jpg, which end alike, the former is b/1.jpg. LookupError, with name and
    places, where several are as close.
    """
    for name in names:
        for loose, alias in enumerate(_aliases(name)):
            if found := known.get(alias):
                least = min(found.values())
                closest = [i for i in found if found[i] == least]
                if len(closest) > 1:
                    raise LookupError(name, sorted(closest))
                return closest[0], loose
    return None


def find_files(images: Sequence[Sequence[str]], paths: Sequence[Path]) -> list[Path | None]:
    """For the names of each image the one of `paths` that is its picture, where there is one."""
    known = _by_alias([[path.as_posix()] for path in paths])
    found = []
    for names in images:
        try:
            place = _find(names, known)
        except LookupError:
            place = None
        found.append(None if place is None else paths[place[0]])
    return found


def few(names: list[str]) -> str:
    """The first three and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
