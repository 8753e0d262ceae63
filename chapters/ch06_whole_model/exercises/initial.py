"""initial: how far each parameter is spread before training."""

from __future__ import annotations

import math

from chapters.runner.exercise import Diagnosis, Exercise, Probe

PARTS = (
    *("ln_1.g", "ln_1.b", "attn.c_attn.w", "attn.c_attn.b", "attn.c_proj.w", "attn.c_proj.b"),
    *("ln_2.g", "ln_2.b", "mlp.c_fc.w", "mlp.c_fc.b", "mlp.c_proj.w", "mlp.c_proj.b"),
)


def initial(name: str, n_layer: int) -> tuple[float, float]:
    """Mean and standard deviation that a GPT-2's parameter is drawn with, by its name.

    0 and 0.02 for weights and `wte.weight`, 0 and 0.01 for `wpe.weight`; the `c_proj.w`, whose
    outputs are summed up in the residual stream, are divided by the root of how many they are.
    Gains `.g` are 1, biases `.b` are 0. `h.0.attn.c_proj.w`, 12 -> (0.0, 0.02 / sqrt(24)).
    """
    if name.endswith(".g"):
        return 1.0, 0.0
    if name.endswith(".b"):
        return 0.0, 0.0
    if name == "wpe.weight":
        return 0.0, 0.01
    return 0.0, 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj.w") else 0.02


def use(answer, names, n_layer):
    return {name: answer(name, n_layer) for name in names}


# --- the oracle -------------------------------------------------------------------------------


def drawn(name, n_layer, knobs):
    leaf = name.rsplit(".", 1)[1]
    if leaf == "g":
        mean = 0.0 if "gains_zero" in knobs else 1.0
        return mean, 0.02 if "gains_drawn" in knobs else 0.0
    if leaf == "b":
        return 0.0, 0.02 if "biases_drawn" in knobs else 0.0
    if name == "wpe.weight":
        return 0.0, 0.02 if "wpe_like_wte" in knobs else 0.01
    if name == "wte.weight":
        return 0.0, 1.0 if "wte_one" in knobs else 0.02
    into = name.endswith("c_proj.w")
    if "attn_only" in knobs:
        into = "attn.c_proj" in name
    if "mlp_only" in knobs:
        into = "mlp.c_proj" in name
    if "attn_all" in knobs:
        into = into or "attn.c_attn" in name
    if "every_weight" in knobs:
        into = True
    if not into or "no_depth" in knobs:
        return 0.0, 0.02
    count = n_layer if "depth_once" in knobs else 2 * n_layer
    if "by_layer" in knobs:
        count = 2 * (int(name.split(".")[1]) + 1)
    factor = math.sqrt(count)
    if "no_root" in knobs:
        factor = float(count)
    return 0.0, 0.02 * factor if "multiplied" in knobs else 0.02 / factor


def reference(names, n_layer, *, knobs, steps):
    found = {}
    for name in names:
        mean, spread = drawn(name, n_layer, knobs)
        found[name] = (mean, spread**2 if "variance" in knobs else spread)
    return found


def names_of(*layers: int) -> list[str]:
    blocks = [f"h.{layer}.{part}" for layer in layers for part in PARTS]
    return ["wte.weight", "wpe.weight", *blocks, "ln_f.g", "ln_f.b"]


# --- right in other ways ----------------------------------------------------------------------


def by_table(name, n_layer):
    spread = {"wpe.weight": 0.01, "wte.weight": 0.02}.get(name)
    if spread is not None:
        return 0.0, spread
    leaf = name[-1]
    if leaf != "w":
        return float(leaf == "g"), 0.0
    return 0.0, 0.02 * (2 * n_layer) ** (-0.5 if "c_proj" in name else 0)


def by_match(name, n_layer):
    match name.split("."):
        case [*_, "g"]:
            return 1.0, 0.0
        case [*_, "b"]:
            return 0.0, 0.0
        case ["wpe", _]:
            return 0.0, 1e-2
        case [*_, "c_proj", "w"]:
            return 0.0, 2e-2 / (n_layer + n_layer) ** 0.5
    return 0.0, 2e-2


def by_variance(name, n_layer):
    """So that all that is added to the stream has together the variance of one map."""
    table, leaf = name.split(".")[0], name.split(".")[-1]
    variance = {"wpe": 0.0001, "wte": 0.0004}.get(table, 0.0004 if leaf == "w" else 0.0)
    if "c_proj" in name:
        variance /= n_layer + n_layer
    return (1.0 if leaf == "g" else 0.0), math.sqrt(variance)


EXERCISE = Exercise(
    name="initial",
    target="chapters.ch06_whole_model.exercises.initial:initial",
    minutes=10,
    axes="",
    reference=reference,
    use=use,
    probes=(
        Probe("a model of 12 layers", lambda: (names_of(0, 1, 10), 12)),
        Probe("a model of 3 layers", lambda: (names_of(2), 3)),
    ),
    knobs={
        "no_depth": Diagnosis(
            says="the projections into the residual stream are drawn like any other weight",
            think="if each of 2L additions has a spread of 1, how spread is their sum?",
            hint="Look at the figure of this section: what does the stream do with depth?",
            text="ch06#initial",
        ),
        "depth_once": Diagnosis(
            says="the projections are divided by the root of L, the number of blocks",
            think="how often does one block add to the stream?",
            hint="Count the c_proj.w of one block.",
            text="ch06#initial",
        ),
        "no_root": Diagnosis(
            says="the projections are divided by the number of additions itself, not by its root",
            think="which grows like the number of summands: the variance, or the spread?",
            hint="Variances add up. The spread is the root of the variance.",
            text="ch06#initial",
        ),
        "by_layer": Diagnosis(
            says="the divisor grows from block to block",
            think="does a projection know how far down it stands, or only how many there are?",
            hint="OpenAI's number depends on the model's depth and not on the block's place.",
            text="ch06#initial",
        ),
        "multiplied": Diagnosis(
            says="the projections grow with the depth: multiplied where division belongs",
            think="should a deep model's additions be larger or smaller than a shallow one's?",
            hint="The more there are, the less each may add.",
            text="ch06#initial",
        ),
        "attn_only": Diagnosis(
            says="attention's projections are divided, the MLPs' are not",
            think="which maps of a block write into the residual stream?",
            hint="There are two of them in a block, and both have the same last name.",
            text="ch06#initial",
        ),
        "mlp_only": Diagnosis(
            says="the MLPs' projections are divided, attention's are not",
            think="which maps of a block write into the residual stream?",
            hint="There are two of them in a block, and both have the same last name.",
            text="ch06#initial",
        ),
        "attn_all": Diagnosis(
            says="c_attn is divided too",
            think="is what c_attn gives added to the stream, or used up inside attention?",
            hint="Only what is added to the stream piles up there.",
            text="ch06#initial",
        ),
        "every_weight": Diagnosis(
            says="every weight of a block is divided by the root of the number of additions",
            think="is what c_fc gives added to the stream, or used up inside the MLP?",
            hint="Only what is added to the stream piles up there.",
            text="ch06#initial",
        ),
        "wpe_like_wte": Diagnosis(
            says="positions are spread by 0.02, like words",
            think="which of the two embeddings did OpenAI draw with half the spread?",
            hint="The docstring gives a number for each of the two.",
            text="ch06#initial",
        ),
        "wte_one": Diagnosis(
            says="word embeddings are spread by 1, which is nn.Embedding's own habit",
            think="wte is the head as well: how large are the first logits then?",
            hint="A logit is a sum of C products. See this chapter's experiment.",
            text="ch06#initial",
        ),
        "biases_drawn": Diagnosis(
            says="biases are drawn, too",
            think="what do biases begin as?",
            hint="Nothing has to break a symmetry here: the weights do that already.",
            text="ch06#initial",
        ),
        "gains_drawn": Diagnosis(
            says="gains are drawn around their mean",
            think="by what should a norm multiply before it has learned anything?",
            hint="A norm begins as one that changes nothing but mean and spread.",
            text="ch06#initial",
        ),
        "gains_zero": Diagnosis(
            says="gains begin as 0",
            think="what comes out of a norm that multiplies by your number?",
            hint="A norm begins as one that changes nothing but mean and spread.",
            text="ch06#initial",
        ),
        "variance": Diagnosis(
            says="these are variances, and spreads are asked for",
            think="which of the two does `normal_` take?",
            hint="One is the other's square.",
            text="ch06#initial",
        ),
    },
    exclusive=(
        ("no_depth", "depth_once", "by_layer"),
        ("no_depth", "no_root"),
        ("no_depth", "multiplied"),
        ("no_depth", "attn_only", "mlp_only", "attn_all", "every_weight"),
    ),
    needs=(),
    hints=(
        "Which parameters write into the residual stream, and how many of them are there in a model"
        " of L blocks?",
        "The name tells all: its last part says whether it is a gain, a bias or a weight, and the"
        " part before whether what it gives is added to the stream. There are 2L of those; their"
        " sum should be spread as one of them would be alone.",
        "a gain: one, without spread\na bias: zero, without spread\n"
        "the position table: spread a hundredth\n"
        "all else two hundredths, over the root of twice the depth for the two that project back",
    ),
    alternatives=(by_table, by_match, by_variance),
)
