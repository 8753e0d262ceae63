"""The figure of chapter 7: `python -m chapters.ch07_openai_weights.figures`."""

from __future__ import annotations

from pathlib import Path

import torch

from chapters.runner.svg import Figure
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import embedded

TEXT = "In this image we can see four shapes: a large yellow star on the left, a small blue star on"
SHOWN = slice(0, 21)


@torch.no_grad()
def draw(folder: Path) -> None:
    """lens.svg: what the head would say behind each block, of the token that came."""
    source = embedded("scenes") / "language-model"
    model, tokenizer = load_gpt2(source).double(), BPETokenizer.load(source)
    ids = tokenizer.encode(TEXT)
    tokens = torch.tensor([[tokenizer.end, *ids]])
    x = model.embed(tokens) + model.wpe.weight[: tokens.shape[1]]
    streams = [x]
    for block in model.h:
        x = block(x)
        streams.append(x)
    shares = [torch.softmax(model.unembed(model.ln_f(each)), -1)[0, :-1] for each in streams]
    rows = [share.gather(1, tokens[0, 1:, None])[:, 0].tolist()[SHOWN] for share in shares]

    cell, left, top = 26, 120, 96
    figure = Figure(
        left + cell * len(rows[0]) + 20, 225, "what the model would say, block by block"
    )
    names = ["before block 0", *(f"behind block {i}" for i in range(len(model.h)))]
    figure.text(left, 18, "the probability, by depth, of each token that came next", size=13)
    for i, name in enumerate(names):
        figure.text(left - 8, top + cell * (i + 0.65), name, size=12, anchor="end")
    for j, token in enumerate(ids[SHOWN]):
        at = (left + cell * (j + 0.7), top - 8)
        figure.text(*at, tokenizer.decode([token]).strip() or "␣", size=12, turn=-50)
    figure.heat(left, top, cell, rows, labels=True)
    figure.save(folder / "lens.svg")


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures")
