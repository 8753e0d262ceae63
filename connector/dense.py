"""The Dense Connector: several of CLIP's hidden states side by side, then a projection.

Yao et al. 2024, arXiv 2405.13800. `states` are the L + 1 hidden states of a tower of L layers,
(B, 1 + P, W) each, class token first. `keep` picks tokens of the result before any is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from connector.config import ConnectorConfig

# B batch   C channels (1280)   P patches (576)   W CLIP width (1024)   L layers (24)
# T tokens before the reducer (577)

ALL = slice(None)


def _patches(state: Tensor, keep: slice = ALL) -> Tensor:
    return state[:, 1:][:, keep]  # (B, P, W)


def _mean(states: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(states)).mean(0)


def article(states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
    """[(B, 1 + P, W)] -> (B, 1 + P, 3 W): the last state, then the mean of each half.

    L + 1 states are split at (L + 1) // 2: 0..11 and 12..24 for CLIP-L. The class token stays.
    """
    states = [state[:, keep] for state in states]
    half = len(states) // 2
    return torch.cat([states[-1], _mean(states[:half]), _mean(states[half:])], -1)  # (B, T, 3 W)


def dci(states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
    """[(B, 1 + P, W)] -> (B, P, 3 W): dense channel integration.

    State L - 1, then the means of 0..L/2-1 and L/2..L-1. The last state is never read.
    """
    states = [_patches(state, keep) for state in states[:-1]]
    half = len(states) // 2
    return torch.cat([states[-1], _mean(states[:half]), _mean(states[half:])], -1)  # (B, P, 3 W)


def sparse_layers(depth: int) -> tuple[int, int, int]:
    """The states that `sci` and `sti` take, low to high: (7, 15, 23) for 24 layers."""
    return depth // 3 - 1, 2 * depth // 3 - 1, depth - 1


def sci(states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
    """[(B, 1 + P, W)] -> (B, P, 3 W): sparse channel integration, states L-1, L/3-1, 2L/3-1."""
    low, middle, high = sparse_layers(len(states) - 1)
    chosen = [_patches(states[layer], keep) for layer in (high, low, middle)]
    return torch.cat(chosen, -1)  # (B, P, 3 W)


def sti(states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
    """[(B, 1 + P, W)] -> (B, P + P / 8 + P / 8, W): sparse token integration.

    The lower states are averaged over runs of 8 patches and follow the P patches of state L - 1.
    """
    low, middle, high = (_patches(states[layer]) for layer in sparse_layers(len(states) - 1))
    pooled = [state.unflatten(1, (-1, 8)).mean(2) for state in (low, middle)]  # (B, P / 8, W)
    return torch.cat([high, *pooled], 1)[:, keep]  # (B, P + P / 4, W)


def last(states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
    """[(B, 1 + P, W)] -> (B, 1 + P, W): the last state alone, what the others are compared with."""
    return states[-1][:, keep]


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "article": article,
    "dci": dci,
    "sci": sci,
    "sti": sti,
    "last": last,
}


class DenseConnector(nn.Module):
    """A variant's dense features, projected to the language model's width.

    The article's projection is Linear, Dropout, LayerNorm; the paper's Linear, GELU, Linear.
    """

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        enter = nn.Linear(config.features, config.out)
        if config.variant in ("article", "last"):
            self.projection = nn.Sequential(
                enter, nn.Dropout(config.dropout), nn.LayerNorm(config.out)
            )
        else:
            self.projection = nn.Sequential(enter, nn.GELU(), nn.Linear(config.out, config.out))

    def features(self, states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
        """[(B, 1 + P, W)] -> (B, T, k W), T the tokens that `keep` leaves."""
        depth, patches = len(states) - 1, states[0].shape[1] - 1
        if (depth, patches) != (self.config.depth, self.config.patches):
            raise ValueError(
                f"got {depth + 1} hidden states of {patches} patches, wanted"
                f" {self.config.depth + 1} of {self.config.patches} (layer 0 and the class token"
                " included). Pass ClipVision.hidden_states(pixels) of the tower of the config."
            )
        return VARIANTS[self.config.variant](states, keep)

    def forward(self, states: Sequence[Tensor], keep: slice = ALL) -> Tensor:
        """[(B, 1 + P, W)] -> (B, T, C)."""
        return self.projection(self.features(states, keep))
