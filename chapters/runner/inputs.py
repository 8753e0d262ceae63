"""Numbers for probes: the same on every machine, spread like a normal draw, none is special."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """float64, mean about 0, spread about `scale`; number i depends on i and the seed alone."""
    return _drawn(shape, seed).clone() * scale


@cache
def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    uniform = ((i + 1) * 0.6180339887498949 + (seed + 1) * 0.7548776662466927) % 1.0
    mixed = (uniform * 7919.0 + (i + 1).sqrt() * 0.5698402909980532) % 1.0
    return torch.special.ndtri(mixed.clamp(1e-3, 1 - 1e-3)).reshape(shape)


def ids(*shape: int, below: int, seed: int = 0) -> Tensor:
    """int64 from 0 up to `below`, in no order."""
    uniform = torch.special.ndtr(numbers(*shape, seed=seed))
    return (uniform * below).long().clamp(max=below - 1)
