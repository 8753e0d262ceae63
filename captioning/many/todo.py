"""The pictures of a job, numbered, in a table on the disk: memory stays flat however many."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from captioning.data.rows import Place
from captioning.many.sources import Item
from weights.store import replacing

TABLES = """
CREATE TEMP TABLE found (source INTEGER, key BLOB, name BLOB, path BLOB, start INTEGER,
    size INTEGER, image TEXT, reason TEXT);
CREATE TABLE todo (number INTEGER PRIMARY KEY, name BLOB, path BLOB, start INTEGER, size INTEGER,
    image TEXT, reason TEXT);
"""
COLUMNS = "name, path, start, size, image, reason"


def write_todo(path: Path, items: Iterable[Item]) -> int:
    """Sorts and numbers the items from 0, on the disk; returns how many there are."""
    with replacing(path) as temporary, closing(sqlite3.connect(temporary)) as db:
        # It takes its place only when whole, so a journal would be written for nothing.
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
        shown = tqdm(items, desc="listing", unit="picture", disable=None)
        db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, shown))
        db.execute(
            f"INSERT INTO todo SELECT row_number() OVER (ORDER BY source, key, rowid) - 1,"
            f" {COLUMNS} FROM found"
        )
        db.commit()
        return int(db.execute("SELECT count(*) FROM todo").fetchone()[0])


def _row(item: Item) -> tuple[object, ...]:
    path, start, size = item.place or Place("")
    # A shard's id and a name in a reason may hold half a surrogate pair, which no table takes.
    image, reason = (
        text and text.encode("utf-8", "backslashreplace").decode()
        for text in (item.image, item.reason)
    )
    return *item.order, os.fsencode(item.name), os.fsencode(path), start, size, image, reason


def read_todo(path: Path, numbers: range) -> list[Item]:
    """The items of some numbers in a row."""
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            f"SELECT {COLUMNS} FROM todo WHERE number >= ? AND number < ? ORDER BY number",
            (numbers.start, numbers.stop),
        ).fetchall()
    return [
        Item(
            os.fsdecode(name),
            None if reason else Place(os.fsdecode(path), start, size),
            image=image,
            reason=reason,
        )
        for name, path, start, size, image, reason in rows
    ]
