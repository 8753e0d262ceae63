"""The figures of chapter 5: `python -m chapters.ch05_many_heads.figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chapters.ch04_one_head.figures import LAYER, TEXT, looks, table
from chapters.ch05_many_heads.experiment import LAYERS, PADS, careless, layers, sentences
from chapters.runner import swap
from chapters.runner.catalog import find
from chapters.runner.svg import COLOURS, Figure


def ours(name: str) -> Any:
    """The package's own piece."""
    return swap.solution(find(name))


def heads(folder: Path) -> None:
    """heads.svg: the four heads of one layer of the little language model, on one sentence."""
    words, weights = looks(TEXT, LAYER)
    cell, width = 17, 238
    figure = Figure(4 * width + 20, 300, "four heads of one layer on one sentence")
    for i, rows in enumerate(weights):
        left = 62 + i * width
        figure.text(left, 24, f"head {i}", size=15)
        table(figure, left, 90, cell, words, rows)
    figure.text(62, 285, "a row is a query, a column a key; white is 0, full blue 0.6 and more")
    figure.save(folder / "heads.svg")


def spread(folder: Path) -> None:
    """nan.svg: one head's weights and the stream of a padded sentence, layer by layer."""
    x, padding = sentences()
    found = layers(x, padding, careless, ours)
    words = ["pad"] * PADS + [f"t{i}" for i in range(len(x[0]) - PADS)]
    cell, width = 17, 280
    figure = Figure(LAYERS * width + 30, 300, "NaN spreads from padded rows to all rows")
    for i, (weights, stream) in enumerate(found):
        left = 52 + i * width
        figure.text(left, 24, f"layer {i + 1}", size=15)
        table(figure, left, 90, cell, words, weights[1, 0])
        figure.text(left + 11 * cell - 4, 84, "out", size=11)
        out = stream[1].norm(dim=-1, keepdim=True)
        figure.heat(left + 11 * cell, 90, cell, out.tolist(), low=0, high=12)
    figure.rectangle(52, 275, 12, 12, "#f3b0b0")
    figure.text(70, 285, "NaN", colour=COLOURS[1])
    figure.text(110, 285, "a row is a query, a column a key; out: the stream after the layer")
    figure.save(folder / "nan.svg")


def draw(folder: Path) -> None:
    heads(folder)
    spread(folder)


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
