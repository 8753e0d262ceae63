"""What is known of a set, on the disk: pictures, their captions, sides, and what is wrong.

An SQLite file, written once by `captioning.data.build` and then read at any place by any number of
processes, so that memory stays flat however many rows there are.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from captioning.data.rows import Fault, Place, Side


@dataclass(frozen=True)
class Picture:
    """A picture with every caption it has (on one side, where one was asked for)."""

    number: int
    image: str
    place: Place
    captions: tuple[str, ...]
    split: Side | None  # the official one
    side: Side | None  # None too where its captions are on several


class Sample(NamedTuple):
    """One caption with its picture: what is trained on. `row` of `file` is where it stands."""

    number: int  # of the picture
    image: str
    caption: str
    place: Place
    file: Path
    row: int


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """What SQLite complains of as an OSError that names the file: a full disk, above all."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise OSError(
            f"{path} can't be read or written ({error}), wanted room for it and for SQLite's own"
            " files; make room, or delete it where it is damaged, and start again."
        ) from None


class Index:
    """An index on the disk, opened for reading."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path} is not there, wanted an index; make it: open_index.")
        self._opened: tuple[int, sqlite3.Connection] | None = None

    @property
    def db(self) -> sqlite3.Connection:
        """This process's own connection: SQLite's must not be carried into another process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), sqlite3.connect(self.path)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def close(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def one(self, query: str, *values: Any) -> Any:
        """The first value of the first row that an SQL query gives."""
        return self.db.execute(query, values).fetchone()[0]

    def meta(self, key: str) -> Any:
        """What was noted when the index was made."""
        return json.loads(self.one("SELECT value FROM meta WHERE key = ?", key))

    @property
    def identity(self) -> dict[str, Any]:
        """What the index was made of, and how."""
        held: dict[str, Any] = self.meta("identity")
        return held

    @property
    def fingerprint(self) -> str:
        """A hash of every usable row, in order: equal where the same is trained on."""
        return str(self.meta("fingerprint"))

    @property
    def rows(self) -> int:
        """Rows of the files, usable or not."""
        return int(self.meta("rows"))

    def count(self, side: Side) -> int:
        """How many captions are trained on, or looked at, on a side."""
        return int(self.one("SELECT count(*) FROM members WHERE side = ?", side))

    def lengths(self, side: Side, positions: Sequence[int]) -> list[int]:
        """The lengths in tokens of a side's captions at these positions, 0 to count - 1."""
        query = "SELECT length FROM members JOIN captions USING (row) WHERE members.side = ? AND"
        query += " position = ?"
        return [self.one(query, side, position) for position in positions]

    def sample(self, side: Side, position: int) -> Sample:
        """A side's caption at a position, 0 to count - 1, with its picture."""
        found = self.db.execute(
            "SELECT images.number, image, text, images.path, start, size, files.path, line"
            " FROM members JOIN captions USING (row) JOIN images USING (number)"
            " JOIN files ON file = files.number WHERE members.side = ? AND position = ?",
            (side, position),
        ).fetchone()
        number, image, text, path, start, size, file, line = found
        place = Place(os.fsdecode(path), start, size)
        return Sample(number, image, text, place, Path(os.fsdecode(file)), line)

    def pictures(self, side: Side | None = None) -> Iterator[Picture]:
        """Each picture once, in order of its first caption, with its captions of this side."""
        where = "WHERE captions.side = ?" if side else ""
        rows = self.db.execute(
            "SELECT number, image, path, start, size, split, captions.side, text"
            f" FROM images JOIN captions USING (number) {where} ORDER BY number, row",
            (side,) if side else (),
        )
        for (number, image, path, start, size, split), group in groupby(rows, lambda r: r[:6]):
            *_, sides, texts = zip(*group, strict=True)
            place = Place(os.fsdecode(path), start, size)
            common = sides[0] if len(set(sides)) == 1 else None
            yield Picture(number, image, place, texts, split, common)

    def faults(self) -> Iterator[Fault]:
        """What was found wrong, in the order of the files."""
        for kind, reason, path, line in self.db.execute(
            "SELECT kind, reason, path, line FROM faults JOIN files ON file = number"
            " ORDER BY file, line, faults.rowid"
        ):
            yield Fault(kind, reason, Path(os.fsdecode(path)), line)

    def fault_counts(self) -> dict[str, int]:
        """How many rows have each kind of fault."""
        return dict(self.db.execute("SELECT kind, count(*) FROM faults GROUP BY kind ORDER BY 2"))

    def leaks(self) -> int:
        """How many pictures have captions on more than one side."""
        return int(
            self.one(
                "SELECT count(*) FROM (SELECT number FROM captions WHERE side IS NOT NULL"
                " GROUP BY number HAVING count(DISTINCT side) > 1)"
            )
        )
