"""What the parts of a model give while it runs, by name: forward hooks, set and taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[Any]
# Where a site is found: the path of a submodule (its output; with `.input` behind it, its first
# input), the path and what to make of that, or a function of (module, what the module gets).
Place = str | tuple[str, Callable[[Any], Any]] | Callable[[nn.Module, torch.Tensor], Any]
Sites = Mapping[str, Place]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each part is in its own mode again."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def as_array(value: Any, site: str) -> Array:
    """A tensor, the first of a tuple, or the `logits` of an output or dict, as numpy has it."""
    value = getattr(value, "logits", value)
    value = value.get("logits", value) if isinstance(value, dict) else value
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{site} gave a {type(value).__name__}, wanted a tensor, a tuple that begins with one,"
            " or an output with .logits. Name another place, or give (path, function of output)."
        )
    value = value.detach().cpu()
    # numpy has no bfloat16; a copy, since models may go on in place
    return np.array((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def spread(sites: Sites, layers: int) -> dict[str, Place]:
    """`{}` in a name and its path stands for every block; `{+1}` for the number of the next."""
    every: dict[str, Place] = {}
    for site, place in sites.items():
        blocks = "{}" in site or "{+1}" in site
        for layer in range(layers) if blocks else [None]:
            if layer is None:
                every[site] = place
                continue
            name = site.replace("{}", f"{layer:02}").replace("{+1}", f"{layer + 1:02}")
            if isinstance(place, str):
                every[name] = place.replace("{}", str(layer))
            elif isinstance(place, tuple):
                every[name] = (place[0].replace("{}", str(layer)), place[1])
            else:
                every[name] = place
    return every


def silent(sites: Sites, layers: int, got: Mapping[str, Any]) -> list[str]:
    """A line about the sites that were asked for and never came: their modules did not run."""
    lacks = [site for site in spread(sites, layers) if site not in got]
    more = f" and {len(lacks) - 4} more" * (len(lacks) > 4)
    told = f"nothing came of {', '.join(lacks[:4])}{more}: the modules that you named did not run"
    return [told] * bool(lacks)


def submodule(module: nn.Module, path: str, site: str) -> tuple[nn.Module, bool]:
    """The submodule of a path, and whether its input is meant."""
    names = dict(module.named_modules())
    if path in names:
        return names[path], False
    if path.removesuffix(".input") in names:
        return names[path.removesuffix(".input")], True
    near = [name for name in names if name.rpartition(".")[2] == path.rpartition(".")[2]]
    raise ValueError(
        f"{site}: this {type(module).__name__} has no submodule {path!r}."
        f" It has, for example: {', '.join((near or list(names)[1:])[:6])}."
    )


@torch.no_grad()
def record(
    module: nn.Module, given: torch.Tensor, sites: Sites, layers: int
) -> tuple[dict[str, Array], Any]:
    """Arrays by site of one `module(given)` in eval mode, and what it returned."""
    held: dict[str, Array] = {}
    functions: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {}

    def keep(site: str, pick: Callable[[Any], Any] | None, of_input: bool) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any = None) -> None:
            value = args[0] if of_input else output
            held[site] = as_array(pick(value) if pick else value, site)

        return hook

    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        for site, place in spread(sites, layers).items():
            if not isinstance(place, str | tuple):
                functions[site] = place
                continue
            path, pick = (place, None) if isinstance(place, str) else place
            part, of_input = submodule(module, path, site)
            hook = keep(site, pick, of_input)
            register = part.register_forward_pre_hook if of_input else part.register_forward_hook
            stack.enter_context(register(hook))
        output = module(given)
        for site, function in functions.items():
            held[site] = as_array(function(module, given), site)
    return held, output
