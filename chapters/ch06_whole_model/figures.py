"""The figures of chapter 6: `python -m chapters.ch06_whole_model.figures`."""

from __future__ import annotations

from pathlib import Path

import torch

from chapters.runner.svg import COLOURS, Figure
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2

DEPTH, WIDTH = 48, 64


@torch.no_grad()
def spreads(shrink: bool) -> list[float]:
    """The spread of the stream's numbers behind 0, 1, ... blocks, as drawn for training.

    Weights of spread 1 / sqrt(C) keep a vector's size, whatever C: so the figure shows depth alone.
    """
    config = GPT2Config(n_vocab=17, n_ctx=32, n_embd=WIDTH, n_head=4, n_layer=DEPTH, dropout=0.0)
    model = GPT2(config).eval().double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith(".w"):
            scale = (2 * DEPTH) ** -0.5 if shrink and "c_proj" in name else 1.0
            parameter.normal_(std=scale * parameter.shape[0] ** -0.5, generator=generator)
    x = torch.randn(4, 24, WIDTH, dtype=torch.float64, generator=generator)
    found = [x.std().item()]
    for block in model.h:
        x = block(x)
        found.append(x.std().item())
    return found


def draw_depth(folder: Path) -> None:
    """depth.svg: the residual stream with and without divided projections."""
    figure = Figure(640, 310, "the spread of the residual stream by depth")
    place = figure.axes(
        (70, 50, 540, 190),
        (0, DEPTH),
        (0, 8),
        range(0, DEPTH + 1, 8),
        range(0, 9, 2),
        "blocks that the vector has passed",
        "spread of its numbers",
    )
    for colour, shrink, says, x in (
        (COLOURS[1], False, "all weights alike", 70),
        (COLOURS[0], True, "projections into the stream divided by sqrt(2 L)", 240),
    ):
        values = spreads(shrink)
        figure.line([place(i, value) for i, value in enumerate(values)], colour, width=3)
        figure.text(x, 30, says, colour=colour)
    figure.save(folder / "depth.svg")


def draw_block(folder: Path) -> None:
    """block.svg: the stream runs straight through; two parts read it and add to it."""
    figure = Figure(640, 215, "one block of GPT-2")
    stream = 170

    def box(x: float, y: float, width: float, says: str, colour: str) -> None:
        figure.rectangle(x, y, width, 34, "#ffffff", colour)
        figure.text(x + width / 2, y + 22, says, anchor="middle", colour=colour)

    figure.line([(30, stream), (610, stream)], width=4)
    figure.text(30, stream + 26, "x: the residual stream, (B, T, C)", size=12)
    for left, norm, part, note in (
        (60, "ln_1", "attention", "tokens look at tokens"),
        (345, "ln_2", "MLP", "each token for itself"),
    ):
        figure.line([(left, stream), (left, 77), (left + 25, 77)], COLOURS[0], width=2)
        box(left + 25, 60, 60, norm, COLOURS[0])
        figure.line([(left + 85, 77), (left + 105, 77)], COLOURS[0], width=2)
        box(left + 105, 60, 95, part, COLOURS[0])
        figure.line(
            [(left + 200, 77), (left + 225, 77), (left + 225, stream - 12)], COLOURS[0], width=2
        )
        figure.rectangle(left + 213, stream - 12, 24, 24, "#ffffff", COLOURS[1])
        figure.text(left + 225, stream + 6, "+", size=18, anchor="middle", colour=COLOURS[1])
        figure.text(left + 152, 48, note, size=12, anchor="middle")
    figure.line([(600, stream - 6), (612, stream), (600, stream + 6)], width=2)
    figure.save(folder / "block.svg")


def draw(folder: Path) -> None:
    draw_depth(folder)
    draw_block(folder)


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
