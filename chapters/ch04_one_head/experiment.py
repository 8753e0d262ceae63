"""How sharp attention is by accident: the largest weight among random keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from chapters.runner.exercise import Experiment

KEYS = 64


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The mean largest weight over 64 random keys, by D, without the scale and with it."""
    scores, masked_softmax = piece("attention_scores"), piece("masked_softmax")
    hidden = torch.zeros(1, 1, 4, KEYS, dtype=torch.bool)
    lines = ["  D   spread of q·k   largest weight   with the scale"]
    largest = {}
    for size in (16, 64, 256):
        chance = torch.Generator().manual_seed(size)
        q = torch.randn(500, 1, 4, size, generator=chance, dtype=torch.float64)
        k = torch.randn(500, 1, KEYS, size, generator=chance, dtype=torch.float64)
        scaled = scores(q, k)  # (500, 1, 4, 64)
        raw = scaled * math.sqrt(size)
        careless, careful = (
            masked_softmax(each, hidden).amax(-1).mean().item() for each in (raw, scaled)
        )
        lines.append(f"{size:>3}   {raw.std():>13.1f}   {careless:>14.3f}   {careful:>14.3f}")
        largest[size] = careless
    return largest[256], lines


EXPERIMENT = Experiment(
    asks="the mean of the largest of 64 weights, for random queries and keys with D = 256, when"
    " the scores are not divided by sqrt(D)",
    # 2000 queries: the mean moves by 0.004 from draw to draw; this is six times that to each side
    band=(0.87, 0.92),
    means=(
        "Without the scale a random query gives nine tenths of itself to a single random key, and"
        " the more so the wider the head is. With it the largest weight is the same for every D."
    ),
    measure=measure,
)
