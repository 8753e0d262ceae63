"""The figure of chapter 0: `python -m chapters.ch00_warmup.figures`."""

from __future__ import annotations

from pathlib import Path

import torch

from chapters.runner.svg import COLOURS, Figure


def draw(folder: Path) -> None:
    """overflow.svg: the share of the higher of two scores, 1 apart, as both grow."""
    x = torch.arange(0.0, 1001.0, 1.0, dtype=torch.float64)
    scores = torch.stack([x, x - 1], -1)
    grown = scores.exp()
    careless = (grown / grown.sum(-1, keepdim=True))[:, 0]
    careful = torch.softmax(scores, -1)[:, 0]
    end = int(careless.isfinite().sum()) - 1

    figure = Figure(640, 300, "softmax with and without the largest score taken off")
    place = figure.axes(
        (70, 50, 540, 180),
        (0, 1000),
        (0, 1),
        range(0, 1001, 200),
        (0, 0.25, 0.5, 0.75, 1),
        "the higher of two scores, which are 1 apart",
        "its share",
    )
    ends = (0, 1000)
    figure.line([place(i, careful[i].item()) for i in ends], COLOURS[0], width=8)
    figure.line([place(i, careless[i].item()) for i in (0, end)], COLOURS[1], width=3)
    at_x, at_y = place(end, careless[end].item())
    figure.line([(at_x, at_y - 12), (at_x, at_y + 12)], COLOURS[1], width=2)
    figure.text(at_x, at_y + 30, f"NaN from {end + 1} on", anchor="middle", colour=COLOURS[1])
    figure.text(70, 30, "largest score taken off first", colour=COLOURS[0])
    figure.text(290, 30, "exp of the scores as they are", colour=COLOURS[1])
    figure.save(folder / "overflow.svg")


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
