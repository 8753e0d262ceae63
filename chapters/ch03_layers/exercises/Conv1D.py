"""3.3 Conv1D: a linear layer whose matrix lies the way that OpenAI stored it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from chapters.ch03_layers.modules import applied, described, shown
from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def use(answer, x, w, b):
    """Build it for w's sizes, look at its parameters, then give it w and b and call it."""
    module = answer(*w.shape)
    return {"parameters": described(module), "output": applied(module, {"w": w, "b": b}, x)}


def reference(x, w, b, *, knobs, steps):
    size_in, size_out = w.shape
    flipped = shown((size_out, size_in))
    parameters = {"b": shown((size_out,)), "w": shown((size_in, size_out))}
    if "stored_out_in" in knobs:
        parameters["w"] = flipped
    if "sizes_swapped" in knobs:
        parameters = {"b": shown((size_in,)), "w": flipped}
    if "bias_in" in knobs:
        parameters["b"] = shown((size_in,))
    if "one_bias" in knobs:
        parameters["b"] = shown((1,))
    if "leading_one" in knobs:
        parameters["w"] = shown((1, size_in, size_out))
    if "no_b" in knobs:
        del parameters["b"]
    if "frozen" in knobs:
        parameters = {name: f"{shape}, without gradient" for name, shape in parameters.items()}
    if "other_names" in knobs:
        long = {"b": "bias", "w": "weight"}
        parameters = {long[name]: shape for name, shape in parameters.items()}
    if "plain_tensors" in knobs:
        parameters = {}
    if "buffers" in knobs:
        parameters = {name: f"{shape}, a buffer" for name, shape in parameters.items()}
        return {"parameters": parameters, "output": None}
    fits = parameters.get("w", "").startswith(shown(w.shape)) and parameters.get(
        "b", shown(b.shape)
    ).startswith(shown(b.shape))
    if not fits:
        return {"parameters": parameters, "output": None}
    if "detached" in knobs:
        w = w.detach()
    if knobs & {"w_transposed", "stored_out_in"}:
        w = w.T
    steps["x w"] = product = x @ w
    output = product if knobs & {"no_bias", "no_b"} else product + b
    if "activated" in knobs:
        output = torch.relu(output)
    output = output.flatten(0, -2) if "flat" in knobs else output
    return {"parameters": parameters, "output": output}


def inputs(*shape, size_in=3, size_out=7):
    x = numbers(*shape, size_in, seed=31)
    return x, numbers(size_in, size_out, seed=32), numbers(size_out, seed=33)


# --- right in other ways ----------------------------------------------------------------------


class ByLinear(nn.Module):
    def __init__(self, size_in, size_out):
        super().__init__()
        self.w = nn.Parameter(torch.randn(size_in, size_out) * 0.02)
        self.b = nn.Parameter(torch.zeros(size_out))

    def forward(self, x):
        return F.linear(x, self.w.T, self.b)


class ByEinsum(ByLinear):
    def forward(self, x):
        return torch.einsum("...i,io->...o", x, self.w) + self.b


class ByColumns(ByLinear):
    """One output at a time: each is a dot product with a column of w, and its own bias."""

    def forward(self, x):
        columns = [(x * column).sum(-1) for column in self.w.unbind(1)]
        return torch.stack(columns, -1) + self.b


class ByOneMore(ByLinear):
    """b as a further row of w, for an input that is always 1."""

    def forward(self, x):
        ones = torch.ones_like(x[..., :1])
        return torch.cat([x, ones], -1) @ torch.cat([self.w, self.b[None]])


# --- what holds for every right answer ---------------------------------------------------------


def zeros_give_the_bias(answer):
    x, w, b = inputs(2, 5)
    output = answer(torch.zeros_like(x), w, b)["output"]
    right = torch.equal(output, b.expand(output.shape))
    return None if right else "an input of zeros should give b"


EXERCISE = Exercise(
    name="Conv1D",
    target="gpt2_scratch.model:Conv1D",
    minutes=15,
    axes="batch token out",
    reference=reference,
    use=use,
    probes=(
        Probe("3 in, 7 out", lambda: inputs(2, 5)),
        Probe("square w, 4 in and 4 out", lambda: inputs(2, 5, size_in=4, size_out=4)),
        Probe("no batch axis: (T, in)", lambda: inputs(5)),
        Probe("one axis more: (B, H, T, in)", lambda: inputs(2, 6, 5)),
    ),
    knobs={
        "w_transposed": Diagnosis(
            says="w is used as if it were (out, in): that fails where the sizes differ, and where w"
            " is square it passes with wrong numbers",
            think="which axis of w belongs to the inputs, and which meets x in your product?",
            hint="`F.linear(x, w)` transposes its w. Yours lies the other way.",
            text="ch03#linear",
        ),
        "stored_out_in": Diagnosis(
            says="w is stored (out, in), as `nn.Linear` does it",
            think="in which order does OpenAI's file hold the two sizes of w?",
            hint="The loader copies tensors as they are: w (in, out).",
            text="ch03#linear",
        ),
        "sizes_swapped": Diagnosis(
            says="the first argument is taken for the number of outputs",
            think="which of the two arguments is called `size_in`?",
            hint="Hugging Face's class of this name has them the other way round.",
            text="ch03#linear",
        ),
        "leading_one": Diagnosis(
            says="w has a further axis of length 1 in front, as in OpenAI's file",
            think="how many axes does a matrix have?",
            hint="The file's 1 is a leftover of a convolution; the loader takes it off.",
            text="ch03#linear",
        ),
        "other_names": Diagnosis(
            says="the parameters are called `weight` and `bias`",
            think="by which names does the loader look for them?",
            hint="One letter each, as in OpenAI's file.",
            text="ch03#parameter",
        ),
        "no_b": Diagnosis(
            says="there is no parameter b",
            think="what does the layer give for an input of zeros?",
            hint="One number for each output, from 0 at the start.",
            text="ch03#parameter",
        ),
        "no_bias": Diagnosis(
            says="b is there, but `forward` doesn't use it",
            think="which line of `forward` reads `self.b`?",
            hint="An input of zeros should come out as b.",
            text="ch03#linear",
        ),
        "bias_in": Diagnosis(
            says="b is as long as there are inputs",
            think="to what is b added: to x, or to x w?",
            hint="One number for each output.",
            text="ch03#linear",
        ),
        "one_bias": Diagnosis(
            says="b is a single number for all outputs",
            think="how many numbers does the layer give for an input of zeros?",
            hint="Each output has a number of its own to be added.",
            text="ch03#linear",
        ),
        "plain_tensors": Diagnosis(
            says="w and b are no parameters: `.to()`, the loader and the optimizer don't see them",
            think="how does a module know which of its tensors are to be trained?",
            hint="There is a class in `torch.nn` to wrap them in.",
            text="ch03#parameter",
        ),
        "buffers": Diagnosis(
            says="w and b are buffers: saved and moved with the module, but never trained",
            think="which of a module's tensors does the optimizer get?",
            hint="`register_buffer` is for what isn't learned.",
            text="ch03#parameter",
        ),
        "frozen": Diagnosis(
            says="the parameters take no gradient, so nothing would be learned",
            think="what does `requires_grad` say about your parameters?",
            hint="A parameter has it True unless told otherwise.",
            text="ch03#parameter",
        ),
        "detached": Diagnosis(
            says="the values are right, but no gradient reaches w",
            think="is it w that `forward` multiplies by, or a copy without its history?",
            hint="Look for `.data` or `.detach()`.",
            text="ch03#parameter",
        ),
        "flat": Diagnosis(
            says="all tokens of all rows lie along one axis: (B T, out)",
            think="which axes did x have, and which has your output?",
            hint="What was flattened for the product must be put back afterwards.",
            text="ch03#linear",
        ),
        "activated": Diagnosis(
            says="negative outputs became 0: there is a ReLU behind the sum",
            think="what else than a product and a sum is in a linear layer?",
            hint="The activation has a function of its own; this layer is linear.",
            text="ch03#linear",
        ),
    },
    exclusive=(
        ("w_transposed", "stored_out_in", "sizes_swapped", "leading_one", "plain_tensors"),
        ("no_b", "no_bias", "bias_in", "one_bias", "plain_tensors"),
        ("other_names", "plain_tensors"),
        ("frozen", "plain_tensors", "buffers"),
        ("no_b", "bias_in", "one_bias", "sizes_swapped"),
    ),
    hidden={
        "detached+*": "the values tell the other mistake, and gradients are looked at after",
        "other_names+*": "parameters of other names can't be given values, so nothing is computed",
        "plain_tensors+*": "without parameters nothing can be given values, so nothing is computed",
        "buffers+*": "what are no parameters can't be given values, so nothing is computed",
        "leading_one+*": "a w of three axes can't be given a matrix, so nothing is computed",
        "sizes_swapped+*": "parameters of another shape can't be given values",
        "one_bias+*": "a b of one number can't be given out numbers, so nothing is computed",
    },
    hints=(
        "Each output is a sum of all inputs, each times a number of its own, plus one number. How"
        " many numbers is that, for C inputs and 3C outputs?",
        "w is (in, out), b is (out,); both are parameters with just these names. x is (..., in): a"
        " product with w turns its last axis into (..., out), whatever stands before it.",
        "make room for w, inputs first\nmake b of zeros\nwrap both as parameters\nforward: multiply"
        " x by w as it lies\nadd b",
    ),
    alternatives=(ByLinear, ByEinsum, ByColumns, ByOneMore),
    properties=(Property("zeros give b", zeros_give_the_bias),),
    exceptions={
        r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)": (
            "x has {1} inputs a token, and the matrix that it meets {2} rows. OpenAI stores w as"
            " (in, out); `F.linear` and `nn.Linear` want (out, in)"
        ),
        r"has no attribute '(?:state_dict|named_parameters)'": (
            "what is built is no `nn.Module`, and only those keep parameters"
        ),
        r'missing the required "forward"': (
            "a module's work stands in its method `forward`: is the name spelled like that?"
        ),
        r"before Module.__init__\(\) call": (
            "a module counts its parameters from `super().__init__()` on: call it first"
        ),
        r"must be a matrix|2D tensors expected": (
            "`addmm` and `mm` want two axes: flatten those before the last, and put them back"
        ),
    },
    secrets=("w_transposed", "no_bias", "activated", "flat"),
    spots=(
        Spot(
            source="""class Conv1D(nn.Module):
    def __init__(self, size_in, size_out):
        super().__init__()
        w = torch.empty(size_in, size_out)
        self.w = nn.Parameter(w.normal_(std=0.02))
        self.b = nn.Parameter(torch.zeros(size_out))
    def forward(self, x):
        w, b = self.w, self.b
        return F.linear(x, w, b)
""",
            line=9,
            knob="w_transposed",
        ),
    ),
)
