"""The figures of chapter 2: `python -m chapters.ch02_embeddings.figures`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from chapters.runner.svg import COLOURS, FAINT, INK, Figure
from weights.store import embedded

ROWS = (("a", "small", "red", "ring"), ("two", "stars"), ("the", "sky", "above"))
# `measured()`, in hundredths, of the captioner of 300 + 13,000 steps; written down, so that the
# figure stays what the text says of it when the captioner is trained anew.
COSINES = """
    1 44 16 34 -6 41 -9 61 13 35 4 50 1 56 6 49 15 57 7 56 19 56 16 60 4 52 17 55 22 55 30 52 18
    51 18 36 -12 -12 15 20 1 20 7 29 25 28 32 25 23 17 0 14 42 29 26 33 45 48 43 27 27 37 41 54
    63 56 66 54 32 18 48 48 54 70 63 64 52 28 46 42 36 43 37 41 43 49 42 37 46 35 28 36 41 50 74
    72 58 52 33 26 7 2 -1 7 -6 4 6 1 -2 -5 5 24 23 11 11 -1 -4 2 18 -1 16 3 0 -6 4 -15 6
"""
BORDER, GREY = "#bdbdbd", "#777777"


def draw(folder: Path) -> None:
    neighbours(folder)
    batch(folder)


def measured() -> list[float]:
    """The cosine of each row of the embedded captioner's wpe with the next."""
    table = load_file(embedded("scenes") / "model.safetensors")["gpt2.wpe.weight"].double()
    table = table / table.norm(dim=1, keepdim=True)
    return (table[:-1] * table[1:]).sum(1).tolist()


def neighbours(folder: Path) -> None:
    """neighbours.svg: how much each row of a learned wpe resembles the next."""
    cosines = [int(each) / 100 for each in COSINES.split()]
    figure = Figure(640, 320, "Cosine of each position's vector and the next one's")
    place = figure.axes(
        (70, 60, 540, 190),
        (0, 128),
        (-0.25, 0.75),
        range(0, 129, 16),
        (-0.25, 0, 0.25, 0.5, 0.75),
        "position",
        "cosine with the next",
    )
    for first, last, colour, name in (
        (0, 36, COLOURS[1], "parts of a picture"),
        (36, 100, COLOURS[0], "words of captions"),
        (100, 127, COLOURS[5], "hardly used"),
    ):
        points = [place(i, cosines[i]) for i in range(first, min(last + 1, 127))]
        figure.line(points, colour, width=2)
        middle, _ = place((first + last) / 2, 0)
        mean = sum(cosines[first : min(last, 127)]) / (min(last, 127) - first)
        figure.text(middle, 30, name, anchor="middle", colour=colour)
        figure.text(middle, 48, f"mean {mean:.2f}", size=11, anchor="middle", colour=colour)
    figure.line([place(0, 0), place(128, 0)], INK, dash="3 3")
    figure.save(folder / "neighbours.svg")


def batch(folder: Path) -> None:
    """batch.svg: the same three texts padded on either side, with their positions."""
    figure = Figure(640, 250, "A batch padded on the right and on the left")
    widest, cell = max(map(len, ROWS)), 68
    for left, side in ((30, "right"), (340, "left")):
        figure.text(left, 30, f'padded on the "{side}"')
        for i, row in enumerate(ROWS):
            gap = widest - len(row)
            hidden = [False] * len(row) + [True] * gap if side == "right" else [True] * gap
            hidden += [] if side == "right" else [False] * len(row)
            words = iter(row)
            positions = ((~torch.tensor(hidden)).cumsum(0) - 1).clamp(min=0).tolist()
            for column, padded in enumerate(hidden):
                x, y = left + column * cell, 50 + 62 * i
                fill = FAINT if padded else "#ffffff"
                figure.rectangle(x, y, cell, 26, fill, BORDER)
                word = "pad" if padded else next(words)
                colour = GREY if padded else INK
                figure.text(x + cell / 2, y + 18, word, anchor="middle", colour=colour)
                if not padded:
                    number = str(positions[column])
                    figure.text(
                        x + cell / 2, y + 42, number, size=12, anchor="middle", colour=COLOURS[0]
                    )
    figure.text(30, 240, "blue: positions", size=12, colour=COLOURS[0])
    figure.save(folder / "batch.svg")


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
