"""Several processes that train one model: who is who, and what they tell one another.

torchrun starts them and sets RANK, LOCAL_RANK and WORLD_SIZE. Each takes its share of a step's
rows. In a process that is alone, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

PATIENCE = timedelta(hours=1)  # while the first process validates or writes, the others wait
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's number, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0


def world() -> World:
    """This process among those that train together."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


def share_of(batch: int) -> int:
    """Rows of a step that each process takes; ValueError where they don't come out even."""
    size = world().size
    if batch % size:
        raise ValueError(
            f"got --batch {batch} for {size} processes, wanted a multiple of their number; change"
            " one of the two."
        )
    return batch // size


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Inside, the processes that torchrun started are one group; gives this one's own device.

    ValueError where this machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)  # for what is done on "cuda": the trial of a step
        yield device
        return
    backend = "gloo"
    if device.startswith("cuda"):
        backend, local = "cpu:gloo,cuda:nccl", int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"got {local + 1} or more processes for {torch.cuda.device_count()} GPUs here;"
                " start one a GPU: torchrun --nproc-per-node."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield device
        dist.barrier()  # none leaves while another still speaks to it
    finally:
        dist.destroy_process_group()


class Loss(nn.Module):
    """A loss as a module with the parameters that it depends on, as torch's wrapper wants it."""

    def __init__(self, loss_of: Callable[[Any], Any], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_seen = nn.ParameterList(parameters)
        self.loss_of = loss_of

    def forward(self, batch: Any) -> Any:
        return self.loss_of(batch)


def shared(module: nn.Module, loss_of: Callable[[Any], Any], batch: Any) -> Callable[[Any], Any]:
    """The loss whose backward pass also averages the gradients over all processes.

    `batch` shows which parameters it depends on: torch would wait for the others' gradients.
    """
    if world().size == 1:
        return loss_of
    with torch.random.fork_rng():
        seen = reached(loss_of(batch)[0])
    parameters = [p for p in module.parameters() if p.requires_grad and id(p) in seen]
    return nn.parallel.DistributedDataParallel(
        Loss(loss_of, parameters), gradient_as_bucket_view=True
    )


def reached(loss: torch.Tensor) -> set[int]:
    """The `id` of every parameter that a loss depends on."""
    found: set[int] = set()
    known: set[Any] = set()
    left = [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in known:
            continue
        known.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        left += [behind for behind, _ in node.next_functions]
    return found


def gradients_kept(loss: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    """Inside, backward passes leave gradients with this process, for a later one to share."""
    if isinstance(loss, nn.parallel.DistributedDataParallel):
        return loss.no_sync()
    return nullcontext()


def summed(values: torch.Tensor) -> torch.Tensor:
    """Numbers, added up over all processes."""
    if world().size > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values


def highest(*numbers: float) -> list[float]:
    """The highest that any process has of each number."""
    if world().size == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def least(number: int | None) -> int | None:
    """The lowest that any process has, so that all plan alike; None where one does not know."""
    numbers = gathered(number)
    return None if None in numbers else min(n for n in numbers if n is not None)


def gathered(thing: T) -> list[T]:
    """What each process has, by rank."""
    size = world().size
    if size == 1:
        return [thing]
    things: list[Any] = [None] * size
    dist.all_gather_object(things, thing)
    return things


def by_the_first(work: Callable[[], T]) -> T:
    """What `work()` gives in the first process, which alone does it; all get its errors too."""
    if world().size == 1:
        return work()
    outcome: list[Any] = [None, None]
    if world().leads:
        try:
            outcome[0] = work()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result
