"""masked_softmax: scores become weights, and what is hidden becomes exactly 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def masked_softmax(scores: Tensor, hidden: Tensor) -> Tensor:
    """Weights over the keys: exactly 0 for what is hidden, the rest of each row sums to 1.

    (B, H, T, S), bool that stretches to it -> (B, H, T, S). Each query has a key left to see.
    """
    masked = scores.masked_fill(hidden, -math.inf)
    return torch.softmax(masked, dim=-1)


# --- the oracle -------------------------------------------------------------------------------

FILLS = {"fill_zero": 0.0, "fill_small": -10.0, "fill_1e4": -1e4, "fill_plus": math.inf}


def reference(scores, hidden, *, knobs, steps):
    late = torch.zeros_like(hidden)
    if "no_mask" in knobs:
        hidden = torch.zeros_like(hidden)
    if "inverted" in knobs:
        hidden = ~hidden
    if "no_stretch" in knobs:  # the mask of the first row of the batch, for all
        hidden = hidden[:1]
    if knobs & {"after_softmax", "renormalised"}:
        hidden, late = torch.zeros_like(hidden), hidden
    fill = next((FILLS[name] for name in FILLS if name in knobs), -math.inf)
    masked = scores.masked_fill(hidden, fill)
    if "times_infinity" in knobs:
        masked = scores + hidden * -math.inf  # False * -inf is NaN
    steps["the scores with the hidden ones at -inf"] = masked
    over = -2 if "softmax_q" in knobs else 1 if "softmax_heads" in knobs else -1
    grown = torch.exp(masked - masked.amax(over, keepdim=True))
    weights = (grown / grown.sum(over, keepdim=True)).masked_fill(late, 0.0)
    if "global_max" in knobs:
        grown = torch.exp(scores - scores.max()).masked_fill(hidden, 0.0)
        weights = grown / grown.sum(over, keepdim=True)
    if "renormalised" in knobs:
        weights = weights / weights.sum(over, keepdim=True)
    if "log" in knobs:
        return (masked - masked.logsumexp(over, keepdim=True)).masked_fill(late, 0.0)
    return weights


# --- the probes -------------------------------------------------------------------------------


def inputs(padded=(), shift=0.0, hidden_up=0.0):
    """Scores (2, 3, 5, 7), hidden (2, 1, 5, 7): the future, and keys of row 1."""
    future = torch.ones(5, 7, dtype=torch.bool).triu(3)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, list(padded)] = True
    hidden = future | padding[:, None, None, :]
    scores = numbers(2, 3, 5, 7, seed=4, scale=1.5) + shift
    return scores + hidden_up * hidden, hidden


# --- right in other ways ----------------------------------------------------------------------


def by_adding(scores, hidden):
    bias = torch.zeros(hidden.shape, dtype=scores.dtype).masked_fill(hidden, -math.inf)
    return torch.exp(torch.log_softmax(scores + bias, -1))


def by_large_negative(scores, hidden):
    return torch.where(hidden, torch.finfo(scores.dtype).min, scores).softmax(3)


def by_exponentials(scores, hidden):
    seen = ~hidden
    largest = scores.masked_fill(hidden, -math.inf).amax(-1, keepdim=True)
    grown = torch.exp(scores.where(seen, largest) - largest) * seen
    return grown / grown.sum(-1, keepdim=True)


def by_loops(scores, hidden):
    rows = []
    flat = hidden.expand_as(scores).reshape(-1, scores.shape[-1])
    for row, shut in zip(scores.reshape(-1, scores.shape[-1]), flat, strict=True):
        weights = torch.zeros_like(row)
        rows.append(weights.masked_scatter(~shut, row[~shut].softmax(0)))
    return torch.stack(rows).reshape(scores.shape)


# --- what holds for every right answer ---------------------------------------------------------


def hidden_scores_are_nothing(answer):
    scores, hidden = inputs(padded=(0,))
    before = answer(scores, hidden)
    after = answer(scores.masked_fill(hidden, 123.0), hidden)
    if torch.equal(before, after):
        return None
    return "the weights changed when only hidden scores did"


EXERCISE = Exercise(
    name="masked_softmax",
    target="chapters.ch04_one_head.exercises.masked_softmax:masked_softmax",
    minutes=15,
    axes="batch heads query key",
    needs=("softmax",),
    reference=reference,
    probes=(
        Probe("the future hidden", inputs),
        Probe("key 0 of batch row 1 hidden too", lambda: inputs(padded=(0,))),
        Probe("hidden scores 800 above the others", lambda: inputs(hidden_up=800.0)),
        Probe("all scores near -20000", lambda: inputs(padded=(0,), shift=-2e4)),
    ),
    knobs={
        "no_mask": Diagnosis(
            says="nothing is hidden: this is the softmax of all scores",
            think="where does `hidden` come into your function?",
            hint="What must a hidden score become, so that its exponential is 0?",
            text="ch04#mask",
        ),
        "inverted": Diagnosis(
            says="what may be seen is hidden, and what may not is visible",
            think="does True in `hidden` mean look or don't look?",
            hint="`masked_fill` fills where its mask is True.",
            text="ch04#mask",
        ),
        "no_stretch": Diagnosis(
            says="every row of the batch gets the mask of row 0",
            think="which axis of `hidden` tells one sentence from another?",
            hint="`hidden` is (B, 1, T, S): only its axis of 1 is to be stretched.",
            text="ch04#mask",
        ),
        "fill_zero": Diagnosis(
            says="hidden scores are 0, and exp(0) = 1 is a weight like any other",
            think="which number has the exponential 0?",
            hint="The softmax comes after the mask: what must go in so that 0 comes out?",
            text="ch04#minus-infinity",
        ),
        "fill_small": Diagnosis(
            says="hidden scores are -10, which leaves each of them about e^-10 of weight",
            think="which number has the exponential 0, exactly?",
            hint="A score of -10 is unlikely, not impossible.",
            text="ch04#minus-infinity",
        ),
        "fill_1e4": Diagnosis(
            says="hidden scores are some number, as -10000 would be, and here the visible ones are"
            " lower still",
            think="which number is lower than every score that there can be?",
            hint="Scores of -20000 have been seen in a trained model; the text has the thread.",
            text="ch04#minus-infinity",
        ),
        "times_infinity": Diagnosis(
            says="the mask was multiplied by -inf and added: where it is False that is 0 times"
            " infinity, which is NaN",
            think="what is added to a score that may be seen?",
            hint="Put -inf where `hidden` is True, and leave the other scores alone.",
            text="ch04#minus-infinity",
        ),
        "fill_plus": Diagnosis(
            says="hidden scores are +inf, and inf / inf is NaN",
            think="what is the exponential of +inf, and of -inf?",
            hint="Look for the sign.",
            text="ch04#minus-infinity",
        ),
        "after_softmax": Diagnosis(
            says="weights were set to 0 after the softmax, so rows no longer sum to 1",
            think="what has the sum under the fraction already counted?",
            hint="Sum your weights over the keys, for the first token.",
            text="ch04#minus-infinity",
        ),
        "renormalised": Diagnosis(
            says="hidden keys take part in a first softmax and are removed after it: where one of"
            " them is 800 above the rest, nothing is left to share out but 0 / 0",
            think="what are the visible weights when a hidden key has taken all but e^-800?",
            hint="Hide first; then one softmax is enough.",
            text="ch04#minus-infinity",
        ),
        "global_max": Diagnosis(
            says="the largest of all scores was taken off every row, hidden scores included: where"
            " a hidden one is 800 above the rest, the rest underflows to 0 / 0",
            think="whose largest score does each row need, and may it be a hidden one?",
            hint="If the hidden scores are -inf first, none of them is the largest.",
            text="ch04#minus-infinity",
        ),
        "softmax_q": Diagnosis(
            says="the weights sum to 1 over the queries",
            think="whose weights should sum to 1: one query's, or one key's?",
            hint="The scores are (B, H, query, key). Whose row is one look?",
            text="ch04#softmax",
        ),
        "softmax_heads": Diagnosis(
            says="the weights sum to 1 over the heads",
            think="which axis of the scores is the key?",
            hint="`dim` counts from 0: (B, H, query, key).",
            text="ch04#softmax",
        ),
        "log": Diagnosis(
            says="these are logarithms of weights",
            think="which function was asked for, softmax or log_softmax?",
            hint="Weights lie between 0 and 1; yours are below 0.",
            text="ch04#softmax",
        ),
    },
    exclusive=(
        ("fill_zero", "fill_small", "fill_1e4", "fill_plus", "after_softmax", "renormalised"),
        ("fill_zero", "fill_small", "fill_1e4", "fill_plus", "no_mask"),
        ("softmax_q", "softmax_heads"),
        ("no_mask", "inverted", "no_stretch"),
        ("no_mask", "after_softmax", "renormalised"),
        ("log", "after_softmax", "renormalised", "global_max"),
        ("fill_zero", "fill_small", "fill_1e4", "fill_plus", "global_max"),
        ("after_softmax", "renormalised", "no_mask", "global_max"),
    ),
    hidden={
        "times_infinity+*": "every number is NaN already",
        "inverted+fill_plus": "every number is NaN, as by the mask times -inf",
        "inverted+global_max": "the scores that are left are the large ones: nothing is lost",
        "inverted+renormalised": "the scores that are left are the large ones: nothing is lost",
        "fill_plus+softmax_heads": "a key is hidden in every head: all of them +inf or -inf is NaN",
        "renormalised+softmax_heads": "a key is hidden in every head: weights over heads only move",
    },
    hints=(
        "The softmax gives every score a share. What score gets a share of exactly 0?",
        "exp(-inf) is 0. Put -inf in the place of each hidden score, (B, H, T, S), and take the"
        " softmax of each row over its S keys. `hidden` may be smaller than the scores; torch"
        " stretches its axes of length 1.",
        "copy the scores with minus infinity where hidden\ntake the softmax along the keys",
    ),
    alternatives=(by_adding, by_large_negative, by_exponentials, by_loops),
    properties=(Property("hidden scores are nothing", hidden_scores_are_nothing),),
    exceptions={
        r"masked_fill_? only supports boolean masks|expected.*bool": (
            "`hidden` is bool already: True where a query may not look"
        ),
    },
    spots=(
        Spot(
            source=(
                "def masked_softmax(scores, hidden):\n"
                "    seen = ~hidden\n"
                "    masked = scores * seen\n"
                "    largest = masked.amax(-1, keepdim=True)\n"
                "    grown = torch.exp(masked - largest)\n"
                "    return grown / grown.sum(-1, keepdim=True)\n"
            ),
            line=3,
            knob="fill_zero",
        ),
    ),
)
