"""All metrics of a set of captions with their intervals, and the differences between two sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from captioning.metrics.intervals import RESAMPLES, Comparison, bootstrap, compare
from captioning.metrics.measure import Measure
from captioning.metrics.ptb import tokenize
from captioning.metrics.scoring import measures
from captioning.metrics.texture import distinct, end_rate, length_ratio, repetition


class Row(NamedTuple):
    """A metric, its value, and the bounds of its 95 % interval where it has one."""

    name: str
    value: float
    interval: tuple[float, float] | None


def summarise(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Row]:
    """`score`'s metrics and what captions are like: distinct-n, repetition-n, length, ends.

    A single image has no intervals: nothing is known of others.
    """
    rows = []
    for name, measure in every_measure(candidates, references).items():
        sure = len(candidates) > 1
        interval = bootstrap(measure, resamples=resamples, seed=seed) if sure else None
        rows.append(Row(name, measure.value, interval))
    tokens = [tokenize(text) for text in candidates]
    return rows + [Row(f"distinct-{n}", distinct(tokens, n), None) for n in (1, 2)]


def differences(
    candidates: Sequence[str],
    others: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Each metric of the first captions less that of the others, of the same images."""
    first, second = every_measure(candidates, references), every_measure(others, references)
    return {
        name: compare(first[name], second[name], resamples=resamples, seed=seed) for name in first
    }


def every_measure(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Measure]:
    """`measures`, and those that need no reference; fractions."""
    found = measures(candidates, references)
    tokens = [tokenize(text) for text in candidates]
    wanted = [[tokenize(text) for text in several] for several in references]
    return {
        **found,
        "length-ratio": length_ratio(tokens, wanted),
        "end-rate": end_rate(candidates),
        **{f"repetition-{n}": repetition(tokens, n) for n in (1, 2, 3, 4)},
    }
