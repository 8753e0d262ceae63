"""Where an answer went wrong: the last step that was right, and the line after it."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable, Mapping, Sized
from typing import Any

from torch import Tensor

from chapters.runner.compare import Difference, close, isclose, same, tensors_in
from chapters.runner.diagnose import Mistakes, partly
from chapters.runner.exercise import Exercise
from chapters.runner.outcome import Outcome
from chapters.runner.trace import Made, Recorder, alike, culprits, record
from chapters.runner.values import NOTHING, Change, difference, first_wrong, watch

NO_RIGHT_WAY = "reads right numbers and makes what no right way has"


def place(
    outcome: Outcome,
    exercise: Exercise,
    answer: Callable[..., Any],
    mistakes: Mistakes,
    i: int,
    finding: Difference,
) -> None:
    """Say in `outcome.where` what can be found out about probe i by running it once more."""
    if not outcome.file:
        return
    probe = exercise.probes[i]
    recorder, output = record(lambda: exercise.use(answer, *probe.inputs()), outcome.file)
    if finding.kind == "mutates" and recorder.changes:
        outcome.where.append(f"{at(outcome.file, recorder.changes[0].line)} writes into it")
    elif recorder.made:
        wanted = dict(tensors_in(mistakes.run(frozenset(), i).output))
        off = [t for name, t in tensors_in(output) if not _is(t, wanted.get(name), probe.tolerance)]
        guilty = _by_tensors(outcome, mistakes, i, recorder, off)
        if guilty and not any(made.reads for made in guilty):
            _before_tensors(outcome, exercise, answer, i, output, wanted)
    elif finding.kind in ("wrong", "type"):
        changes = watch(lambda: exercise.use(answer, *probe.inputs()), outcome.file)
        wanted = mistakes.run(frozenset(), i).output
        _by_values(outcome, mistakes.steps(i), changes, output, wanted)


def _is(tensor: Tensor, wanted: Tensor | None, tolerance: float) -> bool:
    """Whether a part of the output is right, so that nothing behind it need be looked at."""
    if wanted is None or tensor.dtype != wanted.dtype:
        return False
    return close(tensor, wanted, tolerance)


def _by_tensors(
    outcome: Outcome, mistakes: Mistakes, i: int, recorder: Recorder, output: Any
) -> list[Made]:
    guilty = culprits(recorder, output, mistakes.rights(i))
    steps = {name: step for name, step in mistakes.steps(i).items() if isinstance(step, Tensor)}
    first = min((made.line for made in guilty), default=None)
    last = None
    for made in recorder.made:
        if first is None or made.line <= first:
            for name, step in steps.items():
                if any(alike(each, step) for each in made.makes):
                    last = (made.line, name)
    seen = [t for made in recorder.made for t in made.makes]
    _steps(outcome, last, list(steps), lambda name: any(alike(t, steps[name]) for t in seen))
    told: list[int] = []
    for made in guilty:
        if made.line not in told and len(told) < 2:
            told.append(made.line)
            says = f"{at(outcome.file, made.line)} {NO_RIGHT_WAY}"
            outcome.where.append(says + _how_far(made, steps))
    return guilty


def _before_tensors(
    outcome: Outcome,
    exercise: Exercise,
    answer: Callable[..., Any],
    i: int,
    output: Any,
    wanted: dict[str, Tensor],
) -> None:
    """The wrong tensors were made of lists and numbers: the line that put a wrong one there."""
    probe = exercise.probes[i]
    changes = watch(lambda: exercise.use(answer, *probe.inputs()), outcome.file)
    for name, tensor in tensors_in(output):
        if name in wanted and not _is(tensor, wanted[name], probe.tolerance):
            found = first_wrong(changes, tensor.tolist(), wanted[name].tolist())
            if found:
                change, says = found
                # The line that made a tensor of it says less.
                outcome.where = [each for each in outcome.where if NO_RIGHT_WAY not in each]
                outcome.where.append(f"{at(outcome.file, change.line)} {says}")
                return


def _by_values(
    outcome: Outcome, steps: dict[str, Any], changes: list[Change], got: Any, wanted: Any
) -> None:
    right = _right(changes, steps)
    found = first_wrong(changes, got, wanted, right)
    last, seen = None, set()
    for i, change in enumerate(changes):
        if found and change is found[0]:
            break
        if i in right and right[i] not in seen:  # the first time that it is there
            seen.add(right[i])
            last = (change.line, right[i])
    values = [change.value for change in changes]
    _steps(outcome, last, list(steps), lambda name: any(_like(v, steps[name]) for v in values))
    if found:
        change, says = found
        outcome.where.append(f"{at(outcome.file, change.line)} {says}")
    elif changes:
        missing = difference(wanted, got)
        says = "returns it"
        if missing and missing[2] is NOTHING:
            says = f"returns too little: {missing[1]!r:.60} is missing"
        outcome.where.append(f"{at(outcome.file, changes[-1].line)} {says}")


def _right(changes: list[Change], steps: dict[str, Any]) -> dict[int, str]:
    """The changes that made a right step, and which."""
    found: dict[int, str] = {}
    for i, change in enumerate(changes):
        for name, step in steps.items():
            if _like(change.value, step):
                found[i] = name
    return found


def _like(value: Any, step: Any) -> bool:
    kin = isinstance(value, Mapping) and isinstance(step, Mapping)  # a Counter is a dict
    if not kin and type(value) is not type(step):
        return False
    if isinstance(value, Sized) and len(value) != len(step):
        return False
    return bool(value) and same(value, step, 1e-9)


def _steps(
    outcome: Outcome,
    last: tuple[int, str] | None,
    order: list[str],
    appears: Callable[[str], bool],
) -> None:
    if last is None:
        return
    line, name = last
    outcome.where.append(f"line {line} made {name}: right")
    following = order[order.index(name) + 1 :]
    if following and not appears(following[0]):
        outcome.where.append(f"the next step, {following[0]}, does not appear")


def _how_far(made: Made, steps: dict[str, Tensor]) -> str:
    """The step that this is most of, and along which axis it isn't."""
    best, share = "", 0.2
    for name, step in steps.items():
        for mine in made.makes:
            if mine.shape == step.shape and mine.is_floating_point() == step.is_floating_point():
                a, b = mine.double(), step.double()
                same = float(isclose(a, b, rtol=1e-9, atol=1e-9).double().mean())
                parts = partly(a, b, (), 1e-9)
                if share < same < 1 and parts:
                    best, share = f" ({name}: {parts[0]})", same
    return best


def at(path: str, line: int) -> str:
    """A line and what stands in it."""
    text = linecache.getline(path, line).strip()
    return f"line {line}, `{text[:90]}`," if text else f"line {line}"


def point(outcome: Outcome, error: BaseException) -> None:
    """The innermost line of the learner's file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename == outcome.file:
        outcome.where.append(f"line {error.lineno}")
        return
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == outcome.file
    ]
    if frames:
        text = linecache.getline(outcome.file, frames[-1].lineno or 0).strip()
        outcome.where.append(f"line {frames[-1].lineno}, `{text[:90]}`")
