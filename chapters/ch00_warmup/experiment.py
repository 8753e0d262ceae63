"""Where exp overflows, and what softmax gives there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from chapters.runner.exercise import Experiment


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The last whole number whose exp is finite in float32; softmax just beyond, by dtype."""
    softmax, lines, last = piece("softmax"), ["dtype      last finite   softmax one further"], {}
    for name in ("float64", "float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        powers = torch.exp(torch.arange(1000, dtype=dtype))
        last[name] = int(powers.isfinite().sum()) - 1
        scores = torch.tensor([last[name] + 1.0, last[name]], dtype=dtype)
        shares = [round(share, 2) for share in softmax(scores, 0).tolist()]
        lines.append(f"{name:9}  exp({last[name]:>3})      {shares}")
    return float(last["float32"]), lines


EXPERIMENT = Experiment(
    asks="the largest whole number x for which exp(x) is still finite in float32",
    # float32 ends at 3.4e38 = exp(88.72), on every machine
    band=(88.0, 88.0),
    means=(
        "Scores of 89 come up in real models. Your softmax gives 0.73 and 0.27 one further on,"
        " where exp itself is infinite, once the largest score is taken off."
    ),
    measure=measure,
)
