"""What is wrong with a set: every picture decoded, every caption looked at, nothing in memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captioning.data.build import insert_fault
from captioning.data.index import Index
from captioning.data.opening import Look, look
from captioning.data.rows import NOTES, SIDES, Bad, Fault, Place

AHEAD = 64  # pictures that are decoded at a time, over all threads

LOOKS = """
DROP TABLE IF EXISTS looks;
CREATE TABLE looks (number INTEGER PRIMARY KEY, format TEXT, width INTEGER, height INTEGER,
    length INTEGER, digest BLOB);
CREATE INDEX by_digest ON looks (digest);
"""
DUPLICATES = """
INSERT INTO faults
SELECT 'duplicate', image || ' has the bytes of ' || first, file, line FROM (
    SELECT number, image, first_value(image) OVER same AS first, row_number() OVER same AS place
    FROM looks JOIN images USING (number) WINDOW same AS (PARTITION BY digest ORDER BY number))
JOIN (SELECT number, min(row) AS row FROM captions GROUP BY number) USING (number)
JOIN captions USING (row)
WHERE place > 1 ORDER BY row
"""
REPEATED = """
INSERT INTO faults
SELECT 'duplicate caption', 'an earlier row has the same for ' || image, file, line FROM (
    SELECT *, row_number() OVER (PARTITION BY number, text ORDER BY row) AS place FROM captions)
JOIN images USING (number) WHERE place > 1 ORDER BY row
"""
ON_TWO_SIDES = """
SELECT count(*) FROM (SELECT digest FROM looks JOIN captions USING (number)
    WHERE captions.side IS NOT NULL GROUP BY digest
    HAVING count(DISTINCT captions.side) > 1 AND count(DISTINCT number) > 1)
"""


@dataclass(frozen=True)
class Report:
    """A set in figures; `faults` has the rows of each kind, notes among them."""

    kind: str
    rows: int
    usable: int  # rows
    pictures: int  # that can be used
    sides: dict[str, dict[str, int]]  # captions and pictures
    leaks: int  # pictures with captions on more than one side
    duplicates_on_two_sides: int  # pictures, byte for byte, under ids of different sides
    faults: dict[str, int]

    @property
    def is_clean(self) -> bool:
        """Whether every row can be used."""
        return not set(self.faults) - NOTES


def check(index: Index, *, workers: int = 2) -> Report:
    """Decodes every picture and writes what is found into the index, which is for nothing else.

    The rows of a picture that fails are taken out of it.
    """
    db = index.db
    db.executescript(LOOKS)
    total = index.one("SELECT count(*) FROM images")
    with (
        tqdm(total=total, desc="checking pictures", unit="picture", disable=None) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for chunk in places(db):
            found = pool.map(_look, (place for _, place in chunk))
            for (number, _), seen in zip(chunk, found, strict=True):
                if isinstance(seen, Look):
                    values = (number, seen.format, seen.width, seen.height, seen.length)
                    db.execute(
                        "INSERT INTO looks VALUES (?, ?, ?, ?, ?, ?)", (*values, seen.digest)
                    )
                else:
                    _take_out(db, number, seen)
            bar.update(len(chunk))
    db.execute(DUPLICATES)
    db.execute(REPEATED)
    db.commit()
    return report(index)


def report(index: Index) -> Report:
    """The figures of an index; what only `check` finds is 0 without it."""
    sides: dict[str, dict[str, int]] = {}
    for side in SIDES:
        query = "SELECT count(*), count(DISTINCT number) FROM captions WHERE side = ?"
        captions, pictures = index.db.execute(query, (side,)).fetchone()
        sides[side] = {"captions": captions, "pictures": pictures}
    checked = index.one("SELECT count(*) FROM sqlite_master WHERE name = 'looks'")
    return Report(
        kind=str(index.identity["kind"]),
        rows=index.rows,
        usable=index.one("SELECT count(*) FROM captions WHERE side IS NOT NULL"),
        pictures=index.one("SELECT count(DISTINCT number) FROM captions WHERE side IS NOT NULL"),
        sides=sides,
        leaks=index.leaks(),
        duplicates_on_two_sides=index.one(ON_TWO_SIDES) if checked else 0,
        faults=index.fault_counts(),
    )


def places(db: sqlite3.Connection, step: int = 1) -> Iterator[list[tuple[int, Place]]]:
    """Every `step`th picture's number and place, AHEAD at a time."""
    last = 0
    while True:
        query = "SELECT number, path, start, size FROM images WHERE number > ? AND number % ? = 0"
        rows = db.execute(f"{query} ORDER BY number LIMIT {AHEAD}", (last, step)).fetchall()
        if not rows:
            return
        yield [(number, Place(os.fsdecode(p), start, n)) for number, p, start, n in rows]
        last = rows[-1][0]


def _look(place: Place) -> Look | Bad:
    try:
        return look(place)
    except Bad as bad:
        return bad


def _take_out(db: sqlite3.Connection, number: int, bad: Bad) -> None:
    """A fault for each row of a picture, and the rows out of the tables."""
    rows: list[tuple[Any, ...]] = db.execute(
        "SELECT path, line FROM captions JOIN files ON file = files.number"
        " WHERE captions.number = ? ORDER BY row",
        (number,),
    ).fetchall()
    for path, line in rows:
        insert_fault(db, Fault(bad.kind, bad.reason, Path(os.fsdecode(path)), line))
    db.execute(
        "DELETE FROM members WHERE row IN (SELECT row FROM captions WHERE number = ?)", (number,)
    )
    db.execute("DELETE FROM captions WHERE number = ?", (number,))
