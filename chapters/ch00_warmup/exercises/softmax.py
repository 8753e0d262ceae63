"""0.1 softmax: the stub is almost right, so that the first check already has something to say."""

from __future__ import annotations

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers


def softmax(x: Tensor, dim: int) -> Tensor:
    """The numbers along `dim` made positive, with sum 1: exp(x) over the sum of all exp(x).

    Any shape -> the same shape.
    """
    shifted = x - x.amax(dim, keepdim=True)  # the largest becomes exp(0) = 1
    grown = torch.exp(shifted)
    return grown / grown.sum(dim, keepdim=True)


def softmax_starter(x: Tensor, dim: int) -> Tensor:
    """The numbers along `dim` made positive, with sum 1: exp(x) over the sum of all exp(x).

    Any shape -> the same shape.
    """
    grown = torch.exp(x)
    return grown / grown.sum(dim, keepdim=True)


def reference(x, dim, *, knobs, steps):
    axis = {"max_dim0": 0, "ignores_dim": -1}
    if "no_max" in knobs:
        shifted = x
    elif "global_max" in knobs:
        shifted = x - x.max()
    elif knobs & {"min", "mean"}:
        small = x.amin if "min" in knobs else x.mean
        shifted = x - small(dim, keepdim=True)
    else:
        largest = (
            0 if "max_dim0" in knobs else axis["ignores_dim"] if "ignores_dim" in knobs else dim
        )
        shifted = x - x.amax(largest, keepdim=True)
    steps["x less the largest of its row"] = shifted
    grown = shifted.exp()
    steps["the exponentials"] = grown
    if "sum_all" in knobs:
        total = grown.sum()
    else:
        total = grown.sum(-1 if "ignores_dim" in knobs else dim, keepdim=True)
    steps["their sums"] = total
    return (grown / total).log() if "log" in knobs else grown / total


def by_torch(x, dim):
    return torch.softmax(x, dim)


def by_logsumexp(x, dim):
    return torch.exp(x - torch.logsumexp(x, dim, keepdim=True))


def by_loops(x, dim):
    slices = x.unbind(dim)
    largest = slices[0]
    for each in slices:
        largest = torch.maximum(largest, each)
    grown = [(each - largest).exp() for each in slices]
    return torch.stack([each / sum(grown) for each in grown], dim)


def far_apart():
    """One row near 800, where exp overflows, and one near -800, where it underflows."""
    return (numbers(2, 3, 5, seed=1) + torch.tensor([[800.0], [0.0], [-800.0]]), 2)


def one_large():
    """Rows from -800 to 800 but for one number of 2000: only near the largest is exp safe."""
    x = 400 * numbers(2, 3, 5, seed=4)
    x[:, :, 3] = 2000.0
    return x, 2


EXERCISE = Exercise(
    name="softmax",
    target="chapters.ch00_warmup.exercises.softmax:softmax",
    starter="softmax_starter",
    minutes=10,
    axes="batch row column",
    reference=reference,
    probes=(
        Probe("along the last axis", lambda: (numbers(2, 3, 5), 2)),
        Probe("along the middle axis", lambda: (numbers(2, 3, 5, seed=2), 1)),
        Probe("along the first axis", lambda: (numbers(2, 3, 5, seed=3), 0)),
        Probe("rows near 800, 0 and -800", far_apart),
        Probe("one number of 2000 among small ones", one_large),
    ),
    knobs={
        "no_max": Diagnosis(
            says="exp overflows: on the row near 800 it is infinite, and inf / inf is NaN",
            think="what is softmax(x - c), for any number c?",
            hint="Divide exp(x) and the sum above and below by exp(c). Which c keeps exp small?",
            text="ch00#overflow",
        ),
        "global_max": Diagnosis(
            says="the largest number of the whole tensor was taken off every row, so the row 800"
            " and more below it underflows to 0 / 0",
            think="whose largest number does each row need?",
            hint="Each row may have its own c, since each has its own sum.",
            text="ch00#overflow",
        ),
        "max_dim0": Diagnosis(
            says="the largest was taken along axis 0, the sum along `dim`",
            think="is `dim` used in every reduction?",
            hint="There are two reductions in a softmax: a largest and a sum.",
            text="ch00#axes",
        ),
        "ignores_dim": Diagnosis(
            says="the last axis was used where `dim` said otherwise",
            think="is `dim` used in every reduction?",
            hint="Look for a -1.",
            text="ch00#axes",
        ),
        "sum_all": Diagnosis(
            says="all numbers together sum to 1",
            think="what should one row sum to?",
            hint="A sum without an axis is the sum of everything.",
            text="ch00#axes",
        ),
        "log": Diagnosis(
            says="these are logarithms of probabilities",
            think="which function was asked for, softmax or log_softmax?",
            hint="Probabilities lie between 0 and 1; yours are below 0.",
            text="ch00#overflow",
        ),
        "min": Diagnosis(
            says="the smallest number of each row was taken off, so that exp overflows where a row"
            " is wide",
            think="which number of a row makes exp overflow first?",
            hint="After the subtraction no number should be above 0.",
            text="ch00#overflow",
        ),
        "mean": Diagnosis(
            says="the mean of each row was taken off, so that exp overflows where a row is wide",
            think="how far above its mean can the largest number of a row be?",
            hint="After the subtraction no number should be above 0.",
            text="ch00#overflow",
        ),
    },
    exclusive=(("no_max", "global_max", "min", "mean", "max_dim0"),),
    hints=(
        "What is the largest number that exp can be given in float64 before it is infinite?",
        "softmax(x) and softmax(x - c) are the same for every c that is constant along `dim`."
        " Choose c so that the largest number that exp sees is 0. It has the shape of x, but with"
        " 1 along `dim`.",
        "take the largest along dim, keeping the axis\nsubtract it\nexponentiate\n"
        "divide by the sum along dim, keeping the axis",
    ),
    alternatives=(by_torch, by_logsumexp, by_loops),
)
