"""openai_softmax: the weights as OpenAI's own code makes them, without an infinity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Spot
from chapters.runner.inputs import numbers


def openai_softmax(scores: Tensor, hidden: Tensor) -> Tensor:
    """Weights over the keys by OpenAI's rule: with b = 1 for seen and 0 for hidden, the softmax of
    scores b - 1e10 (1 - b). A row with no key to see shares its weight evenly.

    (B, H, T, S), bool that stretches to it -> (B, H, T, S). openai/gpt-2, src/model.py.
    """
    seen = (~hidden).to(scores.dtype)
    return torch.softmax(scores * seen - 1e10 * (1 - seen), dim=-1)


# --- the oracle -------------------------------------------------------------------------------


def reference(scores, hidden, *, knobs, steps):
    late = torch.zeros_like(hidden)
    if "inverted" in knobs:
        hidden = ~hidden
    if "after_softmax" in knobs:
        hidden, late = torch.zeros_like(hidden), hidden
    seen = (~hidden).to(scores.dtype)
    steps["b, 1 for seen"] = seen
    large = 1e4 if "fill_1e4" in knobs else 10.0 if "fill_small" in knobs else 1e10
    if "product_only" in knobs:
        masked = scores * seen
    elif "sum_only" in knobs:
        masked = scores - large * (1 - seen)
    elif "plus" in knobs:
        masked = scores * seen + large * (1 - seen)
    elif "all_lowered" in knobs:
        masked = scores * seen - large
    elif knobs & {"minus_infinity", "zeros"}:
        masked = scores.masked_fill(hidden, -math.inf)
    else:
        masked = scores * seen - large * (1 - seen)
    steps["the masked scores"] = masked
    over = -2 if "softmax_q" in knobs else 1 if "softmax_heads" in knobs else -1
    weights = torch.softmax(masked, over).masked_fill(late, 0.0)
    if "zeros" in knobs:
        return weights.masked_fill(hidden.all(-1, keepdim=True), 0.0)
    return weights


# --- the probes -------------------------------------------------------------------------------


def inputs(padded=(), shift=0.0):
    """Scores (2, 3, 5, 7), hidden (2, 1, 5, 7): the future, and keys of row 1."""
    future = torch.ones(5, 7, dtype=torch.bool).triu(3)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, list(padded)] = True
    return numbers(2, 3, 5, 7, seed=4, scale=1.5) + shift, future | padding[:, None, None, :]


# --- right in other ways ----------------------------------------------------------------------


def by_filling(scores, hidden):
    return scores.masked_fill(hidden, -1e9).softmax(-1)  # as far below every score


def by_lowest(scores, hidden):
    lowest = scores.new_tensor(torch.finfo(scores.dtype).min)
    return torch.exp(torch.where(hidden, lowest, scores).log_softmax(-1))


def by_cases(scores, hidden):
    empty = hidden.all(-1, keepdim=True)
    weights = scores.masked_fill(hidden & ~empty, -math.inf).softmax(-1)
    return torch.where(empty, 1 / scores.shape[-1], weights)


def by_exponentials(scores, hidden):
    masked = torch.where(hidden, -1e10, scores)
    grown = torch.exp(masked - masked.amax(-1, keepdim=True))
    return grown / grown.sum(-1, keepdim=True)


EXERCISE = Exercise(
    name="openai_softmax",
    target="chapters.ch05_many_heads.exercises.openai_softmax:openai_softmax",
    minutes=15,
    axes="batch heads query key",
    needs=("safe_softmax",),
    reference=reference,
    probes=(
        Probe("the future hidden", inputs),
        Probe("row 1 padded in front: query 0 sees nothing", lambda: inputs(padded=(0, 1, 2))),
        Probe("row 1 is nothing but padding", lambda: inputs(padded=range(7))),
        # scores of 2e4 have a rounding of 4e-12, and their differences keep it
        Probe("all scores near -20000", lambda: inputs(padded=(1,), shift=-2e4)),
    ),
    knobs={
        "minus_infinity": Diagnosis(
            says="hidden scores are -inf, so a row with nothing to see is NaN",
            think="which of the two rules is asked for here: yours, or OpenAI's?",
            hint="Their number is large, but finite.",
            text="ch05#large",
        ),
        "zeros": Diagnosis(
            says="a row with nothing to see is zero: this is exercise 5.4",
            think="what does a softmax give when all its scores are -1e10?",
            hint="No row is treated apart in OpenAI's code.",
            text="ch05#large",
        ),
        "sum_only": Diagnosis(
            says="1e10 is taken off the hidden scores, which stay in it as a rest",
            think="in a row with nothing to see, what do the scores differ by after that?",
            hint="The product with b comes first: it removes the hidden score altogether.",
            text="ch05#large",
        ),
        "product_only": Diagnosis(
            says="hidden scores are 0: only the product with b is there",
            think="which number has an exponential that is as good as 0?",
            hint="There are two terms. What does the second one do where b is 0?",
            text="ch05#large",
        ),
        "plus": Diagnosis(
            says="1e10 is added, and the hidden keys take everything",
            think="should a hidden score be the largest of its row, or the smallest?",
            hint="Look for the sign.",
            text="ch05#large",
        ),
        "all_lowered": Diagnosis(
            says="1e10 is taken off every score, seen or hidden: hidden ones count as 0",
            think="what does a softmax do with a number that is taken off a whole row?",
            hint="1 - b is 1 where hidden and 0 where seen.",
            text="ch05#large",
        ),
        "inverted": Diagnosis(
            says="what may be seen is lowered, and what may not is kept",
            think="is b 1 for what is seen, or for what is hidden?",
            hint="`hidden` is True where b is 0.",
            text="ch05#large",
        ),
        "fill_1e4": Diagnosis(
            says="10000 is taken, and where the visible scores are lower still, hidden keys win",
            think="which scores can a model have after training?",
            hint="Hugging Face's GPT-2 had this number; chapter 4 has the thread.",
            text="ch05#large",
        ),
        "fill_small": Diagnosis(
            says="10 is taken, which leaves each hidden key about e^-10 of weight",
            think="how small is exp(-10), and how small exp(-1e10)?",
            hint="The number must be far below every score that there can be.",
            text="ch05#large",
        ),
        "after_softmax": Diagnosis(
            says="weights were set to 0 after the softmax, so rows no longer sum to 1",
            think="what has the sum under the fraction already counted?",
            hint="Here too the mask comes before the softmax.",
            text="ch05#large",
        ),
        "softmax_q": Diagnosis(
            says="the weights sum to 1 over the queries",
            think="whose weights should sum to 1: one query's, or one key's?",
            hint="The scores are (B, H, query, key).",
            text="ch05#large",
        ),
        "softmax_heads": Diagnosis(
            says="the weights sum to 1 over the heads",
            think="which axis of the scores is the key?",
            hint="`dim` counts from 0: (B, H, query, key).",
            text="ch05#large",
        ),
    },
    exclusive=(
        ("minus_infinity", "zeros", "sum_only", "product_only", "plus", "all_lowered"),
        ("minus_infinity", "zeros", "product_only", "fill_1e4", "fill_small", "all_lowered"),
        ("softmax_q", "softmax_heads"),
        (
            "after_softmax",
            "minus_infinity",
            "zeros",
            "sum_only",
            "product_only",
            "plus",
            "all_lowered",
            "fill_1e4",
            "fill_small",
            "inverted",
        ),
    ),
    hidden={
        "product_only+softmax_heads": "a key is hidden in all heads alike: each has a third of it",
        "plus+softmax_heads": "a key is hidden in all heads alike: each has a third of it",
        "fill_1e4+softmax_heads": "a key is hidden in all heads alike: each has a third of it",
        "fill_small+softmax_heads": "a key is hidden in all heads alike: each has a third of it",
    },
    survivors={"10000000000.0 -> 10000000001.0": "as far below every score as the other"},
    hints=(
        "With b as 1 and 0, which part of the sum is left where a key is seen, and which where it"
        " is hidden?",
        "`hidden` is a yes or no; the rule wants numbers, 1 for seen and 0 for hidden, of the same"
        " dtype as the scores. Where b is 1 the score remains; where it is 0 a large negative"
        " number stands alone. Then an ordinary softmax over the keys.",
        "make b of hidden: one for seen, none for hidden\nmultiply the scores with it\n"
        "take ten to the ten off where it is none\nsoftmax along the keys",
    ),
    alternatives=(by_filling, by_lowest, by_cases, by_exponentials),
    exceptions={
        r"Subtraction, the `-` operator, with (?:a|two) bool": (
            "a bool can't be subtracted: make numbers of it, of the dtype of the scores"
        ),
    },
    spots=(
        Spot(
            source=(
                "def openai_softmax(scores, hidden):\n"
                "    seen = 1.0 - hidden.to(scores.dtype)\n"
                "    kept = scores\n"
                "    lowered = kept - 1e10 * (1 - seen)\n"
                "    return lowered.softmax(-1)\n"
            ),
            line=3,
            knob="sum_only",
        ),
    ),
)
