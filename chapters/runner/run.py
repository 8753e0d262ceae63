"""Running an answer on a probe: what it gave, its gradients, what it raised, what it changed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chapters.runner.compare import allclose, same, tensors_in
from chapters.runner.exercise import Exercise, Probe

Answer = Callable[..., Any]


@dataclass
class Run:
    """One call on one probe."""

    output: Any = None
    error: BaseException | None = None
    changed: str = ""  # the name of an input that is no longer what it was
    gradients: dict[str, Tensor | None] | None = field(default=None)  # None: there are none

    @cached_property
    def sums(self) -> list[tuple[float, float]]:
        """For each tensor a weighted sum and its size: two floats are compared faster than it."""
        found = []
        for _, tensor in tensors_in(self.output):
            flat = tensor.detach().double().reshape(-1).nan_to_num(nan=0.5, posinf=2.0, neginf=3.0)
            weights = torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
            found.append(((flat * weights).sum().item(), flat.abs().sum().item()))
        return found

    def resembles(self, other: Run) -> bool:
        """False where they surely differ."""
        return len(self.sums) == len(other.sums) and all(
            abs(a - b) <= 1e-4 * (1 + size) and abs(size - other_size) <= 1e-4 * (1 + size)
            for (a, size), (b, other_size) in zip(self.sums, other.sums, strict=True)
        )

    def equals(self, other: Run, tolerance: float, *, gradients: bool = False) -> bool:
        """Whether both gave the same, be it an error."""
        if self.error or other.error:
            return type(self.error) is type(other.error)
        if not self.resembles(other) or not same(self.output, other.output, tolerance):
            return False
        return not gradients or same_gradients(self.gradients, other.gradients, tolerance)


class Finely(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [torch.float64 if each is torch.float32 else each for each in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        ask: Any = torch.Tensor.double if func is torch.Tensor.float else func
        return ask(*given, **named)


@contextmanager
def fine(yes: bool) -> Iterator[None]:
    """Inside, a number of an answer's own, `torch.tensor(8.0)`, has no coarse rounding."""
    before = torch.get_default_dtype()
    with Finely() if yes else nullcontext():
        try:
            torch.set_default_dtype(torch.float64 if yes else before)
            yield
        finally:
            torch.set_default_dtype(before)


def attempt(exercise: Exercise, answer: Answer, probe: Probe, *, finely: bool = False) -> Run:
    """Call the answer once, without gradients recorded."""
    inputs = probe.inputs()
    before = copy.deepcopy(inputs)
    try:
        with torch.no_grad(), fine(finely):
            output = exercise.use(answer, *inputs)
    except BaseException as error:  # the learner's code may raise anything at all
        return Run(error=error)
    return Run(output=keep(output), changed=changed(exercise, before, inputs))


def keep(output: Any) -> Any:
    """A copy that later calls can't change."""
    try:
        return copy.deepcopy(output)
    except Exception:  # a tensor that belongs to a graph, or a generator
        return output


def differentiate(exercise: Exercise, answer: Answer, probe: Probe, *, finely: bool = False) -> Run:
    """Call the answer once more, and go backwards from its float outputs to its float inputs."""
    inputs = probe.inputs()
    leaves = {
        name: tensor.requires_grad_()
        for name, tensor in named(exercise, inputs)
        if tensor.is_floating_point()
    }
    try:
        with torch.enable_grad(), fine(finely):
            output = exercise.use(answer, *inputs)
        loss = torch.zeros((), dtype=torch.float64)
        for _, tensor in tensors_in(output):
            if tensor.is_floating_point() and tensor.requires_grad:
                weights = torch.cos(torch.arange(tensor.numel(), dtype=torch.float64))
                loss = loss + (tensor.double().flatten() * weights).sum()
        if not (leaves and loss.requires_grad):
            return Run(output=output)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    except BaseException as error:
        return Run(error=error)
    return Run(output=output, gradients=dict(zip(leaves, found, strict=True)))


def named(exercise: Exercise, inputs: tuple[Any, ...]) -> list[tuple[str, Tensor]]:
    """The tensors among the inputs, under the names of the reference's parameters."""
    names = list(inspect.signature(exercise.reference).parameters)
    return [
        pair
        for i, each in enumerate(inputs)
        for pair in tensors_in(each, names[i] if i < len(names) else f"argument {i + 1}")
    ]


def same_gradients(
    got: dict[str, Tensor | None] | None, wanted: dict[str, Tensor | None] | None, tolerance: float
) -> bool:
    return wrong_gradient(got, wanted, tolerance) is None


def wrong_gradient(
    got: dict[str, Tensor | None] | None, wanted: dict[str, Tensor | None] | None, tolerance: float
) -> str | None:
    """What is wrong with the gradients, as one sentence; no gradient is the same as zeros."""
    for name, right in (wanted or {}).items():
        if right is None:
            continue
        mine = None if got is None else got.get(name)
        if mine is None:
            if right.abs().max() == 0:
                continue
            return f"no gradient flows back to {name}: somewhere the graph is cut"
        if mine.isnan().any() and not right.isnan().any():
            return f"the values are right, but the gradient with respect to {name} is NaN"
        if not allclose(
            mine.double(), right.double(), rtol=10 * tolerance, atol=10 * tolerance, equal_nan=True
        ):
            return f"the values are right, but the gradient with respect to {name} is not"
    return None


def changed(exercise: Exercise, before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    """The name of the first input that is no longer what it was."""
    tensors, left = named(exercise, before), dict(named(exercise, after))
    for name, old in tensors:
        new = left.pop(name, None)  # one that was taken out has changed too
        if new is None or old.shape != new.shape or not same(new, old, 0.0):
            return name
    names = list(inspect.signature(exercise.reference).parameters)[: len(before)]
    for name, old, new in zip(names, before, after, strict=True):
        if isinstance(old, list | dict | set | bytearray) and not _alike(old, new):
            return name
    return ""


def _alike(old: Any, new: Any) -> bool:
    try:
        return bool(old == new)
    except Exception:  # tensors inside, which were compared already, or an object of its own
        return True
