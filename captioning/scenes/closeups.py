"""Stage 2's pictures: scenes of one object that differ in its shape, seen through a window.

A caption's words are not equally hard to see. Colours part most scenes of a batch, so CLIP's
objective alone seldom asks for the shape; here each object comes in all six (hard negatives, as
in Yuksekgonul et al. 2023). And a tower that reads a quarter of the patches learns from four times
as many pictures in the same time (Li et al. 2023, FLIP).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from captioning.scenes.batches import Drawn, collate
from captioning.scenes.draw import Item, draw_alone
from captioning.scenes.facts import SHAPES
from connector.config import VisionConfig
from gpt2_scratch.tokenizer import BPETokenizer
from gpt2_scratch.training.loop import TrainingConfig

CLOSE_UPS = 4  # first number of a scene's seed, as in `batches`


class CloseUp(NamedTuple):
    """As `Batch`, and `patches` (B, K): the numbers of those that the tower sees."""

    pixels: torch.Tensor
    ids: torch.Tensor
    lengths: torch.Tensor
    patches: torch.Tensor


class CloseUps(Drawn):
    """The close-ups of a run: six in a row are one object in its six shapes."""

    def __init__(
        self, tokenizer: BPETokenizer, vision: VisionConfig, config: TrainingConfig
    ) -> None:
        super().__init__(tokenizer, vision.image_size, config)
        self.grid = vision.grid

    def __getitem__(self, index: int) -> tuple[np.ndarray, list[int], np.ndarray]:
        kin, shape = divmod(index, len(SHAPES))
        scene, item = draw_alone((CLOSE_UPS, self.seed, kin), SHAPES[shape])
        rng = np.random.default_rng((CLOSE_UPS, self.seed, index))
        return *self.example(scene), window(item, self.grid, rng)

    @staticmethod
    def collate(items: list[Any]) -> CloseUp:
        patches = torch.from_numpy(np.stack([patches for *_, patches in items]))
        return CloseUp(*collate([(picture, ids) for picture, ids, _ in items]), patches)


def window(item: Item, grid: int, rng: np.random.Generator) -> np.ndarray:
    """(K,): the patches of a square of half the grid's side that holds the object somewhere."""
    side = (grid + 1) // 2
    firsts = []
    for centre in (item.y, item.x):
        low, high = (grid * (centre + sign * item.diameter / 2) for sign in (-1, 1))
        first, last = max(0, int(np.ceil(high)) - side), min(grid - side, int(low))
        firsts.append(int(rng.integers(min(first, last), last + 1)))
    row, column = firsts
    return ((row + np.arange(side))[:, None] * grid + column + np.arange(side)).ravel()
