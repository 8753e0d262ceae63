"""Training batches of a set, numbered: a run that was killed goes on with the very same ones.

A step's captions depend on the seed and the step alone (`captioning.data.order`), and are shared
out among the processes of a run; so two processes see what one with the same batch would see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from captioning.data.index import Index, Sample
from captioning.data.opening import open_place
from captioning.data.order import WINDOW, Order, Turn
from captioning.data.rows import Bad, Fault, Side
from captioning.data.transforms import Transform
from captioning.data.workers import batches_ahead
from connector.preprocess import normalise
from gpt2_scratch.tokenizer import Tokenizer

if TYPE_CHECKING:
    from captioning.data.features import FeatureCache

TRIES = 100  # captions that are tried in place of a batch without one usable picture

# B captions   T tokens of the longest


class Batch(NamedTuple):
    """What a model takes, and what was left out.

    `inputs`: normalised pixels (B, 3, size, size), or features (B, N, F) where a cache gave them.
    `ids` (B, T) end in the end token; behind `lengths` (B,) is padding. `images` has B ids.
    """

    inputs: torch.Tensor
    ids: torch.Tensor
    lengths: torch.Tensor
    images: list[str]
    skipped: list[Fault]


@dataclass(frozen=True)
class Batches:
    """The batches of one process of a run.

    `batch` captions a step, of which each of `world` processes takes its share, `micro` at a time
    (all of them where None). `cache` gives features in place of pixels.
    """

    index: Index
    side: Side
    tokenizer: Tokenizer
    transform: Transform
    batch: int
    micro: int | None = None
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 0
    window: int = WINDOW
    cache: FeatureCache | None = None

    def __post_init__(self) -> None:
        if self.batch % self.world or not 0 <= self.rank < self.world:
            raise ValueError(
                f"batch={self.batch} cannot be shared out to rank {self.rank} of {self.world}"
                " processes; make it a multiple of their number."
            )
        if self.micro is not None and self.micro < 1:
            raise ValueError(f"micro={self.micro}: wanted 1 or more captions at a time.")
        if not self.index.count(self.side):
            raise ValueError(
                f"{self.index.path} has no caption for {self.side}; choose another split."
            )
        if self.cache is not None and self.transform.augment is not None:
            raise ValueError("features of a cache cannot be augmented; leave augment or it out.")

    @property
    def share(self) -> int:
        """Captions of a step that this process takes."""
        return self.batch // self.world

    @property
    def accumulation(self) -> int:
        """Batches of a step: their gradients are summed before the optimizer's."""
        return -(-self.share // (self.micro or self.share))

    @property
    def steps_an_epoch(self) -> int:
        return max(1, self.index.count(self.side) // self.batch)

    def __call__(self, step: int) -> Iterator[Batch]:
        """`accumulation` batches for each step from this one on, without end."""
        n = self.index.count(self.side)
        order = Order(n, self.batch, self.seed, self._lengths, self.window)
        size = self.micro or self.share
        return self._load(
            turns[self.rank :: self.world][at : at + size]
            for turns in order.from_step(step)
            for at in range(0, self.share, size)
        )

    def once(self, most: int | None = None) -> Iterator[Batch]:
        """This process's share of the side, each caption once, in order, nothing augmented; or of
        `most` captions that are spread evenly over it."""
        n = self.index.count(self.side)
        chosen = range(n) if most is None or most >= n else [i * n // most for i in range(most)]
        mine = chosen[self.rank :: self.world]
        size = self.micro or self.share
        return self._load(
            [Turn(-1, position) for position in mine[at : at + size]]
            for at in range(0, len(mine), size)
        )

    def _lengths(self, positions: Sequence[int]) -> list[int]:
        return self.index.lengths(self.side, positions)

    def _load(self, turns: Iterator[list[Turn]]) -> Iterator[Batch]:
        loader = batches_ahead(
            Loading(self), self.workers, _as_it_is, batch_size=None, sampler=turns
        )
        for batch in loader:
            pixels = batch.inputs.dtype == torch.uint8
            yield batch._replace(inputs=normalise(batch.inputs) if pixels else batch.inputs.float())


class Loading(Dataset[Batch]):
    """Turns -> a Batch, its pixels still bytes; in a worker or not, the same."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, turns: list[Turn]) -> Batch:
        """Captions whose picture fails are left out and listed; where all do, the next that works
        stands in, so that no process of a run is left without a batch."""
        skipped: list[Fault] = []
        items = [item for turn in turns if (item := self._try(turn, skipped)) is not None]
        n = self.batches.index.count(self.batches.side)
        epoch, position = turns[-1]
        for other in range(position + 1, position + 1 + TRIES):
            if items:
                break
            items = [item] if (item := self._try(Turn(epoch, other % n), skipped)) else []
        if not items:
            raise ValueError(
                f"none of {len(turns) + TRIES} pictures in a row could be used, the last since"
                f" {skipped[-1]}; look at the set with: python -m captioning data check."
            )
        samples, pictures = zip(*items, strict=True)
        return self._collate(samples, pictures, skipped)

    def _try(self, turn: Turn, skipped: list[Fault]) -> tuple[Sample, np.ndarray] | None:
        batches = self.batches
        sample = batches.index.sample(batches.side, turn.position)
        try:
            if batches.cache is not None:
                return sample, batches.cache[sample.image]
            image = open_place(sample.place)
        except Bad as bad:
            skipped.append(Fault(bad.kind, bad.reason, sample.file, sample.row))
            return None
        seed = (batches.seed, *turn) if turn.epoch >= 0 else None
        return sample, batches.transform(image, seed)

    def _collate(
        self, samples: tuple[Sample, ...], pictures: tuple[np.ndarray, ...], skipped: list[Fault]
    ) -> Batch:
        inputs = torch.from_numpy(np.stack(pictures))  # (B, size, size, 3) or (B, N, F)
        if self.batches.cache is None:
            inputs = inputs.permute(0, 3, 1, 2)  # (B, 3, size, size)
        tokenizer = self.batches.tokenizer
        rows = [[*tokenizer.encode(sample.caption), tokenizer.end] for sample in samples]
        lengths = torch.tensor([len(row) for row in rows])
        longest = int(lengths.max())
        ids = torch.tensor([row + [tokenizer.end] * (longest - len(row)) for row in rows])  # (B, T)
        return Batch(inputs, ids, lengths, [sample.image for sample in samples], skipped)


def _as_it_is(batch: Any) -> Any:
    return batch
