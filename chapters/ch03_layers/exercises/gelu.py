"""3.2 gelu: one line, of which every part matters when the weights are given."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers

OTHERS = {
    "erf": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "relu": lambda x: torch.relu(x),
    "no_tanh": lambda x: x * torch.sigmoid(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
}


def tanh_of_exponentials(z):
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())


def reference(x, *, knobs, steps):
    chosen = [name for name in OTHERS if name in knobs]
    if chosen:
        value = OTHERS[chosen[0]](x)
        return 2 * value if "no_half" in knobs else value
    steps["x cubed"] = power = x.square() if "square" in knobs else x * x * x
    coefficient = 0.44715 if "coef_typo" in knobs else 0.044715
    steps["0.044715 x^3"] = cubic = coefficient * power
    if "no_cubic" in knobs:
        cubic = torch.zeros_like(cubic)
    factor = math.sqrt(2 / math.pi)
    factor = 2 / math.pi if "no_sqrt" in knobs else factor
    factor = math.sqrt(math.pi / 2) if "inv_sqrt" in knobs else factor
    if "sqrt_on_x" in knobs:
        inner = factor * x + cubic
    else:
        steps["x + 0.044715 x^3"] = inner = x + cubic
        inner = factor * inner
    steps["what goes into tanh"] = inner
    curve = tanh_of_exponentials(inner) if "overflow" in knobs else torch.tanh(inner)
    steps["the tanh"] = curve
    share = curve if "no_one" in knobs else 1 + curve
    steps["1 + tanh"] = share
    share = share if "no_half" in knobs else 0.5 * share
    steps["the share of x that is let through"] = share
    return share if "no_x" in knobs else x * share


def spread(low, high):
    """35 numbers from low to high in no order, none of them 0."""
    order = numbers(35, seed=9).argsort()
    line = torch.linspace(low, high, 35, dtype=torch.float64) + 0.01
    return (line[order].reshape(5, 7),)


# --- right in other ways ----------------------------------------------------------------------


def fused(x):
    return F.gelu(x, approximate="tanh")


def by_sigmoid(x):
    """(1 + tanh z) / 2 is the sigmoid of 2z."""
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))


def by_loops(x):
    values = []
    for each in x.flatten():
        inner = (2 / math.pi) ** 0.5 * each * (1 + 0.044715 * each**2)
        values.append(each / 2 + each / 2 * torch.tanh(inner))
    return torch.stack(values).reshape(x.shape)


# --- what holds for every right answer ---------------------------------------------------------


def shares_add_up(answer):
    """gelu(x) = x s(x) and s(x) + s(-x) = 1, so gelu(x) - gelu(-x) = x."""
    (x,) = spread(-6.0, 6.0)
    off = (answer(x) - answer(-x) - x).abs().max().item()
    return None if off < 1e-12 else f"gelu(x) - gelu(-x) should be x; it is off by up to {off:.2g}"


EXERCISE = Exercise(
    name="gelu",
    target="gpt2_scratch.model:gelu",
    minutes=10,
    axes="token channel",
    reference=reference,
    probes=(
        Probe("from -3 to 3", lambda: spread(-3.0, 3.0)),
        Probe("near 2.7, where exact and tanh form differ most", lambda: spread(2.3, 3.1)),
        Probe("small numbers", lambda: spread(-0.1, 0.1)),
        Probe("from -40 to 40", lambda: spread(-40.0, 40.0)),
    ),
    knobs={
        "erf": Diagnosis(
            says="this is the exact GELU, with erf; it is off by up to 4.7e-4",
            think="which of the two formulas was GPT-2 trained with?",
            hint="torch's `gelu` is the exact one unless it is told otherwise.",
            text="ch03#gelu",
        ),
        "sigmoid": Diagnosis(
            says="this is x sigmoid(1.702 x), CLIP's QuickGELU; it is off by up to 0.02",
            think="which model has the factor 1.702 in its activation?",
            hint="That one waits for you in the chapter on pictures. GPT-2's has a tanh.",
            text="ch03#gelu",
        ),
        "silu": Diagnosis(
            says="this is x sigmoid(x), called SiLU or swish",
            think="is the curve through which x is let steep enough at 0?",
            hint="At 0 both let half of x through. At 1, GELU lets 0.84 of it through.",
            text="ch03#gelu",
        ),
        "relu": Diagnosis(
            says="this is max(0, x), ReLU",
            think="what should -0.5 become, exactly 0 or a little below?",
            hint="GELU has no corner.",
            text="ch03#gelu",
        ),
        "no_tanh": Diagnosis(
            says="a sigmoid stands in place of (1 + tanh) / 2, with what belongs into the tanh",
            think="how is tanh(z) written with a sigmoid?",
            hint="(1 + tanh(z)) / 2 is a sigmoid, but not of z.",
            text="ch03#tanh",
        ),
        "no_sqrt": Diagnosis(
            says="the factor is 2 / pi = 0.637, not its root",
            think="how large is the factor in front of the bracket, as a number?",
            hint="It is 0.798 in GPT-2's formula.",
            text="ch03#tanh",
        ),
        "inv_sqrt": Diagnosis(
            says="the factor is sqrt(pi / 2) = 1.253, its inverse belongs there",
            think="is the factor in front of the bracket above or below 1?",
            hint="Which of 2 and pi is on top?",
            text="ch03#tanh",
        ),
        "sqrt_on_x": Diagnosis(
            says="the factor sqrt(2 / pi) is on x alone, not on x + 0.044715 x^3",
            think="where does the bracket close that the factor stands before?",
            hint="Both terms are inside the bracket.",
            text="ch03#tanh",
        ),
        "coef_typo": Diagnosis(
            says="the coefficient of the cube is 0.44715, ten times too large",
            think="how many zeros stand behind the point?",
            hint="At x = 1 the cube should add less than a twentieth to x.",
            text="ch03#tanh",
        ),
        "no_cubic": Diagnosis(
            says="the cube is missing: tanh gets x times the factor alone",
            think="what is added to x before tanh gets it?",
            hint="The term matters little at 1, and is a third of it all at 3.",
            text="ch03#tanh",
        ),
        "square": Diagnosis(
            says="x^2 stands where x^3 belongs",
            think="should -x go into the tanh with the opposite sign of x?",
            hint="Which power keeps the sign?",
            text="ch03#tanh",
        ),
        "no_half": Diagnosis(
            says="every number is exactly twice the right one",
            think="which share of a very large x should be let through?",
            hint="1 + tanh goes from 0 to 2.",
            text="ch03#tanh",
        ),
        "no_one": Diagnosis(
            says="tanh is used as it is, from -1 to 1, without the 1 that makes it positive",
            think="which share of a very negative x should be let through?",
            hint="tanh goes to -1 on the left, and a share can't be negative.",
            text="ch03#tanh",
        ),
        "no_x": Diagnosis(
            says="this is the share that is let through; x itself is missing",
            think="what is the share a share of?",
            hint="The values should grow without an end, as x does.",
            text="ch03#tanh",
        ),
        "overflow": Diagnosis(
            says="tanh is made of exponentials, which are infinite from 710 on: inf / inf = NaN for"
            " x from 27 on",
            think="how large does what goes into tanh become at x = 30?",
            hint="torch has tanh as a function of its own, which knows where to stop.",
            text="ch03#tanh",
        ),
    },
    exclusive=(
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "no_sqrt", "inv_sqrt"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "sqrt_on_x"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "coef_typo", "no_cubic"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "square", "no_cubic"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "no_one"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "no_x"),
        ("erf", "sigmoid", "silu", "relu", "no_tanh", "overflow"),
    ),
    hidden={
        "no_cubic+overflow": "without the cube, tanh gets 32 at most, and nothing overflows",
        "square+overflow": "with the square, tanh gets 90 at most, and nothing overflows",
        "sqrt_on_x+no_cubic": "without the cube, x is all that the factor should stand before",
    },
    hints=(
        "GELU lets a share of x through. Which share of 0, of a large number, of a very negative"
        " one?",
        "The share is (1 + tanh(z)) / 2, from 0 to 1. Inside, z = sqrt(2 / pi) times the sum of x"
        " and 0.044715 times x cubed. It works on each number by itself; any shape stays what it"
        " is.",
        "cube x, times 0.044715\nadd x\ntimes the root of two over pi\ntanh of that, plus one,"
        " halved: the share\ntimes x",
    ),
    alternatives=(fused, by_sigmoid, by_loops),
    properties=(Property("gelu(x) - gelu(-x) = x", shares_add_up),),
    exceptions={
        r"must be Tensor, not float|must be real number, not Tensor": (
            "`math.tanh` is for one Python number; tensors have `torch.tanh`"
        ),
        r"only (?:one element|integer|0-dimensional) tensors": (
            "a function of `math` takes one Python number; torch has its own for tensors"
        ),
    },
    secrets=("erf", "coef_typo", "square", "no_sqrt"),
    spots=(
        Spot(
            source="""def gelu(x):
    cube = x * x * x
    inner = x + 0.44715 * cube
    inner = math.sqrt(2 / math.pi) * inner
    share = 0.5 * (1 + torch.tanh(inner))
    return x * share
""",
            line=3,
            knob="coef_typo",
        ),
    ),
)
