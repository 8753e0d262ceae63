"""Which captions are in which batch: a function of the seed and the step's number, nothing else.

Each epoch is a new order of all captions. It is cut into windows, each window sorted by length and
cut into batches, and the batches of a window come in a random order: so the captions of a batch
are of like length, and padding is rare. Memory: one window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]
Lengths = Callable[[Sequence[int]], Sequence[int]]

WINDOW = 64  # batches
ROUNDS = 6


class Turn(NamedTuple):
    """A caption of a run: how often all were seen before, and its position among them."""

    epoch: int
    position: int


class Permutation:
    """A random order of 0 to n - 1 in constant memory: `permutation(places)` -> numbers.

    A Feistel network over the smallest square power of two that holds n; numbers from n on are
    sent through again until they are below (Black and Rogaway 2002).
    """

    def __init__(self, n: int, seed: Sequence[int]) -> None:
        self.n = n
        self.half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))  # bits
        self.mask = np.uint64((1 << int(self.half)) - 1)
        self.keys = np.random.default_rng(seed).integers(0, 2**64, ROUNDS, dtype=np.uint64)

    def __call__(self, places: npt.ArrayLike) -> Numbers:
        numbers = self._once(np.asarray(places, dtype=np.uint64))
        while (beyond := numbers >= self.n).any():
            numbers[beyond] = self._once(numbers[beyond])
        return numbers

    def _once(self, numbers: Numbers) -> Numbers:
        left, right = numbers >> self.half, numbers & self.mask
        for key in self.keys:
            left, right = right, left ^ (_mix(right ^ key) & self.mask)
        return (left << self.half) | right


def _mix(x: Numbers) -> Numbers:
    """SplitMix64's finisher: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Order:
    """The batches of `batch` captions each, out of `n`, over as many epochs as wanted.

    An epoch has n // batch batches; the few captions left over are others in each epoch. Where a
    batch is larger than all there is, captions come twice in it.
    """

    n: int
    batch: int
    seed: int
    lengths: Lengths  # of the captions at some positions
    window: int = WINDOW

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch < 1 or self.window < 1:
            raise ValueError(f"{self.n} captions, batch={self.batch}: wanted 1 or more of each.")

    @property
    def batches_an_epoch(self) -> int:
        return max(1, self.n // self.batch)

    def __call__(self, step: int) -> list[Turn]:
        """The captions of a step, counted from 0."""
        return next(self.from_step(step))

    def from_step(self, step: int) -> Iterator[list[Turn]]:
        """The captions of each step from this one on, without end."""
        while True:
            epoch, number = divmod(step, self.batches_an_epoch)
            window, place = divmod(number, self.window)
            batches = self._window(epoch, window)[place:]
            for positions in batches:
                yield [Turn(epoch, position) for position in positions]
            step += len(batches)

    def _window(self, epoch: int, window: int) -> list[list[int]]:
        """The batches of one window, each a list of positions."""
        first = window * self.window
        count = min(self.window, self.batches_an_epoch - first)
        places = np.arange(first * self.batch, (first + count) * self.batch) % self.n
        positions: list[int] = Permutation(self.n, (self.seed, epoch))(places).tolist()
        lengths = self.lengths(positions)
        # Ties keep the epoch's order, which is random.
        ranked = sorted(range(len(positions)), key=lambda i: lengths[i])
        cut = [
            [positions[i] for i in ranked[at : at + self.batch]]
            for at in range(0, len(ranked), self.batch)
        ]
        shuffled = np.random.default_rng((self.seed, epoch, window)).permutation(count)
        return [cut[i] for i in shuffled]
