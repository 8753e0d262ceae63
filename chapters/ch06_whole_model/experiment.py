"""The loss of a GPT-2 that has learned nothing, and what other first weights do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from chapters.runner.exercise import Experiment
from chapters.runner.inputs import ids
from gpt2_scratch.config import GPT2Config

SIZES = GPT2Config(n_embd=96, n_head=4, n_layer=12, n_ctx=64, dropout=0.0, attention="explicit")


@torch.no_grad()
def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The loss on ids drawn from all of GPT-2's vocabulary, for three kinds of first weights."""
    model, lm_loss, initial = piece("GPT2")(SIZES).eval(), piece("lm_loss"), piece("initial")
    tokens, losses = ids(2, 32, below=SIZES.n_vocab, seed=6), {}
    kinds: dict[str, Callable[[str], tuple[float, float]]] = {
        "GPT-2's": lambda name: initial(name, SIZES.n_layer),
        "wte spread by 1": lambda name: (
            (0.0, 1.0) if name == "wte.weight" else initial(name, SIZES.n_layer)
        ),
        "all 0": lambda name: (0.0, 0.0),
    }
    for kind, spread in kinds.items():
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            mean, std = spread(name)
            parameter.normal_(mean, std, generator=generator)
        losses[kind] = float(lm_loss(model(tokens), tokens))
    count = sum(parameter.numel() for parameter in model.parameters())
    one = sum(parameter.numel() for parameter in model.h[0].parameters())
    lines = [
        "first weights      loss",
        *(f"{kind:17} {loss:6.2f}" for kind, loss in losses.items()),
    ]
    lines.append(f"{count:,} parameters; were all 12 blocks one object, {count - 11 * one:,}")
    return losses["GPT-2's"], lines


EXPERIMENT = Experiment(
    asks="the loss of a GPT-2 with 50,257 words that has not learned anything yet",
    # ln 50257 = 10.825 if all words got the same logit; theirs are spread a little, which costs
    # half their variance, 0.02 here
    band=(10.75, 10.95),
    means=(
        "Who knows nothing gives each of 50,257 words the same chance and pays ln 50257 = 10.82"
        " nats. A model that starts far above that is sure of things it cannot know."
    ),
    measure=measure,
)
