"""Stage 2's objective: CLIP's, of a batch, which caption belongs to which picture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from captioning.scenes.batches import Batch
from connector.vision import ClipVision
from gpt2_scratch.model import GPT2
from gpt2_scratch.training.loop import Loss

# Where CLIP starts its scale, and the most it may become (Radford et al. 2021, section 2.5).
FIRST_SCALE, MOST_SCALE = 1 / 0.07, 100.0


class Contrast(nn.Module):
    """An image tower and a text tower with one space of vectors between them.

    The text tower is stage 1's GPT-2, read at the end token; only the image tower is kept.
    """

    def __init__(self, vision: ClipVision, text: GPT2) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        self.text_projection = nn.Linear(text.config.n_embd, vision.config.projection, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())

    def similarities(self, batch: Batch) -> torch.Tensor:
        """Scaled cosines of every picture (rows) with every caption (columns): (B, B)."""
        pictures = self.vision.image_features(self.vision.hidden_states(batch.pixels))
        states = self.text.states(self.text.embed(batch.ids))  # (B, T, C)
        ends = states[torch.arange(len(states)), batch.lengths - 1]  # (B, C)
        texts = self.text_projection(ends)  # (B, projection)
        cosines = F.normalize(pictures.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        return cosines * self.logit_scale.exp().clamp(max=MOST_SCALE)

    def loss_sum(self, batch: Batch) -> Loss:
        """Sum of the cross entropies of both directions, and their number (2 B)."""
        scores = self.similarities(batch)
        same = torch.arange(len(scores))
        by_picture, by_caption = (
            F.cross_entropy(s, same, reduction="sum") for s in (scores, scores.T)
        )
        return by_picture + by_caption, 2 * len(scores)


@torch.no_grad()
def place_patches(vision: ClipVision, scale: float) -> None:
    """Start the patches' learned positions as sines of row and column (He et al. 2022, MAE).

    In minutes of training a tower does not find out by itself which patches lie side by side.
    """
    grid, quarter = vision.config.grid, vision.config.width // 4
    rates = torch.pi / grid * torch.logspace(-1, 3, quarter, base=2)  # 1/4 of a wave to 4 waves
    angles = torch.arange(grid)[:, None] * rates  # (grid, W / 4)
    waves = torch.cat([angles.sin(), angles.cos()], -1)  # (grid, W / 2)
    rows = waves[:, None].expand(-1, grid, -1)  # (grid, grid, W / 2)
    table = torch.cat([rows, rows.transpose(0, 1)], -1).flatten(0, 1)  # (P, W)
    vision.positional_embedding[1:] = scale * table
