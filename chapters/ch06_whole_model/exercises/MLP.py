"""MLP: each token for itself, wider, bent, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chapters.ch06_whole_model.exercises import parts
from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers

C = parts.SIZES.n_embd
SHAPES = {"c_fc.w": (C, 4 * C), "c_fc.b": (4 * C,), "c_proj.w": (4 * C, C), "c_proj.b": (C,)}


def use(answer, x, state):
    return parts.used(answer(parts.SIZES), state, x)


# --- the oracle -------------------------------------------------------------------------------


def activation(x: Tensor, knobs: frozenset[str]) -> Tensor:
    if "relu" in knobs:
        return x.clamp(min=0)
    if "erf_gelu" in knobs:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2
    if "quick_gelu" in knobs:
        return x * torch.sigmoid(1.702 * x)
    if "silu" in knobs:
        return x * torch.sigmoid(x)
    return parts.bend(x)


def reference(x, state, *, knobs, steps):
    shapes = parts.listed(state)
    if "three_times" in knobs:
        shapes |= {"c_fc.w": [C, 3 * C], "c_fc.b": [3 * C], "c_proj.w": [3 * C, C]}
        return {"parameters": shapes, "output": None}
    if "torch_linear" in knobs:
        shapes = {"c_fc.weight": [4 * C, C], "c_fc.bias": [4 * C]}
        shapes |= {"c_proj.weight": [C, 4 * C], "c_proj.bias": [C]}
        return {"parameters": shapes, "output": None}
    y = activation(x, knobs) if "act_first" in knobs else x
    y = y @ state["c_fc.w"] + state["c_fc.b"]
    steps["the four times wider vectors"] = y
    if not knobs & {"no_act", "act_first", "act_last"}:
        y = activation(y, knobs)
        steps["GELU of them"] = y
    y = y @ state["c_proj.w"] + state["c_proj.b"]
    if knobs & {"act_last", "act_twice"}:
        y = activation(y, knobs)
    return {"parameters": shapes, "output": x + y if "residual" in knobs else y}


# --- right in other ways ----------------------------------------------------------------------


class Pair(nn.Module):
    """What holds a w and a b, and no more."""

    def __init__(self, size_in, size_out):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size_in, size_out))
        self.b = nn.Parameter(torch.zeros(size_out))


class ByLinear(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Pair(config.n_embd, 4 * config.n_embd)
        self.c_proj = Pair(4 * config.n_embd, config.n_embd)

    def forward(self, x):
        wide = F.gelu(F.linear(x, self.c_fc.w.T, self.c_fc.b), approximate="tanh")
        return F.linear(wide, self.c_proj.w.T, self.c_proj.b)


class ByEinsum(ByLinear):
    def __init__(self, config):
        super().__init__(config)
        self.bend = nn.GELU(approximate="tanh")

    def forward(self, x):
        wide = torch.einsum("btc,cw->btw", x, self.c_fc.w) + self.c_fc.b
        return torch.einsum("btw,wc->btc", self.bend(wide), self.c_proj.w) + self.c_proj.b


class TokenByToken(ByLinear):
    def forward(self, x):
        rows = []
        for token in x.reshape(-1, x.shape[-1]):
            u = token @ self.c_fc.w + self.c_fc.b
            u = u * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))
            rows.append(u @ self.c_proj.w + self.c_proj.b)
        return torch.stack(rows).view_as(x)


EXERCISE = Exercise(
    name="MLP",
    target="gpt2_scratch.model:MLP",
    minutes=10,
    axes=("batch token channel",),
    reference=reference,
    use=use,
    probes=(
        Probe("two rows of five tokens", lambda: (numbers(2, 5, C), parts.state_of(SHAPES))),
        Probe(
            "large numbers",
            lambda: (numbers(2, 3, C, seed=5, scale=30.0), parts.state_of(SHAPES, seed=7)),
        ),
    ),
    knobs={
        "no_act": Diagnosis(
            says="there is no GELU between the two linear maps",
            think="what are two linear maps one after the other, with nothing between them?",
            hint="(x A) B = x (A B): what have you gained by the wide layer then?",
            text="ch06#mlp",
        ),
        "act_first": Diagnosis(
            says="GELU bends the input, before the first linear map, and not the wide vectors",
            think="which of the three vectors, narrow, wide, narrow, should be bent?",
            hint="The learned maps decide what is bent: one of them has to come first.",
            text="ch06#mlp",
        ),
        "act_last": Diagnosis(
            says="GELU comes after the second linear map instead of between the two",
            think="the output is added to the residual stream: should it be able to go below zero"
            " freely?",
            hint="Of the three vectors, narrow, wide, narrow, the middle one is bent.",
            text="ch06#mlp",
        ),
        "act_twice": Diagnosis(
            says="GELU comes between the linear maps, and once more behind the second",
            think="what can a sum no longer take away when every summand has been through a GELU?",
            hint="What the MLP writes to the residual stream is the second map's output as it is.",
            text="ch06#mlp",
        ),
        "relu": Diagnosis(
            says="the bend is ReLU, max(0, x)",
            think="what does GPT-2 do with a number a little below zero?",
            hint="You wrote the right function in chapter 3.",
            text="ch06#mlp",
        ),
        "erf_gelu": Diagnosis(
            says="the bend is the exact GELU with erf, torch's default, up to 4.7e-4 away",
            think="which of the two GELUs was GPT-2 trained with?",
            hint="torch's own can do both: see its argument `approximate`.",
            text="ch06#mlp",
        ),
        "quick_gelu": Diagnosis(
            says="the bend is QuickGELU, x sigmoid(1.702 x), which is CLIP's",
            think="whose activation is it, and for which model are these weights?",
            hint="GPT-2's has a tanh and the number 0.044715 in it.",
            text="ch06#mlp",
        ),
        "silu": Diagnosis(
            says="the bend is SiLU, x sigmoid(x), which came with later models",
            think="by what is x multiplied in GPT-2's own activation?",
            hint="You wrote the right function in chapter 3.",
            text="ch06#mlp",
        ),
        "three_times": Diagnosis(
            says="the wide layer is 3 C wide",
            think="which layer of the block is three times as wide, and for what?",
            hint="3 C is for queries, keys and values; the MLP has one C more.",
            text="ch06#mlp",
        ),
        "torch_linear": Diagnosis(
            says="the maps are nn.Linear: parameters `weight` and `bias`, stored (out, in)",
            think="under which names and in which order do OpenAI's files hold a linear map?",
            hint="You wrote that layer in chapter 3; it is imported at the top of the stub.",
            text="ch06#names",
        ),
        "residual": Diagnosis(
            says="the input is added to the output in here already",
            think="who adds to the residual stream: the MLP, or the block around it?",
            hint="Look at the docstring of Block, the next exercise.",
            text="ch06#block",
        ),
    },
    exclusive=(
        ("no_act", "act_first", "act_last", "act_twice"),
        ("no_act", "relu", "erf_gelu", "quick_gelu", "silu"),
        ("three_times", "torch_linear"),
    ),
    hidden={
        "three_times+*": "with other parameters nothing is computed",
        "torch_linear+*": "with other parameters nothing is computed",
    },
    exceptions=parts.NO_MODULE,
    needs=("Conv1D", "gelu"),
    hints=(
        "How many numbers does a token have before, between and after the two linear maps?",
        "Two of OpenAI's linear maps, C -> 4C called c_fc and 4C -> C called c_proj. GELU bends"
        " what lies between them, (B, T, 4C). Nothing mixes tokens here.",
        "in the constructor: the base class's own, then the wider map, then the one back\n"
        "forward: widen, bend, narrow; hand that back without adding the input",
    ),
    alternatives=(ByLinear, ByEinsum, TokenByToken),
)
