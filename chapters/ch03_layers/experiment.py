"""How far GELU's three forms lie apart, and what a trained model makes of the difference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captioning.scenes.batches import captions
from chapters.runner.exercise import Experiment
from chapters.runner.graduation import LANGUAGE_MODEL
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.tokenizer import BPETokenizer

Curve = Callable[[Tensor], Tensor]


def exact(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


OTHERS: dict[str, Curve] = {
    "exact, with erf": exact,
    "QuickGELU": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": F.silu,
    "ReLU": torch.relu,
}


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """The largest difference of `gelu` and the exact form, times 10^4, on 1.2 million numbers."""
    gelu = piece("gelu")
    curves: dict[str, Curve] = {"tanh, GPT-2's": gelu} | OTHERS
    x = torch.linspace(-6, 6, 1_200_001, dtype=torch.float64)
    ids = some_captions(12)
    right = logarithms(gelu, ids)
    lines = [
        "                 most off          | in the embedded language model, 12 captions:",
        "activation       the exact    at x | log p moves by   other words   loss",
    ]
    for name, curve in curves.items():
        off = (curve(x) - exact(x)).abs()
        at = f"{abs(x[off.argmax()].item()):.3f}" if off.max() else "-"
        there = logarithms(curve, ids)
        moved = max((a - b).abs().max().item() for a, b in zip(there, right, strict=True))
        others = sum(
            int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in zip(there, right, strict=True)
        )
        lines.append(
            f"{name:15}  {off.max().item():.3e}  {at:>6} | {moved:14.4f}   {others:4} of"
            f" {sum(map(len, there))}   {loss(there, ids):.4f}"
        )
    return (gelu(x) - exact(x)).abs().max().item() * 1e4, lines


class Activation(nn.Module):
    """A curve as a module."""

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self.curve = curve

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return self.curve(x)


def some_captions(many: int) -> list[Tensor]:
    """Ids (1, T) of captions in the embedded model's words, none of which it was trained on."""
    tokenizer = BPETokenizer.load(LANGUAGE_MODEL)
    return [
        torch.tensor([[tokenizer.end, *tokenizer.encode(caption), tokenizer.end]])
        for caption in captions(2024, 0, many)
    ]


def logarithms(curve: Curve, ids: list[Tensor]) -> list[Tensor]:
    """Of each next word's probability, (T - 1, V) a caption, with this activation in each MLP."""
    model = load_gpt2(LANGUAGE_MODEL).double()
    for block in model.h:
        wider, back = block.get_submodule("mlp.c_fc"), block.get_submodule("mlp.c_proj")
        block.mlp = nn.Sequential(wider, Activation(curve), back)
    with torch.no_grad():
        return [model(each)[0, :-1].log_softmax(-1) for each in ids]


def loss(found: list[Tensor], ids: list[Tensor]) -> float:
    targets = torch.cat([each[0, 1:] for each in ids])
    return F.nll_loss(torch.cat(found), targets).item()


EXPERIMENT = Experiment(
    asks="the largest difference between GPT-2's GELU and the exact one, in ten-thousandths",
    # A property of two formulas, found on a grid so fine that the digits shown are certain.
    band=(4.73, 4.735),
    means=(
        "The two forms part by less than a two-thousandth. In a trained model that moves the"
        " logarithms of the probabilities by a few thousandths and changes no word; ReLU moves"
        " them by whole units, and still the loss grows by a few hundredths only. Text that looks"
        " right proves little about the numbers, which is why this course compares numbers."
    ),
    measure=measure,
)
