"""The figures of chapter 1: `python -m chapters.ch01_bytes_to_tokens.figures`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from chapters.ch01_bytes_to_tokens.experiment import GERMAN, bytes_a_token, halves
from chapters.ch01_bytes_to_tokens.verdict import TEXT
from chapters.runner.svg import COLOURS, FAINT, INK, Figure
from gpt2_scratch.bpe import Codec, train_bpe

WIDE = 62  # of one byte in the tree
RISE = 40  # of one level


def tree(folder: Path) -> None:
    """merges.svg: which bytes of a word are joined, in the order of ranks."""
    ranks = {pair: rank for rank, pair in enumerate(train_bpe([TEXT], 1000))}
    word = b" understand"
    figure = Figure(40 + WIDE * len(word), 260, "the merges of ` understand`")
    bottom = 230.0
    tokens = [(bytes([byte]), i, bottom) for i, byte in enumerate(word)]  # token, place, height
    for token, place, y in tokens:
        _box(figure, token, place, y, INK, "")
    step = 0
    while found := lowest([token for token, _, _ in tokens], ranks):
        step += 1
        i, rank = found
        (first, place, left_y), (second, right_place, right_y) = tokens[i : i + 2]
        y = min(left_y, right_y) - RISE
        x = _middle(first + second, place)
        for token, at, from_y in ((first, place, left_y), (second, right_place, right_y)):
            figure.line([(_middle(token, at), from_y - 14), (x, y + 13)], FAINT, width=2)
        tokens[i : i + 2] = [(first + second, place, y)]
        _box(figure, first + second, place, y, COLOURS[0], f"{step}: rank {rank}")
    figure.text(20, 24, "What is joined first is what was learned first.", size=14)
    rest = " + ".join(shown(token) for token, _, _ in tokens)
    figure.text(20, 44, f"No rank is left for {rest}: these are the tokens.", size=14)
    figure.save(folder / "merges.svg")


def lowest(tokens: list[bytes], ranks: Mapping[tuple[bytes, bytes], int]) -> tuple[int, int] | None:
    """(place, rank) of the pair to join next."""
    pairs = enumerate(pairwise(tokens))
    found = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
    return (min(found)[1], min(found)[0]) if found else None


def shown(token: bytes) -> str:
    return token.decode().replace(" ", "\u2423")


def _middle(token: bytes, place: int) -> float:
    return 20 + WIDE * (place + len(token) / 2)


def _box(figure: Figure, token: bytes, place: int, y: float, colour: str, note: str) -> None:
    x = _middle(token, place)
    wide = 20 + 10 * len(token)
    figure.rectangle(x - wide / 2, y - 14, wide, 27, "#ffffff", colour)
    figure.text(x, y + 5, shown(token), size=15, anchor="middle", colour=colour)
    if note:
        figure.text(x + wide / 2 + 5, y + 4, note, size=11, colour=COLOURS[5])


def growth(folder: Path) -> None:
    """growth.svg: bytes a token, as more merges are learned."""
    first, second = halves()
    most = 1000
    merges = train_bpe([first], most)
    figure = Figure(580, 310, "bytes a token by the number of merges")
    place = figure.axes(
        (70, 30, 400, 230),
        (0, most),
        (1, 3.5),
        range(0, most + 1, 200),
        (1, 1.5, 2, 2.5, 3, 3.5),
        "merges learned from the first half of the story",
        "bytes a token",
    )
    texts = {"first half": first, "second half": second, "German": GERMAN}
    for (name, text), colour in zip(texts.items(), COLOURS[:3], strict=True):
        points = [place(n, bytes_a_token(Codec(merges[:n]), text)) for n in range(0, most + 1, 50)]
        figure.line(points, colour, width=3)
        figure.text(points[-1][0] + 8, points[-1][1] + 4, name, colour=colour)
    figure.save(folder / "growth.svg")


def draw(folder: Path) -> None:
    tree(folder)
    growth(folder)


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
