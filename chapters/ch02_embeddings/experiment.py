"""How much of a GPT-2 is its two tables, and what a padded batch does to a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chapters.runner.exercise import Experiment
from chapters.runner.graduation import LANGUAGE_MODEL
from gpt2_scratch.config import PRESETS
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.model import GPT2, hidden_positions
from gpt2_scratch.tokenizer import BPETokenizer

TEXT, LONGER = "In this image we can see a", "In this image there is a small red ring at the"
Positions = Callable[[Tensor], Tensor]


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The share of GPT-2 small's parameters in wte and wpe, in percent, by counting them."""
    lines, shares = ["size         parameters       formula   in wte and wpe"], {}
    for name, config in PRESETS.items():
        with torch.device("meta"):  # shapes without numbers: XL would take 6 GB
            model = GPT2(config)
        tables = model.wte.weight.numel() + model.wpe.weight.numel()
        total = sum(each.numel() for each in model.parameters())
        v, p, c, layers = config.n_vocab, config.n_ctx, config.n_embd, config.n_layer
        formula = v * c + p * c + layers * (12 * c * c + 13 * c) + 2 * c
        shares[name] = 100 * tables / total
        lines.append(f"{name:11} {total:>13,} {formula:>13,}   {shares[name]:5.2f} %")
    return shares["gpt2"], [*lines, "", *company(piece)]


def company(piece: Callable[[str], Any]) -> list[str]:
    """What the embedded language model says of a text alone, and in a batch with a longer one."""
    pad, positions = piece("pad"), piece("positions")
    embed, unembed = piece("embed"), piece("unembed")
    model, tokenizer = load_gpt2(LANGUAGE_MODEL).double(), BPETokenizer.load(LANGUAGE_MODEL)
    rows = [tokenizer.encode(text) for text in (TEXT, LONGER)]
    wte, wpe = model.wte.weight, model.wpe.weight

    def columns(mask: Tensor) -> Tensor:
        return torch.arange(mask.shape[1]).expand(mask.shape)

    def last_logits(side: str, place: Positions) -> Tensor:
        """Of the shorter text's last token: its vectors by hand, the blocks by the model."""
        ids, mask = pad(rows, tokenizer.end, side)
        x = wte[ids] + wpe[place(mask)]
        hidden = hidden_positions(ids.shape[1], ids.shape[1], mask, x.device)
        for block in model.h:
            x = block(x, hidden)
        last = (~mask[0]).nonzero()[-1]
        logits: Tensor = unembed(model.ln_f(x), wte)[0, last]
        return logits

    lines = ["the last token's logits, beside the text alone    move by"]
    with torch.no_grad():
        x = embed(torch.tensor(rows[:1]), wte, wpe)
        for block in model.h:
            x = block(x)
        alone = unembed(model.ln_f(x), wte)[0, -1:]
        for side in ("right", "left"):
            for name, place in (("`positions`", positions), ("columns", columns)):
                off = (last_logits(side, place) - alone).abs().max().item()
                moved = f"{off:.4f}" if off > 1e-9 else "nothing, below 1e-9"
                lines.append(f"padded on the {side + ',':6} positions from {name:11}    {moved}")
    return lines


EXPERIMENT = Experiment(
    asks="the share of GPT-2 small's parameters that lie in wte and wpe, in percent",
    # A quotient of two counts: 39,383,808 of 124,439,808.
    band=(31.6, 31.7),
    means=(
        "Nearly a third of the smallest GPT-2 is its table of words, and that is counted once: a"
        " head of its own would cost it again. In XL it is a twentieth, since blocks grow with C"
        " squared and the tables with C. Below: company changes nothing in a text whose positions"
        " come from the mask; counted by columns, left padding moves every logit."
    ),
    measure=measure,
)
