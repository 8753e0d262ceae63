"""Text files read piece by piece: lines, CSV records, and the arrays of one large JSON object."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from captioning.data.rows import Bad

LONGEST_LINE = 2**24  # bytes; a narrative with its mouse traces takes some 50,000
LONGEST_RECORD = 20  # lines of a CSV record: a quote that nobody closes takes no more with it
CHUNK = 2**20
DELIMITERS = ",;\t|"

Line = tuple[int, str | Bad]


def lines(path: Path) -> Iterator[Line]:
    """(number from 1, text without its line break) of each line that is not blank."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                    pass
                yield number, Bad("malformed", f"the line has more than {LONGEST_LINE:,} bytes")
                continue
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, Bad("malformed", f"the line is not UTF-8 ({error.reason})")
                continue
            if text and not text.isspace():
                yield number, text


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one CSV line; with `|`, which Flickr30k's file has, quotes mean nothing."""
    if delimiter == "|":
        return line.split(delimiter)
    return next(csv.reader([line], delimiter=delimiter), [])


def records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str] | Bad]]:
    """(number of its first line, fields) of each CSV record; a quoted field may have line breaks.

    A quote that is not closed within LONGEST_RECORD lines, and before a delimiter or the end of a
    line, spoils its own line alone.
    """
    source = lines(path)
    ahead: deque[Line] = deque()
    while head := (ahead.popleft() if ahead else next(source, None)):
        number, line = head
        try:
            if isinstance(line, Bad):
                raise line
            if delimiter == "|" or not _is_open(line, delimiter):
                yield number, fields_of(line, delimiter)
                continue
            taken = _close_quote(line, delimiter, ahead, source)
            (fields,) = csv.reader(taken, delimiter=delimiter, strict=True)
            for _ in taken[1:]:
                ahead.popleft()
            yield number, fields
        except Bad as bad:
            yield number, bad
        except (csv.Error, ValueError) as error:
            yield number, Bad("malformed", f"a quote in the line is never closed rightly ({error})")


def _is_open(line: str, delimiter: str, inside: bool = False) -> bool:
    """Whether a quote is still open where the line ends; one amid a field is an inch mark."""
    may_open = not inside
    for character in line:
        if character == '"' and (inside or may_open):
            inside = not inside
            may_open = True  # two in a row stand for one
        else:
            may_open = not inside and character == delimiter
    return inside


def _close_quote(
    line: str, delimiter: str, ahead: deque[Line], source: Iterator[Line]
) -> list[str]:
    """The lines of a record whose first line leaves a quote open; those behind stay in `ahead`."""
    taken = [line]
    inside = True
    while len(taken) < LONGEST_RECORD and inside:
        if len(ahead) < len(taken):
            following = next(source, None)
            if following is None:
                break
            ahead.append(following)
        text = ahead[len(taken) - 1][1]
        if isinstance(text, Bad):
            break
        taken[-1] += "\n"
        taken.append(text)
        inside = _is_open(text, delimiter, inside)
    return taken


def elements(path: Path, keys: Iterable[str]) -> Iterator[tuple[str, int, Any]]:
    """(key, number from 1, value) of each element of the arrays under `keys` of a JSON object.

    Holds one element at a time, whatever the file's size. ValueError where it is no JSON object,
    after the elements before the damage.
    """
    wanted = frozenset(keys)
    with path.open(encoding="utf-8-sig") as file:
        text = _Text(file)
        text.take("{")
        while text.peek() != "}":
            key = text.value()
            text.take(":")
            if text.peek() == "[":
                for number, value in enumerate(_array(text), 1):
                    if key in wanted:
                        yield key, number, value
            else:
                text.value()
            if text.peek() != "}":
                text.take(",")


def _array(text: _Text) -> Iterator[Any]:
    text.take("[")
    while text.peek() != "]":
        yield text.value()
        if text.peek() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """A JSON text of which only the part at hand is in memory."""

    decoder = json.JSONDecoder()

    def __init__(self, file: Any) -> None:
        self.file, self.held, self.at, self.passed, self.ended = file, "", 0, 0, False

    def fill(self, size: int) -> None:
        more = self.file.read(size)
        self.ended = not more
        self.passed += self.at
        self.held, self.at = self.held[self.at :] + more, 0

    def peek(self) -> str:
        """The next character that is no white space."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.held):
                return self.held[self.at]
            if self.ended:
                raise ValueError(f"the JSON text ends at character {self.passed + self.at:,}")
            self.fill(CHUNK)

    def take(self, character: str) -> None:
        if self.peek() != character:
            where = f"character {self.passed + self.at + 1:,}"
            raise ValueError(f"{where} is {self.held[self.at]!r}, wanted {character!r}")
        self.at += 1

    def value(self) -> Any:
        """The JSON value that comes next; reads on until it is whole, LONGEST_LINE at most."""
        self.peek()
        size = CHUNK
        while True:
            try:
                value, end = self.decoder.raw_decode(self.held, self.at)
                if end < len(self.held) or self.ended:  # else a number might go on
                    self.at = end
                    return value
            except (json.JSONDecodeError, RecursionError) as error:
                if self.ended or len(self.held) - self.at > LONGEST_LINE:
                    where = f"character {self.passed + self.at + 1:,}"
                    raise ValueError(f"the value from {where} on is no JSON ({error})") from None
            self.fill(size)
            size *= 2


class OnDisk:
    """A table of texts by key in a temporary file, so that memory stays flat; gone when closed."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("")  # SQLite's name for a temporary database on the disk
        self.db.execute("CREATE TABLE held (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")

    def __setitem__(self, key: str, value: str) -> None:
        pair = (_bytes(key), _bytes(value))
        self.db.execute("INSERT OR REPLACE INTO held VALUES (?, ?)", pair)

    def get(self, key: str) -> str | None:
        query = "SELECT value FROM held WHERE key = ?"
        found = self.db.execute(query, (_bytes(key),)).fetchone()
        return None if found is None else _text_of(found[0])

    def __iter__(self) -> Iterator[str]:
        """The keys, sorted."""
        return (_text_of(key) for (key,) in self.db.execute("SELECT key FROM held ORDER BY key"))

    def close(self) -> None:
        self.db.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # names of files need not be UTF-8


def _text_of(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")
