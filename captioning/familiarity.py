"""Does a picture look like those that the model was trained on?

A model that knows only drawn scenes captions a photograph as confidently as a scene. This says so
beforehand: the statistics of the encoder's hidden states are compared with those of known pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def statistics(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean and deviation over the patches of the first and last state: [(B, 1+P, W)] -> (B, 4W)."""
    patches = [states[i][:, 1:].float() for i in (0, -1)]  # (B, P, W)
    return torch.cat([t for p in patches for t in (p.mean(1), p.std(1))], -1)  # (B, 4 W)


class Familiarity(nn.Module):
    """A score in [0, 1] by Mahalanobis distance from known pictures (Lee et al. 2018).

    Not yet calibrated (a slope of zero) it gives 1/2 and calls every picture familiar.
    """

    mean: torch.Tensor  # (4 W,)
    whiten: torch.Tensor  # (4 W, 4 W)
    bound: torch.Tensor  # (), the log distance at which the score is 1/2
    slope: torch.Tensor  # ()

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4 * width))
        self.register_buffer("whiten", torch.zeros(4 * width, 4 * width))
        self.register_buffer("bound", torch.zeros(()))
        self.register_buffer("slope", torch.zeros(()))

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Log of the squared distance a feature, (B, 4W) -> (B,)."""
        away = (features - self.mean.float()) @ self.whiten.float()  # (B, 4 W)
        return away.square().mean(-1).clamp(min=1e-12).log()  # (B,)

    def forward(self, states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """[(B, 1 + P, W)] -> (B,) scores and (B,) whether familiar."""
        score = torch.sigmoid((self.bound - self.distance(statistics(states))) * self.slope)  # (B,)
        return score, score >= 0.5

    @torch.no_grad()
    def fit(self, known: torch.Tensor) -> None:
        """Take the mean and covariance of known pictures' statistics (n, 4W)."""
        self.mean.copy_(known.mean(0))
        covariance = torch.cov(known.T.double())
        # A tenth of a percent of the mean variance keeps directions that never vary finite.
        ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance))
        values, vectors = torch.linalg.eigh(covariance + ridge)
        self.whiten.copy_(vectors * values.rsqrt())
