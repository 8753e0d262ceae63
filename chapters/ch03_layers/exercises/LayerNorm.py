"""3.4 LayerNorm: the norm of 3.1 as a module, whose parameters a loader and an optimizer find."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from chapters.ch03_layers.modules import applied, described, shown
from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers

FEW = "float64 with no more digits than float32"
OFF = "not 0, before g and b: it was rounded"


def use(answer, x, g, b, eps):
    """Build it, look at its parameters and what they start as, then give it g and b and call it."""
    size = x.shape[-1]
    module = answer(size) if eps is None else answer(size, eps)
    own = dict(module.named_parameters())
    found = {"parameters": described(module)}
    found["start"] = {name: start(own[name]) for name in sorted(own)}
    plain = applied(module, {"g": torch.ones(size).to(x), "b": torch.zeros(size).to(x)}, x)
    found |= {"dtype": None, "mean": None, "output": None}
    if not isinstance(plain, torch.Tensor):
        return found | {"dtype": plain}
    found["dtype"] = dtype_of(plain)
    if found["dtype"] != dtype_of(x):
        return found
    # Which steps are rounded to 8 bits, and in which order, is free; what comes of it is not.
    off = x.dtype == torch.bfloat16 and plain.double().mean(-1).abs().max() > 0.05
    found["mean"] = OFF if off else "0"
    return found if off else found | {"output": applied(module, {"g": g, "b": b}, x)}


def start(parameter):
    for value, name in ((0.0, "zeros"), (1.0, "ones")):
        if (parameter == value).all():
            return name
    return "neither zeros nor ones"


def dtype_of(tensor):
    """Its dtype in a word; also of float64 numbers that were made in float32."""
    rounded = tensor.dtype == torch.float64 and torch.equal(tensor, tensor.float().double())
    return FEW if rounded else str(tensor.dtype).removeprefix("torch.")


def reference(x, g, b, eps, *, knobs, steps):
    found = {"parameters": {}, "start": {}, "dtype": None, "mean": None, "output": None}
    names = {"b": "bias", "g": "weight"} if "other_names" in knobs else {"b": "b", "g": "g"}
    for name, kind in (("b", "zeros"), ("g", "ones")):
        if "plain_tensors" in knobs or (name == "b" and "no_b" in knobs):
            continue
        size = (1, 1, *g.shape) if "more_axes" in knobs else g.shape
        frozen = ", without gradient" if "frozen" in knobs else ""
        found["parameters"][names[name]] = shown(size) + frozen
        found["start"][names[name]] = "zeros" if "g_zeros" in knobs else kind
    if "buffers" in knobs:
        for name, shape in found["parameters"].items():
            found["parameters"][name] = f"{shape}, a buffer"
        return found | {"start": {}}
    if "more_axes" in knobs or "g" not in found["parameters"]:
        return found
    found["dtype"] = dtype_of(x)
    if "not_cast_back" in knobs and x.dtype == torch.bfloat16:
        found["dtype"] = "float32"
    if "always_float32" in knobs and x.dtype == torch.float64:
        found["dtype"] = FEW
    if found["dtype"] != dtype_of(x):
        return found
    if eps is None:
        eps = 1e-6 if "default_1e-6" in knobs else 1e-12 if "default_1e-12" in knobs else 1e-5
    elif "eps_lost" in knobs:
        eps = 1e-5
    if "detached" in knobs:
        g, b = g.detach(), b.detach()
    if "swapped" in knobs:
        g, b = b, g
    found["mean"] = "0"
    if "half_statistics" in knobs and x.dtype == torch.bfloat16:
        return found | {"mean": OFF}
    wide = x.double()
    mean = wide.mean(-1, keepdim=True)
    steps["x less its mean"] = centred = wide - mean
    variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - ("unbiased" in knobs))
    steps["the variance"] = variance
    if "eps_outside" in knobs:
        normed = centred / (variance.sqrt() + eps)
    else:
        normed = centred / (variance + eps).sqrt()
    steps["the normed values"] = normed
    if "no_gain" not in knobs:
        steps["the normed values times g"] = normed = normed * g
    output = normed if knobs & {"no_bias", "no_b"} else normed + b
    return found | {"output": output.to(x.dtype)}


def inputs(eps, seed, scale=1.0):
    return numbers(2, 5, 7, seed=seed, scale=scale), *weights(), eps


def weights():
    return numbers(7, seed=41) + 1.0, numbers(7, seed=42)


def bfloat16():
    """Numbers near 100 in bfloat16, which has 8 bits: neighbours there are 0.5 apart."""
    x, g, b, eps = inputs(1e-5, seed=45)
    return (x + 100.0).bfloat16(), g.bfloat16(), b.bfloat16(), eps


# --- right in other ways ----------------------------------------------------------------------


class Fused(nn.Module):
    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.g = nn.Parameter(torch.ones(size))
        self.b = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.g.shape, self.g, self.b, self.eps)


class InFloat64(Fused):
    def forward(self, x):
        wide = x.double()
        variance, mean = torch.var_mean(wide, -1, correction=0, keepdim=True)
        normed = (wide - mean) / torch.sqrt(variance + self.eps)
        return (normed * self.g.double() + self.b.double()).type_as(x)


class ByTheWidestOfTwo(Fused):
    """The normed values rounded first, then g and b in the input's dtype, as Llama's norm does."""

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        root = (torch.einsum("...c,...c->...", centred, centred) / x.shape[-1] + self.eps).sqrt()
        return torch.addcmul(self.b, (centred / root[..., None]).to(x.dtype), self.g)


class ByRegistering(nn.Module):
    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.settings = {"normalized_shape": (size,), "eps": eps}
        for name, value in {"g": 1.0, "b": 0.0}.items():
            self.register_parameter(name, nn.Parameter(torch.full((size,), value)))

    def forward(self, x):
        return F.layer_norm(x, weight=self.g, bias=self.b, **self.settings)


# --- what holds for every right answer ---------------------------------------------------------


def move_and_stretch_are_undone(answer):
    x, g, b, _ = inputs(None, seed=46)
    before = answer(x, g, b, 0.0)["output"]
    after = answer(5.0 * x - 3.0, g, b, 0.0)["output"]
    if torch.allclose(before, after, rtol=0, atol=1e-9):  # rounding is below 1e-13
        return None
    return "with eps 0, x and 5 x - 3 should give the same output"


EXERCISE = Exercise(
    name="LayerNorm",
    target="gpt2_scratch.model:LayerNorm",
    minutes=20,
    axes="batch token channel",
    reference=reference,
    use=use,
    probes=(
        Probe("eps 0.1", lambda: inputs(0.1, seed=43)),
        Probe("default eps, values near 1e-3", lambda: inputs(None, seed=44, scale=1e-3)),
        # 8 bits: rounded in the end alone, results of up to 4 are off by 0.008 at most, rounded
        # after each of three steps by 0.024; with a mean of 8 bits they are off by up to 0.38.
        # Gradients in 8 bits can't be compared.
        Probe("bfloat16, values near 100", bfloat16, tolerance=0.03, gradient=False),
    ),
    knobs={
        "plain_tensors": Diagnosis(
            says="g and b are no parameters: `.to()`, the loader and the optimizer don't see them",
            think="how does a module know which of its tensors are to be trained?",
            hint="There is a class in `torch.nn` to wrap them in.",
            text="ch03#parameter",
        ),
        "other_names": Diagnosis(
            says="the parameters are called `weight` and `bias`",
            think="by which names does the loader look for them?",
            hint="One letter each, as in OpenAI's file.",
            text="ch03#parameter",
        ),
        "no_b": Diagnosis(
            says="there is no parameter b",
            think="which numbers does the formula take besides x and eps?",
            hint="OpenAI's file has a g and a b for each of its norms.",
            text="ch03#parameter",
        ),
        "more_axes": Diagnosis(
            says="g and b are stored as (1, 1, C)",
            think="with which shape does the file hold g and b?",
            hint="One axis is enough: torch lines shapes up from the right.",
            text="ch03#parameter",
        ),
        "buffers": Diagnosis(
            says="g and b are buffers: saved and moved with the module, but never trained",
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
        "g_zeros": Diagnosis(
            says="g starts as zeros, so a new norm gives zeros whatever comes in",
            think="with which g and b does the last step change nothing?",
            hint="What is neutral in a product, what in a sum?",
            text="ch03#gain",
        ),
        "swapped": Diagnosis(
            says="b is the factor and g is added",
            think="which of the two is short for gain?",
            hint="g multiplies, b is added.",
            text="ch03#gain",
        ),
        "no_gain": Diagnosis(
            says="`forward` doesn't use g",
            think="which line of `forward` reads `self.g`?",
            hint="Each channel of the normed token has a factor of its own.",
            text="ch03#gain",
        ),
        "no_bias": Diagnosis(
            says="`forward` doesn't use b",
            think="which line of `forward` reads `self.b`?",
            hint="It is added last.",
            text="ch03#gain",
        ),
        "detached": Diagnosis(
            says="the values are right, but no gradient reaches g and b",
            think="is it the parameters that `forward` reads, or copies without their history?",
            hint="Look for `.data` or `.detach()`.",
            text="ch03#parameter",
        ),
        "eps_lost": Diagnosis(
            says="eps is 1e-5, whatever the module was built with",
            think="where does `forward` find the eps that `__init__` was given?",
            hint="What `__init__` doesn't put on `self` is gone when it returns.",
            text="ch03#eps",
        ),
        "default_1e-6": Diagnosis(
            says="without an argument eps is 1e-6",
            think="what is the default of eps in the stub's first line?",
            hint="OpenAI's is 1e-5.",
            text="ch03#eps",
        ),
        "default_1e-12": Diagnosis(
            says="without an argument eps is 1e-12",
            think="whose eps is 1e-12?",
            hint="That is BERT's. OpenAI's is 1e-5.",
            text="ch03#eps",
        ),
        "unbiased": Diagnosis(
            says="the squares are divided by C - 1, so every value is too small",
            think="what do `var` and `std` divide by, if nothing is said?",
            hint="They have an argument for it, `correction` or `unbiased`.",
            text="ch03#variance",
        ),
        "eps_outside": Diagnosis(
            says="eps is added to the root of the variance, not to the variance",
            think="is eps inside the square root or outside of it?",
            hint="With a variance of 0 the divisor is sqrt(eps), not eps.",
            text="ch03#eps",
        ),
        "half_statistics": Diagnosis(
            says="the mean of bfloat16 numbers is itself rounded to bfloat16, so a token's outputs"
            " don't lie around 0",
            think="how far apart are two neighbouring numbers near 100, in 8 bits?",
            hint="Compute in float32 what comes in fewer bits, and round the output alone.",
            text="ch03#half",
        ),
        "not_cast_back": Diagnosis(
            says="bfloat16 comes in, and float32 goes out",
            think="what is the dtype of x, and what that of your output?",
            hint="The next layer's weights are bfloat16; it can't multiply float32 by them.",
            text="ch03#half",
        ),
        "always_float32": Diagnosis(
            says="everything is computed in float32, also where x has more digits than that",
            think="what does `.float()` do to float64?",
            hint="Only numbers of fewer bits than float32 need to be widened.",
            text="ch03#half",
        ),
    },
    exclusive=(
        ("plain_tensors", "other_names", "more_axes", "no_b", "swapped", "no_bias"),
        ("plain_tensors", "other_names", "more_axes", "swapped", "no_gain"),
        ("plain_tensors", "buffers", "frozen"),
        ("plain_tensors", "buffers", "g_zeros"),
        ("default_1e-6", "default_1e-12"),
        ("half_statistics", "not_cast_back", "always_float32"),
    ),
    hidden={
        "detached+*": "the values tell the other mistake, and gradients are looked at after",
        "plain_tensors+*": "without parameters nothing can be given values: nothing is computed",
        "buffers+*": "what are no parameters can't be given values: nothing is computed",
        "other_names+*": "parameters of other names can't be given values: nothing is computed",
        "more_axes+*": "parameters of another shape can't be given values: nothing is computed",
        "always_float32+*": "it is told first, of every probe that isn't bfloat16",
    },
    hints=(
        "You have the function. Which of its four arguments belong to the layer, which to the"
        " call, and which of those of the layer are learned?",
        "g starts as C ones and b as C zeros: a new norm only norms. Both are parameters with just"
        " these names, eps is a plain number on self. bfloat16 and float16 are widened to float32"
        " for the mean and the variance, and the output has the dtype of x again.",
        "when built: ones, zeros, both as parameters; keep eps\nforward: widen what has fewer bits"
        " than float32\nnorm as in 3.1, with the module's own g, b and eps\nback to the dtype that"
        " came in",
    ),
    alternatives=(Fused, InFloat64, ByTheWidestOfTwo, ByRegistering),
    properties=(Property("moving and stretching are undone", move_and_stretch_are_undone),),
    exceptions={
        r"missing 1 required positional argument: 'eps'": (
            "the module is also built with its size alone; eps is then 1e-5"
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
        r"same dtype|expected scalar type": (
            "x, g and b come in one dtype; what you widen, widen before the two meet"
        ),
    },
    secrets=("unbiased", "eps_outside", "swapped", "half_statistics"),
    spots=(
        Spot(
            source="""class LayerNorm(nn.Module):
    def __init__(self, size, eps=1e-5):
        super().__init__()
        self.g = nn.Parameter(torch.ones(size))
        self.b = nn.Parameter(torch.zeros(size))
        self.eps = eps
    def forward(self, x):
        wide = x.float() if x.dtype == torch.bfloat16 else x
        mean, root = wide.mean(-1, keepdim=True), wide.std(-1, keepdim=True)
        normed = (wide - mean) / (root**2 + self.eps).sqrt()
        return (normed * self.g + self.b).to(x.dtype)
""",
            line=9,
            knob="unbiased",
        ),
    ),
)
