"""assign: all tensors into a model, or none."""

from __future__ import annotations

import torch
from torch import nn

from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers

# --- how it is used ---------------------------------------------------------------------------


class Small(nn.Module):
    """Two tables and a norm: what `assign` gets to fill."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding.from_pretrained(torch.zeros(7, 3), freeze=False)
        self.ln_f = nn.LayerNorm(3)
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))


def filled(faults):
    """The tensors that fit, but for the faults: {name: tensor, or None for missing}."""
    tensors = {
        "wte.weight": numbers(7, 3, seed=1),
        "ln_f.weight": numbers(3, seed=2).float(),  # a file may hold other dtypes than the model
        "ln_f.bias": numbers(3, seed=3),
        "steps": torch.tensor([4, 9]),
    } | faults
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def use(answer, tensors):
    module, names = Small().double(), {*Small().state_dict(), *tensors}
    refused, told = False, ""
    try:
        answer(module, tensors, source="FOLDER")
    except ValueError as error:
        refused, told = True, str(error)
    state = module.state_dict()
    return {
        "refused with ValueError": refused,
        "still a Parameter": isinstance(getattr(module.wte, "weight", None), nn.Parameter),
        "names in the message:": listed(name for name in names if name in told),
        "tensors that were loaded:": listed(n for n, t in state.items() if loaded(t, tensors, n)),
        "copied, though they need not be:": listed(
            n for n, t in state.items() if n in tensors and copied(t, tensors[n])
        ),
    }


def listed(names):
    """So that a report says which are missing and which are not asked for."""
    return dict.fromkeys(sorted(names), True)


def loaded(tensor, tensors, name):
    there = tensors.get(name)
    return there is not None and there.shape == tensor.shape and bool((there == tensor).all())


def copied(tensor, there):
    same = tensor.shape == there.shape and bool((tensor == there).all())
    return same and tensor.data_ptr() != there.data_ptr()


# --- the oracle -------------------------------------------------------------------------------

WANTED = {
    "wte.weight": ((7, 3), True),
    "ln_f.weight": ((3,), True),
    "ln_f.bias": ((3,), True),
    "steps": ((2,), False),
}


def reference(tensors, *, knobs, steps):
    missing = [name for name in WANTED if name not in tensors]
    unexpected = [name for name in tensors if name not in WANTED]
    both = [name for name in WANTED if name in tensors]
    shapes = [name for name in both if tuple(tensors[name].shape) != WANTED[name][0]]
    kinds = [name for name in both if tensors[name].is_floating_point() != WANTED[name][1]]
    if "missing_unseen" in knobs:
        missing = []
    if "unexpected_unseen" in knobs:
        unexpected = []
    if "shapes_unseen" in knobs:
        shapes = []
    if "kinds_unseen" in knobs:
        kinds = []
    faults = [*missing, *unexpected, *(name for name in both if name in shapes or name in kinds)]
    refused = bool(faults) and "never_refuses" not in knobs
    told = faults[:1] if "one_at_a_time" in knobs else faults
    told = [] if "no_names" in knobs else told
    given = [n for n in both if n not in shapes and n not in kinds]
    given = [] if refused and "half_loaded" not in knobs else given
    wrong = [n for n in given if tuple(tensors[n].shape) != WANTED[n][0]]
    return {
        "refused with ValueError": refused,
        "still a Parameter": True,
        "names in the message:": listed(told if refused else ()),
        "tensors that were loaded:": listed(given),
        "copied, though they need not be:": listed(
            set(given) - set(wrong) if "copies" in knobs else ()
        ),
    }


# --- right in other ways ----------------------------------------------------------------------


def fit(module, tensors, source):
    """What doesn't fit, as lines."""
    wanted = module.state_dict()
    for name in sorted({*wanted, *tensors}):
        if name not in tensors:
            yield f"{name} is missing from {source}"
        elif name not in wanted:
            yield f"{name} of {source} is not wanted"
        elif tensors[name].shape != wanted[name].shape:
            yield f"{name} has another shape"
        elif tensors[name].is_floating_point() is not wanted[name].is_floating_point():
            yield f"{name} is of another kind"


def by_lines(module, tensors, *, source):
    faults = list(fit(module, tensors, source))
    if faults:
        raise ValueError("\n".join(faults))
    module.load_state_dict(tensors, assign=True, strict=True)


def by_setting(module, tensors, *, source):
    if faults := "; ".join(fit(module, tensors, source)):
        raise ValueError(faults)
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        parameter = leaf in owner._parameters
        setattr(owner, leaf, nn.Parameter(tensor) if parameter else tensor)


def by_data(module, tensors, *, source):
    faults = [*fit(module, tensors, source)]
    if len(faults) > 0:
        raise ValueError(str(faults))
    for name, own in [*module.named_parameters(), *module.named_buffers()]:
        own.data = tensors[name]


EXERCISE = Exercise(
    name="assign",
    target="weights.store:assign",
    minutes=20,
    axes="",
    reference=reference,
    use=use,
    probes=(
        Probe("all fits", lambda: (filled({}),), gradient=False),
        Probe(
            "two missing, one unexpected",
            lambda: (filled({"ln_f.bias": None, "wte.weight": None, "lm_head": numbers(2)}),),
            gradient=False,
        ),
        Probe(
            "two of another shape",
            lambda: (filled({"wte.weight": numbers(3, 7), "ln_f.bias": numbers(1)}),),
            gradient=False,
        ),
        Probe(
            "one of another kind",
            lambda: (filled({"ln_f.weight": torch.tensor([1, 2, 3])}),),
            gradient=False,
        ),
        Probe("one missing", lambda: (filled({"ln_f.bias": None}),), gradient=False),
        Probe("one unexpected", lambda: (filled({"wpe": numbers(5, 3)}),), gradient=False),
    ),
    knobs={
        "never_refuses": Diagnosis(
            says="what fits is loaded and nothing is ever refused",
            think="what does a model write whose last norm was never loaded?",
            hint="Find everything that is wrong first; then load, or raise.",
            text="ch07#strict",
        ),
        "half_loaded": Diagnosis(
            says="it refuses, but what fitted was loaded before",
            think="what is in the model of somebody who catches your error?",
            hint="Look at every name before the first tensor is moved.",
            text="ch07#strict",
        ),
        "missing_unseen": Diagnosis(
            says="names that the model has and the file lacks aren't noticed",
            think="which numbers does a parameter keep that the file says nothing of?",
            hint="Compare two sets of names, both ways round.",
            text="ch07#strict",
        ),
        "unexpected_unseen": Diagnosis(
            says="names that the file has and the model lacks aren't noticed",
            think="what may it mean that a file holds a tensor nobody asked for?",
            hint="Compare two sets of names, both ways round.",
            text="ch07#strict",
        ),
        "shapes_unseen": Diagnosis(
            says="a tensor of another shape is not refused as such",
            think="what does assignment do with a (3, 7) where (7, 3) belongs?",
            hint="A name that both have isn't enough.",
            text="ch07#strict",
        ),
        "kinds_unseen": Diagnosis(
            says="whole numbers are taken where the model has fractions",
            think="can a parameter of int64 be trained, or even be multiplied with floats?",
            hint="is_floating_point() of both should be the same.",
            text="ch07#strict",
        ),
        "one_at_a_time": Diagnosis(
            says="the error names only the first of several faults",
            think="how often must somebody load 148 tensors to hear of ten wrong names?",
            hint="Gather first, raise once.",
            text="ch07#strict",
        ),
        "no_names": Diagnosis(
            says="the error doesn't say which names are at fault",
            think="what would you want to read if it were not your own model?",
            hint="List the names in the message.",
            text="ch07#strict",
        ),
        "copies": Diagnosis(
            says="the numbers were copied and not handed over",
            think="how much memory does a model of 3 GB take while it is being loaded this way?",
            hint="See the argument `assign` of torch's load_state_dict.",
            text="ch07#memory",
        ),
    },
    exclusive=(
        ("never_refuses", "half_loaded"),
        ("never_refuses", "missing_unseen"),
        ("never_refuses", "unexpected_unseen"),
        ("never_refuses", "one_at_a_time", "no_names"),
    ),
    hints=(
        "Which four things can be wrong with a name, its tensor or both?",
        "The model's state_dict says what is wanted: names, shapes, kinds. Sort the names into"
        " missing, unexpected, mis-shaped, of another kind. Any at all: one ValueError that lists"
        " them, and the model is as it was. None: the tensors themselves become the parameters.",
        "ask the model for its state\ncompare names both ways\n"
        "for the names that both have compare shapes and kinds\n"
        "anything found: raise one error with all the names in it\n"
        "nothing found: hand over, without copying",
    ),
    alternatives=(by_lines, by_setting, by_data),
)
