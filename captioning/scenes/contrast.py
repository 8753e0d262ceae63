"""Stage 2's objective: CLIP's, of a batch, which caption belongs to which picture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from captioning.scenes.closeups import CloseUp
from connector.vision import ClipVision
from gpt2_scratch.training.loop import Loss

# Where CLIP starts its scale, and the most it may become (Radford et al. 2021, section 2.5).
FIRST_SCALE, MOST_SCALE = 1 / 0.07, 100.0
WORD_SCALE = 0.02


class Contrast(nn.Module):
    """An image tower and a bag of words with one space of vectors between them.

    A caption's vector is the sum of its tokens': enough for one object, and next to no work.
    Only the image tower is kept.
    """

    def __init__(self, vision: ClipVision, n_vocab: int) -> None:
        super().__init__()
        self.vision = vision
        self.wte = nn.Embedding(n_vocab, vision.config.projection)
        nn.init.normal_(self.wte.weight, std=WORD_SCALE)
        self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE).log())

    def similarities(self, batch: CloseUp) -> torch.Tensor:
        """Scaled cosines of every picture (rows) with every caption (columns): (B, B)."""
        states = self.vision.hidden_states(batch.pixels, batch.patches)
        # The mean of the patches, not the class token: stage 3 will read the patches.
        pictures = (
            self.vision.ln_post(states[-1][:, 1:].mean(1)) @ self.vision.proj
        )  # (B, projection)
        said = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]  # (B, T)
        texts = (self.wte(batch.ids) * said[..., None]).sum(1)  # (B, projection)
        cosines = F.normalize(pictures.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        return cosines * self.logit_scale.exp().clamp(max=MOST_SCALE)

    def loss_sum(self, batch: CloseUp) -> Loss:
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
