"""How much better than chance the embedded language model is, on captions it has never seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from captioning.scenes.draw import draw
from chapters.runner.exercise import Experiment
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import embedded

FOLDER = embedded("scenes") / "language-model"
SCENES = range(1_000_000, 1_000_032)  # seeds of pictures; the training's are smaller


@torch.no_grad()
def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """exp of the loss, so many tokens it hesitates between: of right and shuffled captions, and of
    right ones by a model with one matrix transposed."""
    tokenizer, model, lm_loss = BPETokenizer.load(FOLDER), load_gpt2(FOLDER), piece("lm_loss")
    texts = [draw(seed).caption for seed in SCENES]
    rows = [[tokenizer.end, *tokenizer.encode(text), tokenizer.end] for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.end] * (longest - len(row)) for row in rows])
    mask = torch.arange(longest)[None] >= torch.tensor([[len(row)] for row in rows])
    generator = torch.Generator().manual_seed(0)
    order = [torch.randperm(len(row) - 2, generator=generator) + 1 for row in rows]
    shuffled = ids.clone()
    for i, places in enumerate(order):
        shuffled[i, 1 : len(places) + 1] = ids[i, places]

    def hesitation(tokens: torch.Tensor) -> float:
        return math.exp(float(lm_loss(model(tokens, mask), tokens, mask)))

    right, mixed = hesitation(ids), hesitation(shuffled)
    w = model.h[1].get_submodule("attn.c_proj").get_parameter("w")
    w.copy_(w.T.clone())  # square: no shape gives it away
    lost = hesitation(ids)
    lines = [
        f"{len(texts)} captions, {int((~mask).sum()) - len(texts)} tokens; it hesitates between",
        f"as they are                     {right:7.2f} tokens",
        f"the same tokens shuffled        {mixed:7.2f}",
        f"one of 12 matrices transposed    {lost:7.2f}",
        f"who knows nothing               {model.config.n_vocab:7d}",
    ]
    return right, lines


EXPERIMENT = Experiment(
    asks="exp(loss) of the embedded model on new captions: between how many of its 384 tokens it"
    " hesitates at each step, on average",
    # measured 1.59, and 1.58 once the model had been trained anew; rounding is far below that
    band=(1.5, 1.8),
    means=(
        "exp of the loss in nats is called perplexity. Most tokens of these captions are sure from"
        " what came before; what is open is the picture itself, which this model can't see."
    ),
    measure=measure,
)
