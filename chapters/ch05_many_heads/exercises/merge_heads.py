"""merge_heads: the heads of each token, joined again."""

from __future__ import annotations

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def merge_heads(x: Tensor) -> Tensor:
    """The D numbers of a token's H heads, one head after the other: (B, H, T, D) -> (B, T, C).

    Undoes `split_heads`.
    """
    return x.transpose(1, 2).flatten(2)  # (B, T, H, D), then (B, T, C)


# --- the oracle -------------------------------------------------------------------------------


def reference(x, *, knobs, steps):
    batch, heads, tokens, size = x.shape
    own = [x[:, h] for h in range(heads)]
    if "summed" in knobs:
        return torch.stack(own).sum(0)
    if "averaged" in knobs:
        return torch.stack(own).mean(0)
    if "first_head" in knobs:
        return own[0]
    if "chained" in knobs:
        return torch.cat(own, 1)
    steps["the heads of each token, beside each other"] = beside = torch.stack(own, 2)
    if "no_flatten" in knobs:
        return beside
    if "merge_no_transpose" in knobs:
        merged = x.reshape(batch, tokens, heads * size)
    elif "merge_head_last" in knobs:
        merged = torch.stack(own, -1).reshape(batch, tokens, size * heads)
    else:
        merged = torch.cat(own[::-1] if "heads_reversed" in knobs else own, -1)
    return merged.mT if "channels_first" in knobs else merged


# --- right in other ways ----------------------------------------------------------------------


def by_cat(x):
    return torch.cat(x.unbind(1), -1)


def by_permute(x):
    batch, heads, tokens, size = x.shape
    return x.permute(0, 2, 1, 3).contiguous().view(batch, tokens, heads * size)


def by_writing(x):
    batch, heads, tokens, size = x.shape
    merged = x.new_zeros(batch, tokens, heads * size)
    for h in range(heads):
        merged[..., h * size : (h + 1) * size] = x[:, h]
    return merged


# --- what holds for every right answer ---------------------------------------------------------


def tokens_stay_apart(answer):
    x = numbers(2, 3, 5, 4, seed=7)
    before = answer(x.clone())
    x[:, :, 2] = 9.0
    changed = (answer(x) != before).any(-1).any(0)
    if changed.tolist() == [False, False, True, False, False]:
        return None
    return "the outputs of other tokens changed when token 2 did"


EXERCISE = Exercise(
    name="merge_heads",
    target="chapters.ch05_many_heads.exercises.merge_heads:merge_heads",
    minutes=10,
    axes="batch token channel",
    reference=reference,
    probes=(
        Probe("3 heads of 4 channels", lambda: (numbers(2, 3, 5, 4, seed=1),)),
        Probe("2 heads of 5 channels", lambda: (numbers(3, 2, 7, 5, seed=2),)),
        Probe("one token", lambda: (numbers(2, 3, 1, 4, seed=3),)),
        Probe("one head", lambda: (numbers(2, 1, 5, 7, seed=4),)),
    ),
    knobs={
        "merge_no_transpose": Diagnosis(
            says="the right numbers in the wrong places: (B, H, T, D) was read as (B, T, C) as it"
            " lies, and a token's row holds pieces of several tokens",
            think="in what order do the numbers of two heads lie in memory?",
            hint="First bring a token's heads beside each other, then make one axis of them.",
            text="ch05#merge",
        ),
        "merge_head_last": Diagnosis(
            says="the right numbers in the wrong places: the heads are shuffled like cards, number"
            " 0 of every head first",
            think="which of the two axes that become one must be the outer one?",
            hint="(B, T, H, D): the heads outside, so that a head stays a run of D.",
            text="ch05#merge",
        ),
        "heads_reversed": Diagnosis(
            says="the last head comes first",
            think="whose numbers are a token's first D channels?",
            hint="Head h goes to channels h D to (h + 1) D, where it came from.",
            text="ch05#merge",
        ),
        "summed": Diagnosis(
            says="the heads of a token are added up",
            think="how wide is a token when its H heads are joined?",
            hint="C = H D: nothing is lost in the joining.",
            text="ch05#merge",
        ),
        "averaged": Diagnosis(
            says="the heads of a token are averaged",
            think="should one head be able to speak without the others being heard?",
            hint="C = H D: the heads lie side by side, and c_proj decides what is made of them.",
            text="ch05#merge",
        ),
        "first_head": Diagnosis(
            says="only head 0 is there",
            think="where are the other heads?",
            hint="The result is C wide, which is H times D.",
            text="ch05#merge",
        ),
        "chained": Diagnosis(
            says="the heads follow each other along the tokens: T H rows of D",
            think="along which axis do the heads of one token lie beside each other?",
            hint="There are as many tokens afterwards as before.",
            text="ch05#merge",
        ),
        "no_flatten": Diagnosis(
            says="heads and d are still two axes",
            think="how many axes has (B, T, C)?",
            hint="The last two become one.",
            text="ch05#merge",
        ),
        "channels_first": Diagnosis(
            says="the last two axes are (C, T), not (T, C)",
            think="which axes change places before heads and d become one?",
            hint="Tokens and heads do; d stays last.",
            text="ch05#merge",
        ),
    },
    exclusive=(
        (
            "summed",
            "averaged",
            "first_head",
            "chained",
            "no_flatten",
            "merge_no_transpose",
            "merge_head_last",
            "heads_reversed",
        ),
        ("summed", "averaged", "first_head", "chained", "no_flatten", "channels_first"),
    ),
    hints=(
        "A token's numbers are spread over H tables. Which two axes must lie side by side before"
        " they can become one?",
        "Let heads and tokens change places, (B, H, T, D) to (B, T, H, D). Now a token's heads lie"
        " one after the other, and the last two axes become one of C = H D.",
        "let the axes of heads and tokens swap\nmake one axis of heads and d",
    ),
    alternatives=(by_cat, by_permute, by_writing),
    properties=(Property("tokens stay apart", tokens_stay_apart),),
    exceptions={
        r"view size is not compatible": (
            "after a transpose the numbers lie in another order than the axes say, and `view` can't"
            " join them: `reshape`, or `contiguous` before it"
        ),
    },
    spots=(
        Spot(
            source=(
                "def merge_heads(x):\n"
                "    batch, heads, tokens, size = x.shape\n"
                "    width = heads * size\n"
                "    lying = x.contiguous()\n"
                "    return lying.view(batch, tokens, width)\n"
            ),
            line=5,
            knob="merge_no_transpose",
        ),
    ),
)
