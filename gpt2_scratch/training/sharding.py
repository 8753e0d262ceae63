"""FSDP2: each process keeps a share of every weight, its gradient and the optimizer's numbers.

A block's weights are gathered while it computes. Where there is one process, everything here hands
back what it was given, and torch's part for it is not imported (half a second).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gpt2_scratch.training.parallel import world

METHOD = "loss_of_batch"
HOOKS = ("_forward_pre_hooks", "_forward_hooks")  # of a module


def shard(module: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Share out the parameters of `module`, those of each block by themselves."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (world().size,))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def sharded_parts(module: nn.Module) -> list[Any]:
    """The module and its blocks, where `shard` was called on it."""
    if world().size == 1:
        return []
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return bool(sharded_parts(module))


def through(module: nn.Module, loss_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The loss as a method of the sharded module, whose weights are gathered when it is called."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    setattr(module, METHOD, loss_of)
    register_fsdp_forward_method(module, METHOD)
    gathering: Callable[[Any], Any] = getattr(module, METHOD)
    return gathering


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Inside, each process holds all weights, so that it may compute what the others do not."""
    parts = sharded_parts(module)
    if not parts:
        yield
        return
    from torch.distributed.fsdp import fully_shard

    fully_shard.state(module)._lazy_init()  # type: ignore[attr-defined]
    kept = [{name: part.__dict__[name] for name in HOOKS} for part in parts]
    for part in parts:
        part.unshard()
        # Torch's hooks would wait for the others to compute too.
        part.__dict__.update({name: OrderedDict() for name in HOOKS})
    try:
        yield
    finally:
        for part, hooks in zip(parts, kept, strict=True):
            part.__dict__.update(hooks)
            part.reshard()


def gathered_whole(value: Any) -> Any:
    """A tensor put together of all processes' shares, which all must ask for; containers alike."""
    if world().size == 1:
        return value
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {name: gathered_whole(inside) for name, inside in value.items()}
    return value


def share_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, shared out as `parameter` is."""
    if world().size == 1:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def optimizer_shares(optimizer: torch.optim.Optimizer, held: dict[str, Any]) -> dict[str, Any]:
    """A whole optimizer's state dict, shared out as its parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: share_like(value, parameters[number]) if torch.is_tensor(value) else value
            for name, value in numbers.items()
        }
        for number, numbers in held["state"].items()
    }
    return {**held, "state": state}
