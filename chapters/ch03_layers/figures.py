"""The figure of chapter 3: `python -m chapters.ch03_layers.figures`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chapters.ch03_layers.experiment import OTHERS, exact
from chapters.runner.svg import COLOURS, Figure
from gpt2_scratch.model import gelu


def draw(folder: Path) -> None:
    """gelu.svg: the activations, and how far two of them are off the exact GELU."""
    figure = Figure(640, 560, "GELU, its two neighbours, and how far its forms lie apart")
    curves = {"GELU": gelu, "SiLU": OTHERS["SiLU"], "ReLU": OTHERS["ReLU"]}
    place = figure.axes(
        (70, 40, 540, 220), (-5, 3), (-0.5, 3), range(-5, 4), (0, 1, 2, 3), "x", "activation"
    )
    x = torch.linspace(-5, 3, 321, dtype=torch.float64)
    for i, (name, curve) in enumerate(curves.items()):
        y = curve(x)
        figure.line(points(place, x, y), COLOURS[i], width=3 if i == 0 else 2)
        figure.text(90, 70 + 20 * i, name, colour=COLOURS[i])
    x = torch.linspace(-6, 6, 481, dtype=torch.float64)
    for left, name, curve, scale, unit in (
        (70, "tanh form less exact form", gelu, 1e4, "in 0.0001"),
        (385, "QuickGELU less exact form", OTHERS["QuickGELU"], 1e2, "in 0.01"),
    ):
        off = (curve(x) - exact(x)) * scale
        high = 6 if scale > 1e3 else 3
        box = (left, 350, 225, 140)
        ticks = (-high, 0, high)
        place = figure.axes(box, (-6, 6), (-high, high), (-6, -3, 0, 3, 6), ticks, "x", unit)
        figure.line(points(place, x, off), COLOURS[3], width=2)
        figure.text(left, 335, name)
    figure.save(folder / "gelu.svg")


def points(place: object, x: Tensor, y: Tensor) -> list[tuple[float, float]]:
    assert callable(place)
    return [place(*pair) for pair in zip(x.tolist(), y.tolist(), strict=True)]


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
