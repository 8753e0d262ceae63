"""safe_softmax: a query with nothing to see gives zeros, forwards and backwards."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def safe_softmax(scores: Tensor, hidden: Tensor) -> Tensor:
    """Weights over the keys as in exercise 4.3; a row with no key to see is all zeros.

    (B, H, T, S), bool that stretches to it -> (B, H, T, S). Gradients are finite everywhere, and a
    NaN among the visible scores stays NaN: it is somebody's mistake, not a hidden row.
    """
    empty = hidden.all(-1, keepdim=True)  # (B, 1, T, 1)
    weights = torch.softmax(scores.masked_fill(hidden & ~empty, -math.inf), dim=-1)
    return weights.masked_fill(empty, 0.0)


# --- the oracle -------------------------------------------------------------------------------

FILLS = {"fill_zero": 0.0, "fill_small": -10.0, "uniform": -1e9}


def reference(scores, hidden, *, knobs, steps):
    late = torch.zeros_like(hidden)
    if "no_mask" in knobs:
        hidden = torch.zeros_like(hidden)
    if "inverted" in knobs:
        hidden = ~hidden
    if "after_softmax" in knobs:
        hidden, late = torch.zeros_like(hidden), hidden
    empty = (hidden | late).all(-1, keepdim=True)
    if "any_hidden" in knobs:
        empty = (hidden | late).any(-1, keepdim=True)
    steps["the rows with nothing to see"] = empty
    fill = next((FILLS[name] for name in FILLS if name in knobs), -math.inf)
    over = -2 if "softmax_q" in knobs else 1 if "softmax_heads" in knobs else -1
    careless = knobs & {"empty_rows", "nan_gradient", "hides_nan", "uniform"}
    if careless:
        bias = torch.zeros(hidden.shape, dtype=scores.dtype).masked_fill(hidden, fill)
        if "nan_gradient" in knobs:
            weights = torch.softmax(scores + bias, over)  # -inf comes in by adding
        else:
            weights = torch.softmax(scores.masked_fill(hidden, fill), over)
    else:
        masked = scores.masked_fill(hidden & ~empty, fill)
        steps["the scores with the hidden ones at -inf"] = masked
        weights = torch.softmax(masked, over)
    weights = weights.masked_fill(late, 0.0)
    if "hides_nan" in knobs:
        return weights.nan_to_num(0.0)
    if knobs & {"empty_rows", "uniform", "sees_all"}:
        return weights
    return weights.masked_fill(empty, 0.0)


# --- the probes -------------------------------------------------------------------------------


def inputs(padded=(), spoilt=False, hidden_up=0.0):
    """Scores (2, 3, 5, 7), hidden (2, 1, 5, 7): the future, and keys of row 1."""
    future = torch.ones(5, 7, dtype=torch.bool).triu(3)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, list(padded)] = True
    scores = numbers(2, 3, 5, 7, seed=4, scale=1.5)
    if spoilt:
        scores[0, 1, 4, 1] = math.nan  # the newest query, which sees every key
    hidden = future | padding[:, None, None, :]
    return scores + hidden_up * hidden, hidden


# --- right in other ways ----------------------------------------------------------------------


def by_multiplying(scores, hidden):
    lowest = torch.finfo(scores.dtype).min
    weights = torch.where(hidden, lowest, scores).softmax(-1)
    return weights * ~hidden.all(-1, keepdim=True)


def by_exponentials(scores, hidden):
    largest = scores.masked_fill(hidden, -math.inf).amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    grown = torch.exp((scores - largest).masked_fill(hidden, -math.inf))
    total = grown.sum(-1, keepdim=True)
    return grown / torch.where(total == 0, 1.0, total)


def by_loops(scores, hidden):
    flat = hidden.expand_as(scores).reshape(-1, scores.shape[-1])
    rows = []
    for row, shut in zip(scores.reshape(-1, scores.shape[-1]), flat, strict=True):
        weights = torch.zeros_like(row)
        rows.append(weights.masked_scatter(~shut, row[~shut].softmax(0)))
    return torch.stack(rows).reshape(scores.shape)


# --- what holds for every right answer ---------------------------------------------------------


def lower_numbers_stay_finite(answer):
    scores, hidden = inputs(padded=(0, 1, 2))
    found = answer(scores.float(), hidden)
    return None if found.isfinite().all() else "in float32 some weights are not finite"


EXERCISE = Exercise(
    name="safe_softmax",
    target="chapters.ch05_many_heads.exercises.safe_softmax:safe_softmax",
    minutes=20,
    axes="batch heads query key",
    needs=("masked_softmax",),
    reference=reference,
    probes=(
        Probe("the future hidden", inputs),
        Probe("row 1 padded in front: query 0 sees nothing", lambda: inputs(padded=(0, 1, 2))),
        Probe("row 1 is nothing but padding", lambda: inputs(padded=range(7))),
        Probe(
            "hidden scores 800 above the others", lambda: inputs(padded=(0, 1, 2), hidden_up=800.0)
        ),
        Probe("one visible score is NaN", lambda: inputs(padded=(0, 1, 2), spoilt=True)),
    ),
    knobs={
        "empty_rows": Diagnosis(
            says="a row with nothing to see is 0 / 0 = NaN",
            think="what is the sum of the exponentials when every score is -inf?",
            hint="Find those rows first: `hidden` is True all along.",
            text="ch05#empty",
        ),
        "uniform": Diagnosis(
            says="a row with nothing to see shares its weight evenly among all keys: what a large"
            " negative number instead of -inf gives",
            think="what is the softmax of equal scores, whatever they are?",
            hint="Such a row needs a treatment of its own, with -1e9 as with -inf.",
            text="ch05#large",
        ),
        "sees_all": Diagnosis(
            says="a row with nothing to see looks at everything as if nothing were hidden",
            think="you kept those rows from becoming NaN; what are they to be in the end?",
            hint="After the softmax, look at them once more.",
            text="ch05#empty",
        ),
        "nan_gradient": Diagnosis(
            says="the -inf comes in by adding, and going backwards the NaN of an empty row reaches"
            " the scores, although the weights were cleaned",
            think="what is 0 times NaN?",
            hint="Don't clean the NaN away: see that it never arises. What could an empty row hold"
            " instead of -inf, when its result is thrown away?",
            text="ch05#nan",
        ),
        "hides_nan": Diagnosis(
            says="every NaN became 0, that of a visible score too",
            think="where may a NaN come from, besides a row with nothing to see?",
            hint="Ask `hidden` which rows are empty, not the result.",
            text="ch05#nan",
        ),
        "any_hidden": Diagnosis(
            says="a row is zeroed as soon as one of its keys is hidden",
            think="when has a query nothing left: when one key is hidden, or when all are?",
            hint="`any` and `all` are two different questions.",
            text="ch05#empty",
        ),
        "no_mask": Diagnosis(
            says="nothing is hidden: this is the softmax of all scores",
            think="where does `hidden` come into your function?",
            hint="Start from your exercise 4.3.",
            text="ch05#infinity",
        ),
        "inverted": Diagnosis(
            says="what may be seen is hidden, and what may not is visible",
            think="does True in `hidden` mean look or don't look?",
            hint="`masked_fill` fills where its mask is True.",
            text="ch05#infinity",
        ),
        "fill_zero": Diagnosis(
            says="hidden scores are 0, and exp(0) = 1 is a weight like any other",
            think="which number has the exponential 0?",
            hint="The softmax comes after the mask: what must go in so that 0 comes out?",
            text="ch05#infinity",
        ),
        "fill_small": Diagnosis(
            says="hidden scores are -10, which leaves each of them about e^-10 of weight",
            think="which number has the exponential 0, exactly?",
            hint="A score of -10 is unlikely, not impossible.",
            text="ch05#infinity",
        ),
        "after_softmax": Diagnosis(
            says="weights were set to 0 after the softmax, so rows no longer sum to 1",
            think="what has the sum under the fraction already counted?",
            hint="Sum your weights over the keys, for the first token.",
            text="ch05#infinity",
        ),
        "softmax_q": Diagnosis(
            says="the weights sum to 1 over the queries",
            think="whose weights should sum to 1: one query's, or one key's?",
            hint="The scores are (B, H, query, key).",
            text="ch05#infinity",
        ),
        "softmax_heads": Diagnosis(
            says="the weights sum to 1 over the heads",
            think="which axis of the scores is the key?",
            hint="`dim` counts from 0: (B, H, query, key).",
            text="ch05#infinity",
        ),
    },
    exclusive=(
        ("empty_rows", "uniform", "sees_all", "nan_gradient", "hides_nan", "any_hidden"),
        ("no_mask", "inverted", "after_softmax"),
        ("softmax_q", "softmax_heads"),
        ("no_mask", "after_softmax", "fill_zero", "fill_small", "uniform", "any_hidden"),
        ("no_mask", "after_softmax", "empty_rows", "sees_all", "nan_gradient"),
    ),
    hidden={
        "nan_gradient+inverted": "the values are those of the other mistake; nobody goes back yet",
        "nan_gradient+softmax_heads": "the values are those of the other mistake, as above",
        "hides_nan+inverted": "the only NaN is among the scores that the other mistake hides",
    },
    hints=(
        "A row of nothing but -inf is 0 / 0. Can it be kept from ever being one?",
        "Find the rows whose keys are all hidden, (B, 1, T, 1). Leave their scores as they are:"
        " their softmax is then an ordinary one, with an ordinary gradient. Afterwards their"
        " weights become 0, and as nothing of them is used, nothing flows back.",
        "find the rows that are hidden all along\n"
        "put minus infinity where hidden, but not in those rows\n"
        "softmax over the keys\nzero those rows",
    ),
    alternatives=(by_multiplying, by_exponentials, by_loops),
    properties=(Property("finite in float32 too", lower_numbers_stay_finite),),
    exceptions={
        r"masked_fill_? only supports boolean masks|expected.*bool": (
            "`hidden` is bool already: True where a query may not look"
        ),
    },
    secrets=("empty_rows", "uniform", "sees_all", "any_hidden"),
    spots=(
        Spot(
            source=(
                "def safe_softmax(scores, hidden):\n"
                "    empty = hidden.all(-1, keepdim=True)\n"
                "    masked = scores.masked_fill(hidden, -1e9)\n"
                "    weights = masked.softmax(-1)\n"
                "    return weights\n"
            ),
            line=5,
            knob="uniform",
        ),
    ),
)
