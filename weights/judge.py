"""Is a model right? What it gave, site by site, against a reference; and if not, where, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from weights.compare import Array, Comparison, Difference, errors, limits, only
from weights.diagnose import Lore, Reference, diagnose, rounded
from weights.recording import fit
from weights.rounding import KEPT, stored_as
from weights.verdict import Diagnosis, Report

THIS = "this model"
REFERENCE = "a reference of its own, in plain numpy and float64, which reads the files itself"


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # of numbers that are too large
def judge(
    lore: Lore,
    exact: Reference,
    rough: Reference,
    got: Mapping[str, Array],
    theirs: Mapping[str, Array] | None = None,
    *,
    name: str = "theirs",
    dtype: str = "float32",
) -> Report:
    """Compare `got` with `theirs`, or with the reference; whoever differs from that is diagnosed.

    `exact` is the reference in float64, `rough` in float32. `dtype`: the coarser of the two sides;
    what rounding may do depends on it. One site of the references is in memory at a time.
    """
    sides = {THIS: dict(got)} | ({} if theirs is None else {name: dict(theirs)})
    allowed: dict[str, float] = {}
    differences: list[Difference] = []
    misfit: ValueError | None = None
    pair = only(exact.walk(), got), only(rounded(lore, rough, dtype), got)
    for site, right, limit in limits(*pair, dtype):
        allowed[site] = limit
        far = (0.0, 0.0)
        for side, arrays in sides.items():
            if site not in arrays:
                continue
            try:
                arrays[site] = fit(arrays[site], right.shape, site, side)
            except ValueError as error:
                if not (lore.resizing and site.endswith(lore.resized)):
                    raise
                misfit, far = misfit or error, (math.inf, math.inf)
        wanted = right if theirs is None else sides[name].get(site)
        if wanted is not None:
            far = far if math.isinf(far[1]) else errors(sides[THIS][site], wanted, site)
            differences.append(Difference.after(differences, site, far, limit))
    if not differences:
        raise ValueError(f"{name} and this model have no site in common. Record more sites.")
    comparison, diagnoses = Comparison(tuple(differences)), []
    for whose, arrays in sides.items() if not comparison.passed else ():
        known = {site: array for site, array in arrays.items() if site in allowed}
        found = diagnose(lore, exact, rough, known, allowed)
        if found.steps or found.until:
            hint = "" if found.steps else lore.hints.get(found.until or "", "")
            note = found.note or hint
            if whose != THIS and not (found.steps or note):
                kind = stored_as(exact.samples())
                note = f"This checkpoint's weights are in {kind}; are these of finer ones?" * bool(
                    kind
                )
            diagnoses.append(Diagnosis(whose, found.steps, found.until, note, lore.says))
    if misfit and not any(set(d.names) & set(lore.resizing) for d in diagnoses):
        raise misfit
    against = REFERENCE if theirs is None else name
    coarse = f"in {dtype}, whose rounding hides small mistakes: float32 shows them"
    return Report("", against, comparison, tuple(diagnoses), notes=(coarse,) * (dtype in KEPT))


def parameter_faults(
    module: nn.Module, held: Callable[[str], tuple[str, Array]]
) -> tuple[str, ...]:
    """A line for each parameter that is not, number by number, what the file holds.

    `held(name)`: the name that the file has for a parameter, and its array.
    """
    faults = []
    for name, parameter in module.named_parameters():
        theirs, array = held(name)
        wanted = torch.from_numpy(np.ascontiguousarray(array)).to(parameter.dtype)
        ours = parameter.detach().cpu()
        same = ours.shape == wanted.shape
        if not same or not torch.allclose(ours, wanted, rtol=0, atol=0, equal_nan=True):
            faults.append(f"Parameter {name} is not what the file holds as {theirs}.")
    return (*faults, *not_finite(module))


def not_finite(module: nn.Module) -> tuple[str, ...]:
    """A line for each parameter that holds NaN or infinity, of which nothing right can come."""
    names = [name for name, p in module.named_parameters() if not p.isfinite().all()]
    return tuple(f"Parameter {name} holds NaN or infinity." for name in names)


def describe(module: nn.Module, folder: Path) -> str:
    """One line: whose, how many numbers, of what type."""
    parameters = {id(p): p for p in module.parameters()}.values()
    kinds = {str(p.dtype).removeprefix("torch.") for p in parameters}
    count = sum(p.numel() for p in parameters)
    return f"{type(module).__name__} of {folder}: {count:,} parameters, {', '.join(sorted(kinds))}"
