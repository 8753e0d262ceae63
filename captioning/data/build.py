"""An index made from a set: each row looked at once, nothing kept in memory."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from captioning.data.index import Index, told
from captioning.data.recognise import Reader, read
from captioning.data.rows import NOTES, SIDES, Fault, Place, Row, shorten
from captioning.data.split import Scheme, article_sides, hash_side
from gpt2_scratch.bpe import pretokenize
from gpt2_scratch.tokenizer import Tokenizer
from weights.store import replacing

VERSION = 2  # of the tables; an index of another one is made anew
PIECE = 16  # bytes of a word or a row of signs that count as one token: few tokens have more
LONGEST = 256  # tokens of a caption; of the 507,444 narratives hardly one is longer

Choice = Literal["all", "first"]  # which of a picture's captions are trained on

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE files (number INTEGER PRIMARY KEY, path BLOB UNIQUE);
CREATE TABLE images (number INTEGER PRIMARY KEY, image TEXT, path BLOB, start INTEGER, size INTEGER,
    split TEXT, side TEXT, UNIQUE (path, start));
CREATE INDEX by_id ON images (image);
CREATE TABLE captions (row INTEGER PRIMARY KEY, number INTEGER, text TEXT, length INTEGER,
    file INTEGER, line INTEGER, side TEXT);
CREATE TABLE faults (kind TEXT, reason TEXT, file INTEGER, line INTEGER);
CREATE TABLE members (side TEXT, position INTEGER, row INTEGER, PRIMARY KEY (side, position))
    WITHOUT ROWID;
"""


def open_index(
    source: str | Path,
    path: str | Path,
    *,
    images: str | Path | None = None,
    split: Scheme = "hash",
    tokenizer: Tokenizer | None = None,
    longest: int = LONGEST,
    captions: Choice = "all",
) -> Index:
    """The index of a set, made at `path` or, where it lies there already, opened.

    Lengths are in tokens, the end token included; without a `tokenizer` in pieces, which are a
    little fewer. Made anew where files or settings have changed. ValueError: no row is usable.
    """
    path = Path(path)
    reader = read(source, images)
    identity = {
        "version": VERSION,
        "kind": reader.kind,
        "files": [[str(file.resolve()), *_stamp(file)] for file in reader.files],
        "pictures": reader.pictures.root,
        "split": split,
        "lengths": _name(tokenizer),
        "longest": longest,
        "captions": captions,
    }
    if path.is_file() and reader.kind != "pictures with .txt":  # whose stamp says too little
        try:
            index = Index(path)
            if index.identity == identity:
                return index
            index.close()
        except sqlite3.DatabaseError:
            pass  # of something else, or damaged
    with told(path), replacing(path) as temporary, closing(sqlite3.connect(temporary)) as db:
        # It takes its place only when whole, so a journal would be written for nothing.
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
        rows, fingerprint = _fill(db, reader, count_with(tokenizer), longest)
        if not db.execute("SELECT count(*) FROM captions").fetchone()[0]:
            raise ValueError(_nothing(db, source, rows))
        _assign(db, split, rows)
        _choose(db, captions)
        noted = {"identity": identity, "rows": rows, "fingerprint": fingerprint}
        pairs = [(key, json.dumps(value)) for key, value in noted.items()]
        db.executemany("INSERT INTO meta VALUES (?, ?)", pairs)
        db.commit()
    return Index(path)


def count_with(tokenizer: Tokenizer | None) -> Callable[[str], int]:
    """A caption's length: its tokens and the end token, or the pieces that no token crosses, a long
    one as several."""
    if tokenizer is None:
        return lambda text: sum(-(-len(p.encode()) // PIECE) for p in pretokenize(text)) + 1
    return lambda text: len(tokenizer.encode(text)) + 1


def _fill(
    db: sqlite3.Connection, reader: Reader, length: Callable[[str], int], longest: int
) -> tuple[int, str]:
    """Every row into the tables; how many there were, and the hash of those that are usable."""
    digest = blake2b(digest_size=16)
    ordinal = 0
    for row in tqdm(reader, desc="reading captions", unit="row", disable=None):
        if isinstance(row, Row):
            fault = _insert(db, ordinal, row, length(row.caption), longest, reader.pictures.root)
            if fault is None:
                digest.update(f"{row.image}\0{row.caption}\0".encode())
        else:
            fault = row
        if fault is not None:
            insert_fault(db, fault)
        ordinal += row.row > 0  # 0 stands for a file as a whole
    db.execute("CREATE INDEX by_image ON captions (number)")
    return ordinal, digest.hexdigest()


def _insert(
    db: sqlite3.Connection, ordinal: int, row: Row, length: int, longest: int, root: str
) -> Fault | None:
    if length > longest:
        reason = f"{length} tokens, at most {longest}: {shorten(row.caption)}"
        return Fault("long caption", reason, row.file, row.row)
    where = (os.fsencode(row.place.path), row.place.offset)
    query = "SELECT number, split FROM images WHERE path = ? AND start = ?"
    found = db.execute(query, where).fetchone()
    if found is None:
        name = row.image
        if db.execute("SELECT 1 FROM images WHERE image = ?", (name,)).fetchone():
            name = _by_file(row.place, root)
            reason = f"{row.image} is another picture in an earlier row; this one is called {name}"
            insert_fault(db, Fault("same id", reason, row.file, row.row))
        values = (name, *where, row.place.size, row.split, hash_side(row.image))
        cursor = db.execute("INSERT INTO images VALUES (NULL, ?, ?, ?, ?, ?, ?)", values)
        found = (cursor.lastrowid, row.split)
    file = _file_number(db, row.file)
    caption = (ordinal, found[0], row.caption, length, file, row.row)
    db.execute("INSERT INTO captions VALUES (?, ?, ?, ?, ?, ?, NULL)", caption)
    if found[1] != row.split:
        reason = f"{row.image} is {found[1]} in an earlier row, {row.split} in this"
        insert_fault(db, Fault("two splits", reason, row.file, row.row))
    return None


def _by_file(place: Place, root: str) -> str:
    """An id that no other picture has."""
    name = os.fsencode(os.path.relpath(place.path, root)).decode("utf-8", "replace")
    return name if place.size < 0 else f"{name}@{place.offset}"


def insert_fault(db: sqlite3.Connection, fault: Fault) -> None:
    """One fault into the table."""
    values = (fault.kind, fault.reason, _file_number(db, fault.file), fault.row)
    db.execute("INSERT INTO faults VALUES (?, ?, ?, ?)", values)


def _file_number(db: sqlite3.Connection, file: Path) -> int:
    path = (os.fsencode(file),)
    db.execute("INSERT OR IGNORE INTO files (path) VALUES (?)", path)
    return int(db.execute("SELECT number FROM files WHERE path = ?", path).fetchone()[0])


def _assign(db: sqlite3.Connection, split: Scheme, rows: int) -> None:
    """Every caption to its side."""
    if split == "article":
        sides = article_sides(rows)
        db.create_function("article", 1, lambda row: SIDES[sides[row]])
        db.execute("UPDATE captions SET side = article(row)")
        return
    if split == "official":
        db.execute("UPDATE images SET side = split")
    if split == "none":
        db.execute("UPDATE images SET side = 'train'")
    of_image = "SELECT side FROM images WHERE images.number = captions.number"
    db.execute(f"UPDATE captions SET side = ({of_image})")
    if not db.execute("SELECT count(*) FROM captions WHERE side IS NOT NULL").fetchone()[0]:
        raise ValueError(
            "none of the rows belongs to an official split, wanted files that bring one (their"
            " names, dataset_id or a column split); use the split 'hash'."
        )
    db.execute(
        "INSERT INTO faults SELECT 'no split', 'no official split for ' || image, file, line"
        " FROM captions JOIN images USING (number) WHERE captions.side IS NULL"
    )


def _choose(db: sqlite3.Connection, captions: Choice) -> None:
    """The captions that are trained on, numbered on each side from 0."""
    first = "row IN (SELECT min(row) FROM captions GROUP BY number, side)"
    db.execute(
        "INSERT INTO members SELECT side, row_number() OVER (PARTITION BY side ORDER BY row) - 1,"
        f" row FROM captions WHERE side IS NOT NULL AND {'1' if captions == 'all' else first}"
    )


def _nothing(db: sqlite3.Connection, source: str | Path, rows: int) -> str:
    counts = db.execute("SELECT kind, count(*) FROM faults GROUP BY kind ORDER BY 2 DESC")
    listed = ", ".join(f"{n:,} {kind}" for kind, n in counts if kind not in NOTES)
    first = db.execute("SELECT reason FROM faults ORDER BY rowid LIMIT 1").fetchone()
    return (
        f"none of the {rows:,} rows of {source} can be used ({listed or 'no row'}; the first:"
        f" {first[0] if first else 'none'}). Wanted captions with their pictures; name the folder"
        " of the pictures with --images."
    )


def _stamp(file: Path) -> tuple[int, int]:
    held = file.stat()
    return held.st_size, held.st_mtime_ns


def _name(tokenizer: Tokenizer | None) -> str:
    """What tells tokenizers apart: how they cut a sentence."""
    if tokenizer is None:
        return "pieces"
    ids = tokenizer.encode("In this image we can see a person riding a bicycle.")
    return f"{len(tokenizer)} ids: {blake2b(str(ids).encode(), digest_size=8).hexdigest()}"
