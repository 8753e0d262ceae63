"""A set in figures: how long captions are and how they begin, how large the pictures are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from captioning.data.check import Report, places, report
from captioning.data.index import Index
from captioning.data.opening import look
from captioning.data.rows import Bad

BINS = 12
OPENING = 3  # words


@dataclass(frozen=True)
class Numbers:
    """A quantity over a set; `bins` counts from each lower bound on."""

    count: int
    mean: float
    least: int
    median: int
    most_of_all: int  # the 99th of 100
    most: int
    bins: dict[int, int]


@dataclass(frozen=True)
class Statistics:
    """What `stats` tells. Pictures are a sample: only their headers are read."""

    report: Report
    lengths: Numbers  # in tokens, or in pieces where no tokenizer was given
    words: Numbers
    captions_a_picture: Numbers
    openings: dict[str, int]  # the most frequent first words
    sampled: int
    unreadable: int  # of those
    formats: dict[str, int]
    widths: Numbers | None
    heights: Numbers | None


def statistics(index: Index, *, pictures: int = 1000) -> Statistics:
    """The figures of an index; about `pictures` of its pictures are looked at, evenly spread."""
    db = index.db
    db.create_function("words", 1, lambda text: len(text.split()), deterministic=True)
    db.create_function("opening", 1, _opening, deterministic=True)
    openings = "SELECT opening(text), count(*) FROM captions GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10"
    formats: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    unreadable = 0
    step = max(1, index.one("SELECT count(*) FROM images") // pictures)
    for _, place in (pair for chunk in places(db, step) for pair in chunk):
        try:
            seen = look(place, whole=False)
        except Bad:
            unreadable += 1
            continue
        formats[seen.format] += 1
        sizes.append((seen.width, seen.height))
    return Statistics(
        report=report(index),
        lengths=_numbers(index, "length", "captions"),
        words=_numbers(index, "words(text)", "captions"),
        captions_a_picture=_numbers(
            index, "n", "(SELECT count(*) AS n FROM captions GROUP BY number)"
        ),
        openings=dict(db.execute(openings)),
        sampled=len(sizes) + unreadable,
        unreadable=unreadable,
        formats=dict(formats.most_common()),
        widths=_of_list([width for width, _ in sizes]),
        heights=_of_list([height for _, height in sizes]),
    )


def _opening(text: str) -> str:
    return " ".join(text.split()[:OPENING])


def _numbers(index: Index, value: str, table: str) -> Numbers:
    """Of an SQL expression, sorted and counted by SQLite, on the disk where need be."""
    count, mean, least, most = index.db.execute(
        f"SELECT count({value}), avg({value}), min({value}), max({value}) FROM {table}"
    ).fetchone()

    def at(share: float) -> int:
        place = min(count - 1, int(share * count))
        return int(index.one(f"SELECT {value} FROM {table} ORDER BY 1 LIMIT 1 OFFSET {place}"))

    width = _width(least, most)
    query = f"SELECT {value} / {width} * {width}, count(*) FROM {table} GROUP BY 1 ORDER BY 1"
    bins = dict(index.db.execute(query))
    return Numbers(count, mean, least, at(0.5), at(0.99), most, bins)


def _of_list(values: Sequence[int]) -> Numbers | None:
    if not values:
        return None
    ranked = sorted(values)
    width = _width(ranked[0], ranked[-1])
    bins = Counter(value // width * width for value in ranked)
    count = len(ranked)
    return Numbers(
        count,
        sum(ranked) / count,
        ranked[0],
        ranked[count // 2],
        ranked[min(count - 1, int(0.99 * count))],
        ranked[-1],
        dict(sorted(bins.items())),
    )


def _width(least: int, most: int) -> int:
    """Of a bin: 1, 2, 5, 10, 20, ... so that there are about BINS of them."""
    scale = 1
    while True:
        for width in (scale, 2 * scale, 5 * scale):
            if (most - least) // width < BINS:
                return width
        scale *= 10


def as_text(found: Statistics, unit: str) -> str:
    """The figures as a page of text; `unit` is what caption lengths are counted in."""
    blocks = [
        _block(f"length of a caption, in {unit} (the end token is one)", found.lengths),
        _block("words in a caption", found.words),
        _block("captions of a picture", found.captions_a_picture),
    ]
    share = found.lengths.count / 100
    begins = [f"  {n:>9,}  {n / share:4.1f} %  {text}" for text, n in found.openings.items()]
    blocks.append("\n".join(["how captions begin", *begins]))
    formats = ", ".join(f"{n} {name}" for name, n in found.formats.items()) or "none"
    failed = f", {found.unreadable} unreadable" if found.unreadable else ""
    blocks.append(f"pictures, {found.sampled} looked at: {formats}{failed}")
    for name, numbers in (("width", found.widths), ("height", found.heights)):
        if numbers is not None:
            blocks.append(_block(f"{name} of a picture", numbers))
    return "\n\n".join(blocks)


def _block(title: str, numbers: Numbers) -> str:
    head = (
        f"{title}: {numbers.least} to {numbers.most}, mean {numbers.mean:.1f}, median"
        f" {numbers.median}, 99 % at most {numbers.most_of_all}"
    )
    most = max(numbers.bins.values())
    bars = [
        f"  {start:>9,} {n:>9,}  {'█' * round(40 * n / most)}" for start, n in numbers.bins.items()
    ]
    return "\n".join([head, *bars])


def as_json(found: Statistics) -> dict[str, Any]:
    """The figures as a plain dictionary."""
    return asdict(found)
