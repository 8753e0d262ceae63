"""Training batches of scenes and of their captions, endless and numbered.

A batch is a function of the run's seed and the step's number: a run that was killed goes on with
the very batches that it would have had.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from captioning.data.workers import batches_ahead
from captioning.scenes.draw import Scene, compose, draw
from captioning.scenes.facts import MOST_OBJECTS
from connector.preprocess import normalise, resize_and_crop
from gpt2_scratch.tokenizer import BPETokenizer, Tokenizer
from gpt2_scratch.training.loop import TrainingConfig
from gpt2_scratch.training.parallel import world

# First number of a scene's seed; `evaluate.HELD_OUT` is another, so no scene serves both.
TRAINING, CAPTIONS = 1, 3


def captions(seed: int, start: int, n: int) -> list[str]:
    """The captions of scenes that nobody draws: numbers `start` to `start + n` of a seed."""
    return [compose((CAPTIONS, seed, i)).caption for i in range(start, start + n)]


def caption_windows(
    tokenizer: BPETokenizer, config: TrainingConfig, length: int, step: int
) -> Iterator[torch.Tensor]:
    """Batches (B, length + 1) of ids from `step` on: captions end to end, an end token between.

    Of several processes each gets its share of the rows. Every position of the context is trained,
    as in GPT-2's own pretraining.
    """
    each = 2 + length // 16  # captions for a row: more than enough to fill it
    for now in itertools.count(step):
        rows = []
        for row in share_of_rows(now * config.batch, config.batch):
            ids = [tokenizer.end]
            for text in captions(config.seed, row * each, each):
                ids += [*tokenizer.encode(text), tokenizer.end]
            rows.append(ids[: length + 1])
        yield torch.tensor(rows)


def share_of_rows(first: int, many: int) -> range:
    """This process's of the rows from `first` on, `many` for all processes together."""
    group = world()
    return range(first + group.rank, first + many, group.size)


class Batch(NamedTuple):
    """Normalised pixels (B, 3, size, size), padded ids (B, T), lengths (B,) with the end token."""

    pixels: torch.Tensor
    ids: torch.Tensor
    lengths: torch.Tensor


def collate(items: list[tuple[np.ndarray, list[int]]]) -> Batch:
    """Pictures and ids of unequal lengths -> one Batch, its pixels still bytes."""
    pixels = torch.from_numpy(np.stack([picture for picture, _ in items]))  # (B, size, size, 3)
    lengths = torch.tensor([len(ids) for _, ids in items])
    longest = int(lengths.max())
    ids = torch.tensor([row + [0] * (longest - len(row)) for _, row in items])
    return Batch(pixels.permute(0, 3, 1, 2), ids, lengths)


class Drawn(Dataset[Any]):
    """The numbered pictures of a run with their captions' ids; number i is always the same."""

    def __init__(self, tokenizer: Tokenizer, size: int, config: TrainingConfig) -> None:
        self.tokenizer, self.size, self.seed = tokenizer, size, config.seed
        self.n = config.steps * config.batch

    def __len__(self) -> int:
        return self.n

    def example(self, scene: Scene) -> tuple[np.ndarray, list[int]]:
        """The tower's pixels (size, size, 3) of a scene, and its caption's ids with the end."""
        ids = [*self.tokenizer.encode(scene.caption), self.tokenizer.end]
        return resize_and_crop(scene.image, self.size), ids

    @staticmethod
    def collate(items: list[Any]) -> Any:
        """Items -> one batch, its pixels still bytes."""
        return collate(items)


class Scenes(Drawn):
    """Scenes that over the first `climb` of the run go from one object to all four.

    So that what an object is gets learned before how to tell four apart (Bengio et al. 2009).
    """

    def __init__(
        self, tokenizer: Tokenizer, size: int, config: TrainingConfig, climb: float
    ) -> None:
        super().__init__(tokenizer, size, config)
        self.climb = climb

    def most(self, index: int) -> int:
        """How many objects scene `index` may have."""
        if index >= self.climb * self.n:
            return MOST_OBJECTS
        return 1 + int(MOST_OBJECTS * index / (self.climb * self.n))

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int]]:
        most = self.most(index)
        seeds = ((TRAINING, self.seed, index, attempt) for attempt in itertools.count())
        return self.example(draw(next(s for s in seeds if len(compose(s).facts) <= most)))


def scene_batches(
    scenes: Drawn, config: TrainingConfig, workers: int, step: int, *, share: bool = True
) -> Iterator[Any]:
    """Batches of freshly drawn scenes from `step` on, drawn ahead by worker processes.

    Each is what `scenes.collate` makes, with normalised pixels. Of several processes each gets its
    `share` of the rows, or all.
    """
    rows = share_of_rows if share else lambda first, many: range(first, first + many)
    firsts = range(step * config.batch, len(scenes), config.batch)
    numbers = (list(rows(first, config.batch)) for first in firsts)
    loader = batches_ahead(scenes, workers, scenes.collate, batch_sampler=numbers)
    for batch in loader:
        yield batch._replace(pixels=normalise(batch.pixels))
