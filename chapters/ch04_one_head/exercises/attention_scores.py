"""attention_scores: how well each query fits each key."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Spot
from chapters.runner.inputs import numbers


def attention_scores(q: Tensor, k: Tensor) -> Tensor:
    """How well each query fits each key: their dot product, over the root of D.

    (B, H, T, D), (B, H, S, D) -> (B, H, T, S). Vaswani et al. 2017, section 3.2.1.
    """
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, S)


# --- the oracle -------------------------------------------------------------------------------


def reference(q, k, *, knobs, steps):
    heads, size = q.shape[1], q.shape[-1]
    if "cosine" in knobs:
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    left, right = (k, q) if "transposed" in knobs else (q, k)
    if "reshaped" in knobs:
        right = right.reshape(*right.shape[:2], *right.mT.shape[2:]).mT
    if "elementwise" in knobs:
        left, right = left.sum(-1, keepdim=True), right.sum(-1, keepdim=True)
    products = torch.einsum("bhtd,bhsd->bhts", left, right)
    if "heads_summed" in knobs:
        products = products.sum(1)
    steps["the dot products q k"] = products
    scale = {
        "no_scale": 1.0,
        "cosine": 1.0,
        "scale_d": size,
        "scale_mul": 1 / math.sqrt(size),
        "scale_T": math.sqrt(k.shape[-2]),
        "scale_d_model": math.sqrt(heads * size),
    }
    divisor = next((scale[name] for name in scale if name in knobs), math.sqrt(size))
    divided = products / divisor
    return divided.softmax(-1) if "softmaxed" in knobs else divided


# --- right in other ways ----------------------------------------------------------------------


def by_einsum(q, k):
    return torch.einsum("bhtd,bhsd->bhts", q, k) * q.shape[-1] ** -0.5


def by_scaling_both(q, k):
    root = q.shape[-1] ** 0.25
    return torch.matmul(q / root, (k / root).permute(0, 1, 3, 2))


def by_loops(q, k):
    columns = [(q * key.unsqueeze(-2)).sum(-1) for key in k.unbind(2)]
    return torch.stack(columns, -1) / math.sqrt(q.shape[-1])


EXERCISE = Exercise(
    name="attention_scores",
    target="chapters.ch04_one_head.exercises.attention_scores:attention_scores",
    minutes=10,
    axes="batch heads query key",
    reference=reference,
    probes=(
        Probe(
            "5 queries, 7 keys", lambda: (numbers(2, 3, 5, 4, seed=1), numbers(2, 3, 7, 4, seed=2))
        ),
        Probe("one query", lambda: (numbers(2, 3, 1, 4, seed=3), numbers(2, 3, 5, 4, seed=4))),
        Probe("D = 11", lambda: (numbers(2, 3, 5, 11, seed=5), numbers(2, 3, 7, 11, seed=6))),
    ),
    knobs={
        "no_scale": Diagnosis(
            says="the dot products are not divided by sqrt(D)",
            think="how does the spread of q·k grow with D, the length of both?",
            hint="A sum of D products of independent numbers of spread 1 has spread sqrt(D).",
            text="ch04#scale",
        ),
        "scale_d": Diagnosis(
            says="the dot products are divided by D, not by its root",
            think="is it the variance of q·k that grows like D, or its spread?",
            hint="Variances add; the spread is the root of the variance.",
            text="ch04#scale",
        ),
        "scale_mul": Diagnosis(
            says="the dot products are multiplied by sqrt(D)",
            think="should the scores of wide heads become larger or smaller?",
            hint="They are too large already. A factor of D**-0.5 is multiplied, D**0.5 divides.",
            text="ch04#scale",
        ),
        "scale_T": Diagnosis(
            says="the dot products are divided by the root of the number of keys",
            think="over which axis does q·k sum?",
            hint="The number of keys says how many scores there are, not how large one is.",
            text="ch04#scale",
        ),
        "scale_d_model": Diagnosis(
            says="the dot products are divided by sqrt(H D), the width of all heads together",
            think="how many numbers does one head multiply and add for one score?",
            hint="Each head has its own q and k; which axis of them is summed?",
            text="ch04#scale",
        ),
        "cosine": Diagnosis(
            says="each score is the cosine of the angle between query and key: their lengths are"
            " divided out",
            think="may a key be more wanted than another in the same direction?",
            hint="A long key gets large scores from every query that points its way; keep that.",
            text="ch04#scores",
        ),
        "elementwise": Diagnosis(
            says="the numbers of each query are summed, those of each key too, and only then"
            " multiplied",
            think="which number of the key meets which number of the query?",
            hint="Number d of one is multiplied with number d of the other, then all are added.",
            text="ch04#scores",
        ),
        "transposed": Diagnosis(
            says="the rows are keys and the columns queries",
            think="what is a row of the scores about: one query, or one key?",
            hint="Row t holds what query t thinks of every key. The left factor gives the rows.",
            text="ch04#scores",
        ),
        "reshaped": Diagnosis(
            says="the keys were read anew as (D, S) instead of being transposed: a column holds"
            " pieces of several keys",
            think="in what order do the numbers of two keys lie in memory?",
            hint="`view` and `reshape` move no number; `transpose` exchanges two axes.",
            text="ch04#scores",
        ),
        "heads_summed": Diagnosis(
            says="the scores of all heads are added into one table",
            think="how many tables of scores are there for one sentence?",
            hint="Each head looks for itself: its axis is in both factors and in the result.",
            text="ch04#scores",
        ),
        "softmaxed": Diagnosis(
            says="these are weights already: a softmax has gone over the scores",
            think="what must still happen between the scores and the softmax?",
            hint="What is hidden is decided on the scores; exercise 4.3 makes weights of them.",
            text="ch04#scores",
        ),
    },
    exclusive=(
        ("no_scale", "scale_d", "scale_mul", "scale_T", "scale_d_model", "cosine"),
        ("cosine", "elementwise"),
        ("elementwise", "reshaped"),
    ),
    hints=(
        "A query and a key are D numbers each. What one number says how much they point the same"
        " way, and how large does it get when D grows?",
        "All dot products at once are a matrix product: (T, D) by (D, S) gives (T, S), for each row"
        " of the batch and each head. The keys come as (S, D), so two of their axes change places."
        " Then every score is divided by the same number, which depends on D alone.",
        "turn the last two axes of the keys round\nmultiply the queries with that, head by head\n"
        "divide by the root of the length of one query",
    ),
    alternatives=(by_einsum, by_scaling_both, by_loops),
    exceptions={
        r"size of tensor b|Expected size for first two|mat1 and mat2|batch2": (
            "the queries' last axis and the keys' second last one meet in the product: both must"
            " be D. Which two axes of the keys change places?"
        ),
    },
    spots=(
        Spot(
            source=(
                "def attention_scores(q, k):\n"
                "    width = q.shape[1] * q.shape[-1]\n"
                "    turned = k.transpose(-2, -1)\n"
                "    products = q @ turned\n"
                "    root = width**0.5\n"
                "    return products / root\n"
            ),
            line=2,
            knob="scale_d_model",
        ),
    ),
)
