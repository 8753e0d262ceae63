"""3.1 layer_norm: a function first; the module that holds its parameters is the last exercise."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def layer_norm(x: torch.Tensor, g: torch.Tensor, b: torch.Tensor, eps: float) -> torch.Tensor:
    """Each token's C numbers to mean 0 and variance 1, then times g (C,), plus b (C,).

    (B, T, C) -> (B, T, C). The variance is the mean of the squares; eps is added to it.
    """
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * g + b


def reference(x, g, b, eps, *, knobs, steps):
    axes = (1, 2) if "all_dims" in knobs else (2,)
    axes = (0,) if "dim0" in knobs else (1,) if "over_tokens" in knobs else axes
    mean = x.mean(axes, keepdim=True)
    if "detached" in knobs:
        mean = mean.detach()
    steps["x less its mean"] = centred = x - mean
    around = x if knobs & {"no_center_var", "rms"} else centred
    many = 1
    for axis in axes:
        many *= x.shape[axis]
    variance = around.pow(2).sum(axes, keepdim=True) / (many - ("unbiased" in knobs))
    steps["the variance"] = variance
    if "detached" in knobs:
        variance = variance.detach()
    eps = 1e-12 if "eps_fixed" in knobs else 1e-5 if "eps_constant" in knobs else eps
    inside = 0.0 if knobs & {"no_eps", "eps_outside"} else eps
    root = (variance + inside) if "div_by_var" in knobs else (variance + inside).sqrt()
    if knobs & {"eps_outside", "eps_twice"}:
        root = root + eps
    normed = (x if knobs & {"no_mean", "rms"} else centred) / root
    steps["the normed values"] = normed
    if "no_gain" not in knobs:
        normed = (normed + b) * g if "bias_first" in knobs else normed * g
        steps["the normed values times g"] = normed
    return normed if knobs & {"no_bias", "bias_first"} else normed + b


def one_constant():
    """Token 3 of row 1 has nothing to be normed by: its variance is 0."""
    x = numbers(2, 5, 7, seed=5)
    x[1, 3] = 0.7
    return x, *weights(), 1e-5


def weights():
    return numbers(7, seed=21) + 1.0, numbers(7, seed=22)


# --- right in other ways ----------------------------------------------------------------------


def fused(x, g, b, eps):
    return F.layer_norm(x, g.shape, g, b, eps)


def by_var_mean(x, g, b, eps):
    variance, mean = torch.var_mean(x, dim=2, correction=0, keepdim=True)
    return torch.addcmul(b, (x - mean) * (variance + eps).rsqrt(), g)


def by_matrices(x, g, b, eps):
    size = x.shape[-1]
    centring = torch.eye(size).to(x) - 1 / size
    centred = x @ centring
    squares = torch.einsum("btc,btc->bt", centred, centred) / size
    return torch.einsum("btc,bt,c->btc", centred, (squares + eps) ** -0.5, g) + b


def by_loops(x, g, b, eps):
    rows = []
    for row in x.flatten(0, 1):
        away = row - sum(row) / len(row)
        rows.append(away / (sum(away**2) / len(row) + eps) ** 0.5 * g + b)
    return torch.stack(rows).reshape(x.shape)


# --- what holds for every right answer ---------------------------------------------------------


def tokens_alone(answer):
    x, (g, b) = numbers(2, 5, 7, seed=6), weights()
    before = answer(x, g, b, 1e-5)
    x[1, 2] = 3.0 * x[1, 2] + 1.0
    same = (before == answer(x, g, b, 1e-5)).all(-1)
    same[1, 2] = True
    if same.all():
        return None
    return "the output of another token changed when token 2 of row 1 did"


EXERCISE = Exercise(
    name="layer_norm",
    target="chapters.ch03_layers.exercises.layer_norm:layer_norm",
    minutes=15,
    axes="batch token channel",
    reference=reference,
    probes=(
        Probe("eps 1e-5", lambda: (numbers(2, 5, 7, seed=1), *weights(), 1e-5)),
        Probe("eps 0.1", lambda: (numbers(2, 5, 7, seed=2), *weights(), 0.1)),
        Probe("one token all alike", one_constant),
        Probe("values near 1e-3", lambda: (numbers(2, 5, 7, seed=3, scale=1e-3), *weights(), 1e-5)),
        Probe("values near 100", lambda: (numbers(2, 5, 7, seed=4) + 100.0, *weights(), 1e-5)),
    ),
    knobs={
        "unbiased": Diagnosis(
            says="the squares are divided by C - 1, so every value is too small: by 0.04% where"
            " C = 1280, by 7.4% here, where C = 7",
            think="is it the variance of these C numbers, or a guess at that of many more?",
            hint="`var` and `std` have an argument for it, `correction` or `unbiased`.",
            text="ch03#variance",
        ),
        "eps_outside": Diagnosis(
            says="eps is added to the root of the variance, not to the variance",
            think="is eps inside the square root or outside of it?",
            hint="With a variance of 0 the divisor is sqrt(eps), not eps.",
            text="ch03#eps",
        ),
        "eps_twice": Diagnosis(
            says="eps is added twice, to the variance and to its root",
            think="how often does eps stand in the formula?",
            hint="One of the two is enough to divide by something that isn't 0. Which one?",
            text="ch03#eps",
        ),
        "no_eps": Diagnosis(
            says="there is no eps: a token whose numbers are all alike is 0 / 0 = NaN",
            think="what do you divide by when all C numbers of a token are the same?",
            hint="Where in your function is the argument `eps` used?",
            text="ch03#eps",
        ),
        "eps_fixed": Diagnosis(
            says="eps is 1e-12, whatever the argument says",
            think="where does your eps come from?",
            hint="BERT's eps is 1e-12; the argument `eps` may be any number.",
            text="ch03#eps",
        ),
        "eps_constant": Diagnosis(
            says="eps is always 1e-5, whatever the argument says",
            think="what becomes of the argument `eps`?",
            hint="A function that is given a number should use that number.",
            text="ch03#eps",
        ),
        "div_by_var": Diagnosis(
            says="the numbers are divided by their variance, not by its root",
            think="if all numbers of a token are doubled, by how much does their variance grow?",
            hint="The variance is in squares of x's unit. What brings it back to x's unit?",
            text="ch03#variance",
        ),
        "no_center_var": Diagnosis(
            says="the mean of the squares of x stands for the variance: the mean wasn't taken off"
            " before squaring",
            think="what is the variance of five numbers that are all 100?",
            hint="Variance is about distances from the mean. From what are yours?",
            text="ch03#variance",
        ),
        "no_mean": Diagnosis(
            says="x itself is divided by the deviation: its mean is still in it",
            think="what should the mean of a normed token be, before g and b?",
            hint="Two things are done to the numbers: moved, then shrunk or stretched.",
            text="ch03#idea",
        ),
        "rms": Diagnosis(
            says="x is divided by the root of the mean of its squares, and no mean is taken off at"
            " all: that is RMSNorm, of later models",
            think="which of the two things that a layer norm does to a token is missing?",
            hint="A token of five times 100 should become zeros. What does yours become?",
            text="ch03#idea",
        ),
        "all_dims": Diagnosis(
            says="mean and variance are taken over all tokens of a row together",
            think="over which axes may the norm of one token look?",
            hint="If token 4 can change token 0, a model can see the future.",
            text="ch03#axes",
        ),
        "dim0": Diagnosis(
            says="mean and variance are taken over the batch",
            think="may the other sentence of a batch change this one?",
            hint="That is batch norm. Which of B, T and C are one token's own numbers?",
            text="ch03#axes",
        ),
        "over_tokens": Diagnosis(
            says="mean and variance are taken over the tokens, channel by channel",
            think="which of the axes B, T and C holds the numbers of one token?",
            hint="`dim` counts from 0: (B, T, C).",
            text="ch03#axes",
        ),
        "no_gain": Diagnosis(
            says="g is not used",
            think="which of your lines reads g?",
            hint="Each channel of the normed token has a factor of its own.",
            text="ch03#gain",
        ),
        "no_bias": Diagnosis(
            says="b is not used",
            think="which of your lines reads b?",
            hint="Each channel has a number of its own that is added last.",
            text="ch03#gain",
        ),
        "bias_first": Diagnosis(
            says="b is added before the product with g, so g stretches b as well",
            think="which comes first, the factor or the shift?",
            hint="For a normed value of 0 the output is b. What is yours?",
            text="ch03#gain",
        ),
        "detached": Diagnosis(
            says="the values are right, but mean and variance are taken out of the graph, as if"
            " they didn't depend on x",
            think="when one number of a token grows, what happens to the token's other outputs?",
            hint="Look for `detach`, `.data`, `no_grad` or `.item()`.",
            text="ch03#idea",
        ),
    },
    exclusive=(
        ("all_dims", "dim0", "over_tokens"),
        ("no_mean", "no_center_var", "rms"),
        ("eps_outside", "eps_twice", "no_eps"),
        ("eps_fixed", "eps_constant", "no_eps"),
        ("no_bias", "bias_first"),
        ("no_gain", "bias_first"),
    ),
    hidden={
        "detached+*": "the values tell the other mistake, and gradients are looked at after",
        "eps_outside+div_by_var": "variance + eps is the same, wherever eps was to be added",
    },
    hints=(
        "For one token: what is the mean of its C numbers, how far from it do they lie, and what"
        " must be done to them so that the mean is 0 and that distance 1?",
        "The mean (B, T, 1) is taken over C alone and subtracted. The variance (B, T, 1) is the"
        " mean of the squares of what is left. Divided by the root of variance + eps, the token has"
        " spread 1. g and b, both (C,), act on each channel.",
        "take each token's mean, keeping the axis\nsubtract it\nthe variance: square, take the mean"
        " again\nadd eps, take the root, divide by it\nmultiply by g\nadd b",
    ),
    alternatives=(fused, by_var_mean, by_matrices, by_loops),
    properties=(Property("each token for itself", tokens_alone),),
    exceptions={
        r"must match the size of tensor b \(5\)": (
            "a mean of shape (B, T) doesn't fit beside (B, T, C): what does `keepdim=True` do?"
        ),
    },
    secrets=("unbiased", "eps_outside", "all_dims", "bias_first"),
    spots=(
        Spot(
            source="""def layer_norm(x, g, b, eps):
    mean = x.mean(-1, keepdim=True)
    away = x - mean
    deviation = x.std(-1, keepdim=True)
    normed = away / torch.sqrt(deviation**2 + eps)
    return normed * g + b
""",
            line=4,
            knob="unbiased",
        ),
        Spot(
            source="""def layer_norm(x, g, b, eps):
    mean = x.mean(-1, keepdim=True)
    squares = (x * x).mean(-1, keepdim=True)
    variance = squares - mean * mean
    scale = 1 / (torch.sqrt(variance) + eps)
    return (x - mean) * scale * g + b
""",
            line=5,
            knob="eps_outside",
        ),
    ),
)
