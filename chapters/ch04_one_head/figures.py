"""The figure of chapter 4: `python -m chapters.ch04_one_head.figures`.

It shows the embedded language model: with another one it must be made again, as chapter 5's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from chapters.runner.svg import Figure
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.model import GPT2, Block, explicit_attention, hidden_positions
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import embedded

TEXT = "In this image we can see a small red ring"
LAYER, HEAD = 1, 1


def little_model() -> tuple[GPT2, BPETokenizer]:
    """The language model that comes with the code, in float64: the same shades everywhere."""
    tokenizer = BPETokenizer.load(embedded("scenes") / "language-model")
    return load_gpt2("scenes").double().eval(), tokenizer


def looks(text: str, layer: int, *, causal: bool = True) -> tuple[list[str], Tensor]:
    """The tokens of a text, and how every head of one layer looks at them: (H, T, T)."""
    model, tokenizer = little_model()
    ids = tokenizer.encode(text)
    tokens = len(ids)
    seen: list[Tensor] = []
    block = model.h[layer]
    assert isinstance(block, Block)
    attention = block.attn
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.tensor([ids]))
        handle.remove()
        q, k, _ = (
            part.unflatten(-1, (model.config.n_head, -1)).transpose(1, 2)  # (1, H, T, D)
            for part in attention.c_attn(seen[0]).chunk(3, dim=-1)
        )
        hidden = hidden_positions(tokens, tokens, None, q.device) & causal
        # Values that are the unit vectors: what is mixed from them are the weights themselves.
        unit = torch.eye(tokens, dtype=q.dtype).expand(1, model.config.n_head, -1, -1)
        weights = explicit_attention(q, k, unit, hidden)
    return [tokenizer.decode([i]).strip() for i in ids], weights[0]


def table(figure: Figure, x: float, y: float, cell: float, words: list[str], rows: Tensor) -> None:
    """One head's weights, a row a query, with the words beside and above."""
    figure.heat(x, y, cell, rows.tolist(), low=0, high=0.6)
    for i, word in enumerate(words):
        figure.text(x - 6, y + (i + 0.68) * cell, word, size=11, anchor="end")
        figure.text(x + (i + 0.68) * cell, y - 6, word, size=11, turn=-55)


def draw(folder: Path) -> None:
    """weights.svg: one head without a mask, with its future zeroed after the softmax, and right."""
    words, free = looks(TEXT, LAYER, causal=False)
    _, right = looks(TEXT, LAYER)
    visible = torch.ones_like(free[HEAD]).tril()
    tables = {
        "nothing hidden": free[HEAD],
        "hidden after the softmax": free[HEAD] * visible,
        "hidden before the softmax": right[HEAD],
    }
    cell, width = 22, 330
    figure = Figure(3 * width + 10, 380, "one head's weights: no mask, a late mask, a mask")
    for i, (title, rows) in enumerate(tables.items()):
        left = 60 + i * width
        figure.text(left, 24, title, size=15)
        table(figure, left, 100, cell, words, rows)
        figure.text(left + 10 * cell + 8, 92, "sum", size=11)
        for t, total in enumerate(rows.sum(-1).tolist()):
            at = (left + 10 * cell + 8, 100 + (t + 0.68) * cell)
            figure.text(*at, f"{total:.2f}", size=11)
    figure.text(60, 350, "a row is a query, a column a key; white is 0, full blue 0.6 and more")
    figure.save(folder / "weights.svg")


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
