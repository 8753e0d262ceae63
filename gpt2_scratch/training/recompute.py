"""How blocks are computed: again in the backward pass instead of kept, or compiled by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(*inputs)`, of which autograd keeps the inputs only (Chen et al. 2016).

    The second time it draws the same dropout, so that the gradients are the very same.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)


@contextmanager
def recomputing(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, each of `parts` (the blocks of a model) is recomputed in the backward pass.

    Names, parameters and numbers stay as they are.
    """
    changed = list(parts)

    def instead(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *inputs: recomputed(forward, *inputs)

    for part in changed:
        part.__dict__["forward"] = instead(part.forward)
    try:
        yield
    finally:
        for part in changed:
            del part.__dict__["forward"]


@contextmanager
def compiling(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, torch compiles each of `parts` when it first runs: one block, not the whole model, so
    that the wait is short, and equal blocks wait once."""
    changed = list(parts)
    for part in changed:
        part.compile(dynamic=True)  # captions are of many lengths
    try:
        yield
    finally:
        for part in changed:
            part._compiled_call_impl = None
