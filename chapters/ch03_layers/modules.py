"""How the exercises of this chapter look at a module: its parameters first, then what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def described(module: nn.Module) -> dict[str, str]:
    """{"w": "(3, 7)"}: what a state dict would hold, with a word more where it can't be trained."""
    found = {}
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        word = "" if isinstance(tensor, nn.Parameter) else ", a buffer"
        if not word and not tensor.requires_grad:
            word = ", without gradient"
        found[name] = shown(tensor.shape) + word
    return found


def shown(shape: Any) -> str:
    """A shape as Python writes it."""
    return str(tuple(shape))


def applied(module: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
    """What the module gives for x with these parameters, None where they don't fit into it.

    The state goes in as tensors of the caller's, so that gradients of it can be compared too. The
    first of it must be there; another parameter that the module lacks is left out.
    """
    own = dict(module.named_parameters())
    given = {name: tensor for name, tensor in state.items() if name in own}
    fits = next(iter(state)) in given and all(
        own[name].shape == tensor.shape for name, tensor in given.items()
    )
    output: Tensor | None = functional_call(module, given, (x,)) if fits else None
    return output
