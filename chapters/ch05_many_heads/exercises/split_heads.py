"""split_heads: each token's channels, cut into heads."""

from __future__ import annotations

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Spot
from chapters.runner.inputs import numbers


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Each token's C channels cut into H runs of D = C / H: (B, T, C) -> (B, H, T, D).

    Head 0 has the first D channels of every token, head 1 the next D, and so on.
    """
    parts = x.unflatten(-1, (heads, -1))  # (B, T, H, D)
    return parts.transpose(1, 2)  # (B, H, T, D)


# --- the oracle -------------------------------------------------------------------------------


def reference(x, heads, *, knobs, steps):
    batch, tokens, width = x.shape
    size = width // heads
    if "heads_as_size" in knobs:
        heads, size = size, heads
    if "view_no_transpose" in knobs:
        split = x.reshape(batch, heads, tokens, size)
    else:
        if "head_dim_first" in knobs:
            own = [x[..., h::heads] for h in range(heads)]
        else:
            own = [x[..., h * size : (h + 1) * size] for h in range(heads)]
        if "same_channels" in knobs:
            own = own[:1] * heads
        if "whole_token" in knobs:
            own = [x] * heads
        steps["the channels of each head, beside each other"] = torch.stack(own, 2)
        split = torch.stack(own, 1)
    if "no_transpose" in knobs:
        split = split.movedim(1, 2)
    if "transpose_last" in knobs:
        split = split.mT
    if "heads_before_batch" in knobs:
        split = split.movedim(1, 0)
    if "one_axis" in knobs:
        split = split.flatten(0, 1)
    return split


# --- right in other ways ----------------------------------------------------------------------


def by_view(x, heads):
    batch, tokens, width = x.shape
    return x.view(batch, tokens, heads, width // heads).permute(0, 2, 1, 3)


def by_chunks(x, heads):
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def by_einsum(x, heads):
    size = x.shape[-1] // heads
    pick = torch.eye(x.shape[-1], dtype=x.dtype).reshape(heads, size, x.shape[-1])
    return torch.einsum("btc,hdc->bhtd", x, pick)


EXERCISE = Exercise(
    name="split_heads",
    target="chapters.ch05_many_heads.exercises.split_heads:split_heads",
    minutes=10,
    axes="batch heads token d",
    reference=reference,
    probes=(
        Probe("3 heads of 4 channels", lambda: (numbers(2, 5, 12, seed=1), 3)),
        Probe("2 heads of 5 channels", lambda: (numbers(3, 7, 10, seed=2), 2)),
        Probe("one token", lambda: (numbers(2, 1, 12, seed=3), 3)),
        Probe("one head", lambda: (numbers(2, 5, 7, seed=4), 1)),
    ),
    knobs={
        "view_no_transpose": Diagnosis(
            says="the numbers were read into (B, H, T, D) as they lie: a head holds pieces of"
            " several tokens",
            think="in what order do the numbers of two tokens lie in memory?",
            hint="Cut the last axis alone first; the axes change places afterwards.",
            text="ch05#heads",
        ),
        "head_dim_first": Diagnosis(
            says="each head has every H-th channel, not D that lie side by side",
            think="when the C channels are cut in two axes, which of them is the outer one?",
            hint="C = H D: channel c belongs to head c // D.",
            text="ch05#heads",
        ),
        "heads_as_size": Diagnosis(
            says="there are D heads of H channels",
            think="is `heads` the number of pieces, or the size of one?",
            hint="The size of one piece is C divided by the number of pieces.",
            text="ch05#heads",
        ),
        "same_channels": Diagnosis(
            says="every head has the channels of head 0",
            think="which channels does the last head get?",
            hint="The pieces together are the whole token, and each channel is in one of them.",
            text="ch05#heads",
        ),
        "whole_token": Diagnosis(
            says="every head has all C channels",
            think="how wide is one head?",
            hint="The heads share the token; together they are as wide as it.",
            text="ch05#heads",
        ),
        "no_transpose": Diagnosis(
            says="the pieces are right and lie as (B, T, H, D)",
            think="over which two axes will the scores be a matrix product?",
            hint="q @ k works on the last two axes: they must be token and d.",
            text="ch05#heads",
        ),
        "transpose_last": Diagnosis(
            says="the last two axes are (D, T), not (T, D)",
            think="which axes change places when tokens and heads do?",
            hint="(B, T, H, D): count the axes from 0.",
            text="ch05#heads",
        ),
        "heads_before_batch": Diagnosis(
            says="the heads are the first axis and the batch the second",
            think="which axis stays where it is?",
            hint="One sentence of the batch must still be answer[b].",
            text="ch05#heads",
        ),
        "one_axis": Diagnosis(
            says="batch and heads are one axis of B H",
            think="how would a mask of (B, 1, T, S) stretch over that?",
            hint="Four axes come out, not three.",
            text="ch05#heads",
        ),
    },
    exclusive=(
        ("view_no_transpose", "head_dim_first", "same_channels", "whole_token"),
        ("no_transpose", "transpose_last", "heads_before_batch", "one_axis"),
        ("heads_as_size", "whole_token"),
    ),
    hints=(
        "A token's channels lie side by side in memory, and so do the tokens. Which single axis has"
        " to be cut in two?",
        "Cut the last axis, (B, T, C) to (B, T, H, D) with C = H D, so that a head is a run of D"
        " channels. Then let tokens and heads change places: (B, H, T, D). A reshape straight to"
        " that shape would have the right sizes and the wrong numbers in them.",
        "cut the channels in two axes, heads outside\nlet the axes of tokens and heads swap",
    ),
    alternatives=(by_view, by_chunks, by_einsum),
    exceptions={
        r"shape '\[.*\]' is invalid|unflatten": (
            "the sizes of the pieces don't multiply to the size of what is cut: D is C // H"
        ),
    },
    spots=(
        Spot(
            source=(
                "def split_heads(x, heads):\n"
                "    batch, tokens, width = x.shape\n"
                "    size = width // heads\n"
                "    parts = x.view(batch, tokens, size, heads)\n"
                "    return parts.permute(0, 3, 1, 2)\n"
            ),
            line=4,
            knob="head_dim_first",
        ),
    ),
)
