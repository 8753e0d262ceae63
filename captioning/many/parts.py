"""Files of numbered JSON lines that several processes write and any of them may tear.

A part is good up to its first line that is torn, damaged or out of order; what comes after counts
as never written.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple


class Line(NamedTuple):
    """A line with its number, and where in its file it ends."""

    number: int
    text: bytes
    end: int


class Bits:
    """A set of numbers below n in n / 8 bytes."""

    def __init__(self, n: int) -> None:
        self.n, self.held = n, bytearray(-(-n // 8))

    def add(self, number: int) -> None:
        self.held[number // 8] |= 1 << number % 8

    def __contains__(self, number: int) -> bool:
        return bool(self.held[number // 8] >> number % 8 & 1)

    def holds(self, numbers: range) -> bool:
        """Whether all of them are in it."""
        return all(number in self for number in numbers)


def as_line(number: int, fields: dict[str, Any]) -> bytes:
    """ASCII, so that names which are no UTF-8 pass through every parser."""
    return json.dumps({"number": number, **fields}).encode() + b"\n"


def good_lines(path: Path, n: int) -> Iterator[Line]:
    """The lines of a part with numbers below n, in order; none where there is no file."""
    if not path.is_file():
        return
    last, end = -1, 0
    with path.open("rb") as file:
        for text in file:
            number = _number(text)
            if number is None or not last < number < n:
                return
            last, end = number, end + len(text)
            yield Line(number, text, end)


def _number(text: bytes) -> int | None:
    """The number of a line; None where it is torn or damaged."""
    try:
        number = json.loads(text)["number"]
    except (ValueError, KeyError, TypeError):
        return None
    return number if text.endswith(b"\n") and isinstance(number, int) else None


def written(paths: Iterable[Path], n: int) -> Bits:
    """Every number of these parts."""
    found = Bits(n)
    for path in paths:
        for line in good_lines(path, n):
            found.add(line.number)
    return found


def heal(path: Path, n: int, block: int, done: Bits) -> int:
    """Cuts off a part whatever comes after its last block that is in `done`; its last number.

    -1 where nothing is left.
    """
    last, end = -1, 0
    for line in good_lines(path, n):
        if not done.holds(block_of(line.number, block, n)):
            break
        last, end = line.number, line.end
    if path.is_file() and path.stat().st_size > end:
        with path.open("r+b") as file:
            file.truncate(end)
    return last


def block_of(number: int, block: int, n: int) -> range:
    """The numbers of the block that one lies in."""
    start = number - number % block
    return range(start, min(start + block, n))


def merged(paths: Sequence[Path], n: int) -> Iterator[bytes]:
    """The lines of all parts by number, each number once."""
    every = heapq.merge(*(good_lines(path, n) for path in paths), key=lambda line: line.number)
    for _, lines in groupby(every, key=lambda line: line.number):
        yield next(lines).text
