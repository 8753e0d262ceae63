"""The public sets that can be fetched: where their captions, pictures and licences lie."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from captioning.data.rows import Bad, Side, image_id
from captioning.data.text_files import OnDisk, elements, lines
from weights.store import replacing

Name = Literal["open-images", "coco"]
NARRATIVES = "https://storage.googleapis.com/localized-narratives/annotations"
METADATA = "https://storage.googleapis.com/openimages/2018_04"
OPEN_IMAGES = "https://open-images-dataset.s3.amazonaws.com"
COCO = "http://images.cocodataset.org"  # its certificate is another host's

COLUMNS = ("image", "file", "licence", "author", "author_url", "title", "source_url")
UNKNOWN = "unknown"


class PublicSet(Protocol):
    """One split of a public set. `chosen` are the ids of the pictures that are wanted."""

    @property
    def sources(self) -> list[str]:
        """The addresses of its files of captions and licences."""

    def images(self, folder: Path) -> Iterator[str]:
        """The ids of all captioned pictures; `folder` holds the sources."""

    def write_captions(self, folder: Path, chosen: OnDisk, out: Path) -> int:
        """Writes the captions of the chosen pictures below `out`; how many there are."""

    def picture(self, image: str) -> tuple[str, str]:
        """The address of a picture, and its path below the set's folder."""

    def licences(self, folder: Path, chosen: OnDisk) -> Iterator[dict[str, str]]:
        """A row of COLUMNS for each chosen picture whose licence is known."""


@dataclass(frozen=True)
class OpenImages:
    """Localized Narratives of Open Images V6/V7, with its pictures of at most 1024 pixels."""

    split: Side

    @property
    def captions(self) -> str:
        return f"open_images_{'train_v6' if self.split == 'train' else self.split}_captions.jsonl"

    @property
    def metadata(self) -> str:
        boxable = "-boxable" if self.split == "train" else ""
        return f"{self.split}-images{boxable}-with-rotation.csv"

    @property
    def sources(self) -> list[str]:
        return [f"{NARRATIVES}/{self.captions}", f"{METADATA}/{self.split}/{self.metadata}"]

    def images(self, folder: Path) -> Iterator[str]:
        return (image for image, _ in self._rows(folder))

    def write_captions(self, folder: Path, chosen: OnDisk, out: Path) -> int:
        count = 0
        with (
            replacing(out / f"open_images_{self.split}_captions.jsonl") as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            for image, line in self._rows(folder):
                if chosen.get(image) is not None:
                    file.write(f"{line}\n")
                    count += 1
        return count

    def picture(self, image: str) -> tuple[str, str]:
        return f"{OPEN_IMAGES}/{self.split}/{image}.jpg", f"{self.split}/{image}.jpg"

    def licences(self, folder: Path, chosen: OnDisk) -> Iterator[dict[str, str]]:
        path = folder / self.metadata
        with path.open(encoding="utf-8", errors="replace", newline="") as file, _told(path):
            rows = csv.DictReader(file, restval="")
            if not {"ImageID", "License", "Author"} <= set(rows.fieldnames or ()):
                raise ValueError(
                    f"{path} has the columns {rows.fieldnames}, wanted ImageID, License, Author;"
                    " delete it, and start again."
                )
            for row in rows:
                if chosen.get(row["ImageID"]) is not None:
                    yield {
                        "image": row["ImageID"],
                        "file": self.picture(row["ImageID"])[1],
                        "licence": row["License"] or UNKNOWN,
                        "author": row["Author"] or UNKNOWN,
                        "author_url": row.get("AuthorProfileURL", ""),
                        "title": row.get("Title", ""),
                        "source_url": row.get("OriginalLandingURL", ""),
                    }

    def _rows(self, folder: Path) -> Iterator[tuple[str, str]]:
        """(id, line) of each narrative; lines that are broken are passed over."""
        for _, line in lines(folder / self.captions):
            try:
                if isinstance(line, str):
                    image = image_id(json.loads(line)["image_id"])
                    if image.isalnum():  # it becomes the name of a file
                        yield image, line
            except (Bad, ValueError, KeyError, TypeError):
                continue


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the csv module complains of, as an error that names the file."""
    try:
        yield
    except csv.Error as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and start again.") from None


@dataclass(frozen=True)
class CocoCaptions:
    """COCO 2017, five captions a picture. Its own test pictures have no public captions."""

    split: Side

    def __post_init__(self) -> None:
        if self.split == "test":
            raise ValueError(
                "COCO's captions for its test pictures are not public, wanted --split train or"
                " validation; a test side comes of splitting those."
            )

    @property
    def part(self) -> str:
        return "train2017" if self.split == "train" else "val2017"

    @property
    def sources(self) -> list[str]:
        return [f"{COCO}/annotations/annotations_trainval2017.zip"]

    def images(self, folder: Path) -> Iterator[str]:
        found = (held.get("id") for held in self._elements(folder, "images"))
        return (str(image) for image in found if str(image).isdecimal())  # it names a file

    def write_captions(self, folder: Path, chosen: OnDisk, out: Path) -> int:
        count = 0
        with (
            replacing(out / "annotations" / f"captions_{self.part}.json") as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            file.write("{")
            for key in ("licenses", "images", "annotations"):
                file.write(f'{", " if key != "licenses" else ""}"{key}": [')
                written = 0
                for held in self._elements(folder, key):
                    image = held.get("image_id" if key == "annotations" else "id")
                    if key == "licenses" or chosen.get(str(image)) is not None:
                        file.write(f"{',' if written else ''}\n{json.dumps(held)}")
                        written += 1
                file.write("]")
                count = written
            file.write("}\n")
        return count

    def picture(self, image: str) -> tuple[str, str]:
        path = f"{self.part}/{int(image):012}.jpg"
        return f"{COCO}/{path}", path

    def licences(self, folder: Path, chosen: OnDisk) -> Iterator[dict[str, str]]:
        names = {held.get("id"): held.get("url") for held in self._elements(folder, "licenses")}
        for held in self._elements(folder, "images"):
            if chosen.get(image := str(held.get("id"))) is not None:
                yield {
                    "image": image,
                    "file": self.picture(image)[1],
                    "licence": names.get(held.get("license")) or UNKNOWN,
                    "author": UNKNOWN,  # COCO names none; the picture's own page does
                    "author_url": "",
                    "title": "",
                    "source_url": held.get("flickr_url", ""),
                }

    def _elements(self, folder: Path, key: str) -> Iterator[dict[str, Any]]:
        path = folder / f"captions_{self.part}.json"
        packed = folder / "annotations_trainval2017.zip"
        if not path.is_file():
            try:
                with (
                    zipfile.ZipFile(packed) as archive,
                    archive.open(f"annotations/{path.name}") as member,
                    replacing(path) as temporary,
                    temporary.open("wb") as file,
                ):
                    shutil.copyfileobj(member, file)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ValueError(
                    f"{packed} is not COCO's archive of captions ({error}); delete it, and start"
                    " again."
                ) from None
        try:
            for _, _, held in elements(path, [key]):
                if isinstance(held, dict):
                    yield held
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete it and {packed.name}, and start again."
            ) from None


def public_set(name: Name, split: Side) -> PublicSet:
    """The split of a set by its name."""
    return OpenImages(split) if name == "open-images" else CocoCaptions(split)
