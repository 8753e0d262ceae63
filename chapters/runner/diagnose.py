"""Which known mistake is it? And where none is: what can be said about the numbers themselves.

Only ever asked about an answer that the oracle has found wrong.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chapters.runner.compare import COARSE, close, compare, isclose, narrow, tensors_in
from chapters.runner.exercise import Exercise, Knobs, Probe, call
from chapters.runner.run import Run, differentiate, keep, named
from chapters.runner.trace import Known, record, unwritten

PATIENCE = 3.0  # seconds of the processor for pairs and triples


class Mistakes:
    """What the reference gives with each set of knobs, computed when first asked for."""

    def __init__(
        self, exercise: Exercise, ways: Sequence[Any] = (), patience: float = PATIENCE
    ) -> None:
        self.exercise, self.patience = exercise, patience
        self.ways = [*ways, *exercise.alternatives]  # right answers, to compare steps with
        self._runs: dict[tuple[Knobs, int, bool], Run] = {}
        self._rights: dict[int, Known] = {}

    def answer(self, knobs: Knobs) -> Callable[..., Any]:
        """The reference with these mistakes, to be called as an answer is."""
        return partial(self.exercise.reference, knobs=knobs, steps={})

    def run(self, knobs: Knobs, i: int, gradient: bool = False) -> Run:
        key = (knobs, i, gradient)
        if key not in self._runs:
            exercise, probe = self.exercise, self.exercise.probes[i]
            if gradient:
                self._runs[key] = differentiate(plain(exercise), self.answer(knobs), probe)
            else:
                self._runs[key] = self._call(knobs, probe)
        return self._runs[key]

    def _call(self, knobs: Knobs, probe: Probe) -> Run:
        try:
            with torch.no_grad():
                return Run(keep(self.exercise.reference(*probe.inputs(), knobs=knobs, steps={})))
        except Exception as error:
            return Run(error=error)

    def rights(self, i: int) -> Known:
        """Every tensor that some right way makes on a probe, the inputs included."""
        if i not in self._rights:
            self._rights[i] = Known(self._made_by_right_ways(i))
        return self._rights[i]

    def _made_by_right_ways(self, i: int) -> list[Tensor]:
        exercise, probe = self.exercise, self.exercise.probes[i]
        steps: dict[str, Any] = {}
        # Inputs are made before anything is recorded: what they are made of is nobody's step.
        tries: list[Callable[[], Any]] = [
            partial(exercise.reference, *probe.inputs(), knobs=frozenset(), steps=steps)
        ]
        tries += [partial(exercise.use, way, *probe.inputs()) for way in self.ways]
        found = [tensor for _, tensor in tensors_in(probe.inputs())]
        for each in tries:
            recorder, output = record(each)
            found += [t for made in recorder.made if not unwritten(made.name) for t in made.makes]
            found += [tensor for _, tensor in tensors_in(output)]
        return found + [step for step in steps.values() if isinstance(step, Tensor)]

    def steps(self, i: int, knobs: Knobs = frozenset()) -> dict[str, Any]:
        """The reference's intermediate steps on a probe, under their names."""
        steps: dict[str, Any] = {}
        with torch.no_grad():
            self.exercise.reference(*self.exercise.probes[i].inputs(), knobs=knobs, steps=steps)
        return steps

    def sets(self, size: int) -> Iterator[tuple[str, ...]]:
        """So many knobs at a time, but never two of an exclusive group."""
        groups = [set(group) for group in self.exercise.exclusive]
        for names in itertools.combinations(self.exercise.knobs, size):
            if all(len(group & set(names)) < 2 for group in groups):
                yield names

    def matching(
        self,
        runs: Sequence[Run],
        order: Sequence[int],
        gradients: Sequence[Run] | None = None,
        most: int = 3,
    ) -> list[tuple[str, ...]]:
        """The knobs, else the pairs, else the triples that give what `runs` gave on each probe.

        `order` says which probes to compare first: those that failed.
        """
        deadline = time.process_time() + self.patience
        for size in range(1, most + 1):
            found = []
            for names in self.sets(size):
                if size > 1 and time.process_time() > deadline:
                    break
                if self._fits(frozenset(names), runs, order, gradients):
                    found.append(names)
            if found:
                return found
        return []

    def _fits(
        self,
        knobs: Knobs,
        runs: Sequence[Run],
        order: Sequence[int],
        gradients: Sequence[Run] | None,
    ) -> bool:
        if not any(run.error is None for run in runs):
            return False
        for i in order:
            wrong = self.run(knobs, i)
            if not runs[i].equals(wrong, self.tolerance(runs[i], wrong, i)):
                return False
        if gradients is None:
            return any(self._shows(knobs, i) for i in order)
        return all(
            gradients[i].equals(
                self.run(knobs, i, True),
                self.tolerance(gradients[i], gradients[i], i),
                gradients=True,
            )
            for i in order
            if self.exercise.probes[i].gradient
        )

    def _shows(self, knobs: Knobs, i: int) -> bool:
        """Whether they change the output; what only cuts the graph explains no wrong one."""
        wrong, right = self.run(knobs, i), self.run(frozenset(), i)
        if wrong.error or right.error:
            return wrong.error is not right.error
        return (
            compare(wrong.output, right.output, self.exercise.probes[i].tolerance, ()) is not None
        )

    def tolerance(self, got: Run, wanted: Run, i: int) -> float:
        pairs = zip(tensors_in(got.output), tensors_in(wanted.output), strict=False)
        coarse = any(narrow(mine[1], right[1]) for mine, right in pairs)
        return max(self.exercise.probes[i].tolerance, COARSE if coarse else 0.0)


def plain(exercise: Exercise) -> Exercise:
    """The exercise with the reference called directly, however a learner's answer is used."""
    return replace(exercise, use=call)


def tells(
    exercise: Exercise,
    i: int,
    got: Any,
    wanted: Any,
    axes: Sequence[str],
    steps: dict[str, Tensor],
    tolerance: float = 1e-9,
) -> list[str]:
    """What the numbers of the first wrong tensor say by themselves, most telling first."""
    for (place, mine), (_, right) in zip(tensors_in(got), tensors_in(wanted), strict=False):
        if mine.shape == right.shape and close(mine, right, tolerance):
            continue
        mine, right = mine.detach().double(), right.detach().double()
        inputs = named(exercise, exercise.probes[i].inputs())
        says = list(_known(mine, right, inputs, steps, tolerance))
        if mine.shape == right.shape:
            says += _numbers(mine, right, tolerance)
            if not says:
                says += partly(mine, right, axes, tolerance)
        of = f"{place}: " if place else ""
        return [of + each for each in says]
    return []


def _known(
    mine: Tensor,
    right: Tensor,
    inputs: Iterable[tuple[str, Tensor]],
    steps: dict[str, Tensor],
    tolerance: float,
) -> Iterable[str]:
    if mine.numel() == 0:
        return
    for name, tensor in inputs:
        if mine.shape == tensor.shape and close(mine, tensor, tolerance):
            yield f"your output is the input {name}, unchanged"
            return
    if mine.unique().numel() == 1 and mine.numel() > 1:
        yield f"every number of your output is {mine.flatten()[0].item():g}"
        return
    for name, step in steps.items():
        if not isinstance(step, Tensor):
            continue
        step = step.detach().double()
        if mine.shape == step.shape and close(mine, step, tolerance) and mine.shape == right.shape:
            yield f"your output equals {name}: a step on the way, not yet the end"
            return
    if mine.dim() >= 2 and mine.shape != right.shape and close(mine.mT, right, tolerance):
        yield "your output is the right one with its last two axes swapped"


def _numbers(mine: Tensor, right: Tensor, tolerance: float) -> list[str]:
    finite = mine.isfinite() & right.isfinite()
    big = finite & (right.abs() > 1e-6)
    if not finite.all() or not big.any():
        return []
    ratio = (mine[big] / right[big]).median()
    if close(mine, right * ratio, tolerance) and abs(ratio) > 1e-9:
        if abs(ratio + 1) < 1e-9:
            return ["your output is the right one with the sign turned round"]
        return [f"everything is {ratio:.6g} times the expected value"]
    offset = (mine - right).median()
    if close(mine - offset, right, tolerance):
        return [f"everything is {offset:.6g} more than the expected value"]
    if close(mine.flatten().sort().values, right.flatten().sort().values, tolerance):
        return ["these are the right numbers in the wrong places"]
    return []


def partly(mine: Tensor, right: Tensor, axes: Sequence[str], tolerance: float) -> list[str]:
    """Along which axis some indices are right and the others not."""
    fine = isclose(mine, right, rtol=tolerance, atol=tolerance, equal_nan=True)
    says = []
    for axis in range(fine.dim()):
        name = axes[axis] if axis < len(axes) else f"index of axis {axis}:"
        rows = fine.movedim(axis, 0).reshape(fine.shape[axis], -1).all(1).tolist()
        good = [j for j, row in enumerate(rows) if row]
        bad = [j for j, row in enumerate(rows) if not row]
        if good and bad:
            if good == list(range(len(good))) and len(good) > 1:
                says.append(f"right up to {name} {good[-1]}, wrong from {bad[0]} on")
            else:
                says.append(f"right for {name} {_few(good)}, wrong for {_few(bad)}")
    return says[:2]


def _few(items: Sequence[int]) -> str:
    if len(items) > 2 and items[-1] - items[0] == len(items) - 1:
        return f"{items[0]} to {items[-1]}"
    return ", ".join(map(str, items[:6])) + (", ..." if len(items) > 6 else "")
