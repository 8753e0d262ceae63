"""How far one NaN gets: rows with nothing to see, through three layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chapters.runner.exercise import Experiment

HEADS, SIZE, LAYERS, TOKENS, PADS = 3, 4, 3, 10, 4
Softmax = Callable[[Tensor, Tensor], Tensor]


def careless(scores: Tensor, hidden: Tensor) -> Tensor:
    """The softmax of chapter 4, which has no answer where everything is hidden."""
    return torch.softmax(scores.masked_fill(hidden, -math.inf), -1)


def layers(
    x: Tensor, padding: Tensor, softmax: Softmax, piece: Callable[[str], Any]
) -> list[tuple[Tensor, Tensor]]:
    """(weights, the stream after it) of each layer of attention, (B, H, T, T) and (B, T, C)."""
    chance = torch.Generator().manual_seed(0)
    hidden = piece("hidden_positions")(x.shape[1], x.shape[1], padding, x.device)
    found = []
    for _ in range(LAYERS):
        w = torch.randn(4, x.shape[-1], x.shape[-1], generator=chance, dtype=x.dtype) / 4
        q, k, v = (piece("split_heads")(x @ each, HEADS) for each in w[:3])
        weights = softmax(piece("attention_scores")(q, k), hidden)
        x = x + piece("merge_heads")(weights @ v) @ w[3]
        found.append((weights, x))
    return found


def sentences() -> tuple[Tensor, Tensor]:
    """Two sentences of 10 tokens, the second with 4 tokens of padding in front."""
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(2, TOKENS, HEADS * SIZE, generator=chance, dtype=torch.float64)
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding[1, :PADS] = True
    return x, padding


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The share of NaN tokens by layer and sentence; then that padding in front changes nothing."""
    x, padding = sentences()
    lines = ["NaN tokens in     sentence 0   sentence 1, padded"]
    shares = []
    for number, (_, stream) in enumerate(layers(x, padding, careless, piece), 1):
        share = stream.isnan().any(-1).double().mean(-1) * 100
        shares.append(share[1].item())
        lines.append(f"after layer {number}     {share[0]:>6.0f} %     {share[1]:>6.0f} %")
    safe = piece("safe_softmax")
    padded = layers(x, padding, safe, piece)[-1][1][1, PADS:]
    alone = layers(x[1:, PADS:], padding[1:, PADS:], safe, piece)[-1][1][0]
    gap = (padded - alone).abs().max().item()
    lines.append("")
    lines.append(f"with safe_softmax: the 6 real tokens, padded or alone, differ by {gap:.0e}")
    return shares[1], lines


EXPERIMENT = Experiment(
    asks="how many per cent of a sentence's 10 tokens are NaN after the second layer, when 4 of"
    " them are padding in front and rows with nothing to see are left as 0 / 0",
    band=(100.0, 100.0),  # counted, not measured
    means=(
        "After one layer the padded tokens are NaN. In the next one every real token gives them"
        " weight 0, and 0 times NaN is NaN. The other sentence of the batch is untouched, which is"
        " why a loss over both of them is NaN while half of the outputs look well."
    ),
    measure=measure,
)
