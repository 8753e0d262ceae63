"""How sure a metric is: intervals from resampled images, and a test between two systems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from captioning.metrics.measure import Measure

RESAMPLES = 2000
_ROWS = 64  # resamples at once, so that memory stays small however many images there are


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same images: how far the first lies above the second.

    `interval`: 95 % of the differences that other images might have given (paired bootstrap, Koehn
    2004). `p`: how often chance alone would give one as large (approximate randomisation, Riezler
    and Maxwell 2005, which calls fewer ties a win than the bootstrap does).
    """

    difference: float
    interval: tuple[float, float]
    p: float


def bootstrap(
    measure: Measure, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bounds of the corpus value: percentiles over images drawn with replacement.

    The same seed draws the same images for every metric. CIDEr's IDF stays that of all images.
    """
    return _bounds(_resampled(measure, resamples, seed), level)


def compare(
    first: Measure, second: Measure, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """One metric of two systems: is the difference more than chance? ValueError: other images."""
    if first.parts.shape != second.parts.shape:
        raise ValueError(
            f"got {len(first.parts)} images of one system and {len(second.parts)} of the other,"
            " wanted one metric on the same images in the same order; score both on those."
        )
    difference = first.value - second.value
    drawn = _resampled(first, resamples, seed) - _resampled(second, resamples, seed)
    # If the systems were alike, it would not matter which of the two said which caption.
    both = (first.parts + second.parts).sum(0)
    as_large = 0
    for swap in _batches(resamples, seed, len(first.parts), swaps=True):
        one = first.parts.sum(0) + swap @ (second.parts - first.parts)  # (rows, K)
        gap = np.abs(first.formula(one) - first.formula(both - one))
        as_large += int((gap >= abs(difference) - 1e-12).sum())  # rounding must not break ties
    return Comparison(difference, _bounds(drawn, 0.95), (as_large + 1) / (resamples + 1))


def _bounds(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled(measure: Measure, resamples: int, seed: int) -> np.ndarray:
    """(resamples,): the corpus value of each resample."""
    batches = _batches(resamples, seed, len(measure.parts), swaps=False)
    return np.concatenate([measure.formula(times @ measure.parts) for times in batches])


def _batches(resamples: int, seed: int, n: int, *, swaps: bool) -> Iterator[np.ndarray]:
    """(rows, N) each: how often an image is drawn, or (`swaps`) whether its two captions swap."""
    if resamples < 1:
        raise ValueError(f"got {resamples} resamples, wanted 1 or more; 2000 will do.")
    rng = np.random.default_rng([seed, swaps])
    for start in range(0, resamples, _ROWS):
        rows = min(_ROWS, resamples - start)
        if swaps:
            yield rng.integers(2, size=(rows, n)).astype(float)
        else:
            yield rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(float)
