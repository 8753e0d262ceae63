"""explicit_attention: scores, mask, softmax, mix."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property
from chapters.runner.inputs import numbers

# --- the oracle -------------------------------------------------------------------------------


def parts(hidden: Tensor, knobs: frozenset[str]) -> tuple[Tensor, Tensor]:
    """A mask made from two parts, as one's own would be: the future, and the padded keys."""
    queries, keys = hidden.shape[-2:]
    every = torch.ones(queries, keys, dtype=torch.bool)
    padded = hidden[..., -1:, :]  # (B, 1, 1, S): the last query may see all but padding
    future = every.triu(keys - queries + 1)
    if "mask_diag" in knobs:
        future = every.triu(keys - queries)
    if "mask_late" in knobs:
        future = every.triu(keys - queries + 2)
    if "mask_lower" in knobs:
        future = every.tril(keys - queries)
    if "no_causal" in knobs:
        future = ~every
    if "no_pad" in knobs:
        padded = torch.zeros_like(padded)
    if "pad_inverted" in knobs:
        padded = ~padded
    if "pad_queries" in knobs:
        padded = padded[..., keys - queries :].mT  # (B, 1, T, 1)
    return future, padded


FUTURE = ("mask_diag", "mask_late", "mask_lower", "no_causal")
PADDING = ("no_pad", "pad_inverted", "pad_queries", "pad_after_softmax")


FILLS = {"fill_zero": 0.0, "fill_small": -10.0, "uniform": -1e9}
CARELESS = {"empty_rows", "uniform"}  # nothing is done for a query with nothing to see


def scale_of(q: Tensor, k: Tensor, knobs: frozenset[str]) -> float:
    heads, _, size = q.shape[1:]
    if "no_scale" in knobs:
        return 1.0
    if "scale_d" in knobs:
        return 1 / size
    if "scale_mul" in knobs:
        return math.sqrt(size)
    if "scale_T" in knobs:
        return 1 / math.sqrt(k.shape[-2])
    if "scale_d_model" in knobs:
        return 1 / math.sqrt(heads * size)
    return 1 / math.sqrt(size)


def reference(q, k, v, hidden, dropout=0.0, *, knobs, steps):
    late = torch.zeros_like(hidden)  # what is hidden after the softmax only
    if knobs & {*FUTURE, *PADDING}:
        future, padded = parts(hidden, knobs)
        hidden = future | padded
        if "pad_after_softmax" in knobs:
            hidden, late = future[None, None], padded
    if "inverted" in knobs:
        hidden = ~hidden
    if "after_softmax" in knobs:
        hidden, late = torch.zeros_like(hidden), hidden | late
    steps["the scores q k"] = scores = q @ k.mT
    steps["the scores divided by sqrt(D)"] = scores = scores * scale_of(q, k, knobs)
    fill = next((FILLS[name] for name in FILLS if name in knobs), -math.inf)
    scores = scores.masked_fill(hidden, fill)
    over = -2 if "softmax_q" in knobs else 1 if "softmax_heads" in knobs else -1
    largest = scores.amax(over, keepdim=True)
    if not knobs & CARELESS:  # exp(-inf - 0) = 0 where there is nothing to see
        largest = largest.masked_fill(largest == -math.inf, 0.0)
    grown = torch.exp(scores - largest)
    total = grown.sum(over, keepdim=True)
    if not knobs & CARELESS:
        total = total.masked_fill(total == 0, 1.0)
    weights = (grown / total).masked_fill(late, 0.0)
    if not knobs & CARELESS:
        weights = weights.masked_fill((hidden | late).all(-1, keepdim=True), 0.0)
    steps["the weights"] = weights
    values = k if "keys_as_values" in knobs else v
    return (weights.mT if "p_transposed" in knobs else weights) @ values


# --- the probes -------------------------------------------------------------------------------


def inputs(queries=5, keys=5, padded=(), empty=False):
    """q (2, 3, T, 4), k and v (2, 3, S, 4), hidden (2, 1, T, S); `padded` keys of row 1."""
    q = numbers(2, 3, queries, 4, seed=1)
    k, v = numbers(2, 3, keys, 4, seed=2), numbers(2, 3, keys, 4, seed=3)
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)[None, None]
    if padded:
        mask = torch.zeros(2, keys, dtype=torch.bool)
        mask[1, list(padded)] = True
        hidden = hidden | mask[:, None, None, :]
    return q, k, v, hidden


# --- right in other ways ----------------------------------------------------------------------


def fused(q, k, v, hidden, dropout=0.0):
    empty = hidden.all(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, ~hidden | empty).masked_fill(empty, 0.0)


def by_einsum(q, k, v, hidden, dropout=0.0):
    scores = torch.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k)
    weights = torch.where(hidden, -1e9, scores).softmax(-1) * ~hidden
    return torch.einsum("bhts,bhsd->bhtd", weights, v)


def by_loops(q, k, v, hidden, dropout=0.0):
    batch, heads, queries, size = q.shape
    hidden = hidden.expand(batch, heads, queries, k.shape[2])
    rows = []
    for b in range(batch):
        for h in range(heads):
            for t in range(queries):
                seen = ~hidden[b, h, t]
                scores = (k[b, h, seen] @ q[b, h, t]) / math.sqrt(size)
                rows.append(torch.softmax(scores, 0) @ v[b, h, seen])
    return torch.stack(rows).reshape(q.shape)


# --- what holds for every right answer ---------------------------------------------------------


def future_changes_nothing(answer):
    q, k, v, hidden = inputs()
    before = answer(q, k, v, hidden)
    k[:, :, 3:], v[:, :, 3:] = 7.0, -7.0
    after = answer(q, k, v, hidden)
    if torch.equal(before[:, :, :3], after[:, :, :3]):
        return None
    return "the outputs of tokens 0 to 2 changed when tokens 3 and 4 did"


def order_of_keys_is_nothing(answer):
    q, k, v, hidden = inputs(queries=2, keys=7, padded=(2,))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    straight = answer(q, k, v, hidden)
    shuffled = answer(q, k[:, :, order], v[:, :, order], hidden[..., order])
    if torch.allclose(straight, shuffled, rtol=0, atol=1e-12):
        return None
    return "keys, values and mask in another order gave another output"


EXERCISE = Exercise(
    name="explicit_attention",
    target="gpt2_scratch.model:explicit_attention",
    minutes=25,
    axes="batch heads query d",
    needs=("attention_scores", "masked_softmax"),
    reference=reference,
    probes=(
        Probe("no padding", inputs),
        Probe("row 1 padded after token 2", lambda: inputs(padded=(3, 4))),
        Probe("5 queries, 7 keys", lambda: inputs(keys=7)),
        Probe("row 1 padded before token 2", lambda: inputs(padded=(0, 1))),
    ),
    knobs={
        "no_scale": Diagnosis(
            says="the scores are not divided by sqrt(D)",
            think="how does the spread of q·k grow with D, the length of both?",
            hint="A sum of D products of independent numbers of spread 1 has spread sqrt(D).",
            text="ch04#scale",
        ),
        "scale_d": Diagnosis(
            says="the scores are divided by D, not by its root",
            think="is it the variance of q·k that grows like D, or its spread?",
            hint="Variances add; the spread is the root of the variance.",
            text="ch04#scale",
        ),
        "scale_mul": Diagnosis(
            says="the scores are multiplied by sqrt(D)",
            think="should the scores of wide heads become larger or smaller?",
            hint="They are too large already: see the experiment of this chapter.",
            text="ch04#scale",
        ),
        "scale_T": Diagnosis(
            says="the scores are divided by the root of the number of keys",
            think="over which axis does q·k sum?",
            hint="The number of keys decides how many scores there are, not how large one is.",
            text="ch04#scale",
        ),
        "scale_d_model": Diagnosis(
            says="the scores are divided by sqrt(H D), the width of all heads together",
            think="how many numbers does one head multiply and add for one score?",
            hint="Each head has its own q and k; which axis of them is summed?",
            text="ch04#scale",
        ),
        "mask_diag": Diagnosis(
            says="a token can't see itself, so the first one sees nothing at all",
            think="what is the first token to look at?",
            hint="The diagonal of `hidden` is False.",
            text="ch04#mask",
        ),
        "mask_late": Diagnosis(
            says="each token sees one token of its future",
            think="which diagonal is the first that is hidden?",
            hint="Write the mask for three tokens on paper.",
            text="ch04#mask",
        ),
        "mask_lower": Diagnosis(
            says="the past is hidden and the future visible",
            think="does the row of the mask belong to the query or to the key?",
            hint="Row t is what query t may not see: for t = 0 that is everything but key 0.",
            text="ch04#mask",
        ),
        "no_causal": Diagnosis(
            says="every token sees the future",
            think="where does `hidden` come into your function?",
            hint="What is done to a score whose key may not be seen?",
            text="ch04#mask",
        ),
        "inverted": Diagnosis(
            says="what may be seen is hidden, and what may not is visible",
            think="does True in `hidden` mean look or don't look?",
            hint="`masked_fill` fills where its mask is True; SDPA's mask means the opposite.",
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
        "after_softmax": Diagnosis(
            says="weights were set to 0 after the softmax, so rows no longer sum to 1",
            think="what has the sum under the fraction already counted?",
            hint="Sum your weights over the keys, for the first token.",
            text="ch04#minus-infinity",
        ),
        "pad_after_softmax": Diagnosis(
            says="the future is hidden before the softmax, but padding only after it",
            think="what do the weights of a padded row sum to?",
            hint="Both kinds of hiding belong in one mask, before the softmax.",
            text="ch04#minus-infinity",
        ),
        "no_pad": Diagnosis(
            says="padded keys receive weight: this is attention with a causal mask alone",
            think="what does the argument `hidden` hold besides the future?",
            hint="A mask of your own making knows nothing of padding; the argument does.",
            text="ch04#padding",
        ),
        "pad_inverted": Diagnosis(
            says="only padding is visible",
            think="does True mean padding or a real token?",
            hint="True = may not be looked at, everywhere in this course.",
            text="ch04#padding",
        ),
        "pad_queries": Diagnosis(
            says="the queries of padded tokens are hidden, their keys are not",
            think="which axis of the scores is the key?",
            hint="The scores are (B, H, query, key).",
            text="ch04#padding",
        ),
        "softmax_q": Diagnosis(
            says="the weights sum to 1 over the queries",
            think="whose weights should sum to 1: one query's, or one key's?",
            hint="The scores are (B, H, query, key). Over which axis does the mix sum?",
            text="ch04#softmax",
        ),
        "softmax_heads": Diagnosis(
            says="the weights sum to 1 over the heads",
            think="which axis of the scores is the key?",
            hint="`dim` counts from 0: (B, H, query, key).",
            text="ch04#softmax",
        ),
        "keys_as_values": Diagnosis(
            says="the keys are mixed, not the values",
            think="what does a token hand over when it is looked at?",
            hint="q and k decide where to look; the third one is what is found there.",
            text="ch04#mix",
        ),
        "p_transposed": Diagnosis(
            says="the weights are transposed before they mix the values",
            think="over which axis does the mix sum: queries or keys?",
            hint="(B, H, T, S) times (B, H, S, D): the inner axes meet without a transpose.",
            text="ch04#mix",
        ),
        "empty_rows": Diagnosis(
            says="a query with no key left to see is 0 / 0 = NaN; it should give zeros",
            think="what is the sum of the exponentials when every score is -inf?",
            hint="Find those queries first: a row of `hidden` that is True all along.",
            text="ch04#padding",
        ),
        "uniform": Diagnosis(
            says="a query with no key left to see mixes all values in equal shares: what a large"
            " negative number instead of -inf gives",
            think="what is the softmax of equal scores, whatever they are?",
            hint="Such a query needs a treatment of its own, with -1e9 as with -inf.",
            text="ch04#padding",
        ),
    },
    exclusive=(
        ("no_scale", "scale_d", "scale_mul", "scale_T", "scale_d_model"),
        ("mask_diag", "mask_late", "mask_lower", "no_causal"),
        ("no_pad", "pad_inverted", "pad_queries", "pad_after_softmax"),
        ("fill_zero", "fill_small", "after_softmax", "uniform"),
        ("empty_rows", "uniform"),
        ("after_softmax", "pad_after_softmax"),
        ("softmax_q", "softmax_heads"),
    ),
    hidden={
        "pad_after_softmax+softmax_q": "a padded key's column is 0 before this softmax as after it",
        "pad_after_softmax+softmax_heads": "a padded key is 0 in every head, before as after",
        "pad_after_softmax+empty_rows": "hiding the future alone leaves no query with nothing",
        "no_causal+empty_rows": "where the future is visible, no query is left with nothing",
        "no_causal+uniform": "where the future is visible, no query is left with nothing",
        "no_pad+uniform": "where padding is visible, no query is left with nothing",
        "pad_after_softmax+uniform": "hiding the future alone leaves no query with nothing",
        "no_pad+empty_rows": "where padding is visible, no query is left with nothing",
        "after_softmax+empty_rows": "without -inf in the softmax there is no 0 / 0",
        "after_softmax+softmax_heads": "weights over heads don't change when keys are hidden after",
    },
    hints=(
        "For one query: how much does each key resemble it, which keys may it see at all, and how"
        " do resemblances become weights that sum to 1?",
        "Scores (B, H, T, S) are all dot products of a query with a key, over sqrt(D). Hidden ones"
        " become -inf, so that the softmax over the last axis gives them exactly 0. The weights"
        " mix the values, (B, H, T, S) by (B, H, S, D). A query whose every score is -inf is left"
        " out of all this and gives zeros.",
        "find the queries with nothing to see\nscores: queries times transposed keys, over the root"
        " of D\nput minus infinity where hidden, except in those rows\nsoftmax over the keys\n"
        "zero the weights of those rows\nmix the values with the weights",
    ),
    alternatives=(fused, by_einsum, by_loops),
    properties=(
        Property("the future changes nothing", future_changes_nothing),
        Property("the order of the keys is nothing", order_of_keys_is_nothing),
    ),
    exceptions={
        r"mat1 and mat2|batch2 tensor|must match the size of tensor b \((?:4|5|7)\)": (
            "scores want (B, H, T, D) by (B, H, D, S): which two axes of the keys change places?"
        ),
    },
)
