"""Where an answer went wrong: the last step that was right, and the line after it."""

from __future__ import annotations

import ast
import copy
import linecache
import re
import traceback
from collections.abc import Callable, Mapping, Sized
from typing import Any

from torch import Tensor

from chapters.runner.compare import Difference, close, isclose, same, tensors_in
from chapters.runner.diagnose import Mistakes, partly
from chapters.runner.exercise import Exercise
from chapters.runner.flow import first_cause, last_given, names_by_line
from chapters.runner.intact import line_of
from chapters.runner.outcome import Outcome
from chapters.runner.run import changed, named
from chapters.runner.trace import DRAWN, Known, Made, Recorder, alike, culprits, record
from chapters.runner.values import (
    NOTHING,
    Change,
    difference,
    equal,
    first_line,
    first_wrong,
    last_line,
    plain,
    watch,
)

CONVERTED = ("tensor", "as_tensor", "asarray", "from_numpy")  # from what torch doesn't see
NO_RIGHT_WAY = "and makes what no right way has"


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

    def use() -> Any:
        return exercise.use(answer, *probe.inputs())

    if finding.kind == "mutates":
        _mutates(outcome, exercise, answer, i)
        return
    if finding.kind == "unsteady":
        _unsteady(outcome, use, isinstance(answer, type))
        return
    recorder, output = record(use, outcome.file)
    right = mistakes.run(frozenset(), i).output
    wanted = dict(tensors_in(right))
    off = [t for name, t in tensors_in(output) if not _is(t, wanted.get(name), probe.tolerance)]
    raised = finding.kind == "raised"
    if output is not None and wanted and not off:  # it is not the numbers that are wrong
        _by_attributes(outcome, finding)
    elif recorder.made:
        guilty = _by_tensors(outcome, mistakes, i, recorder, None if raised else off)
        unseen = _unseen(guilty, mistakes.rights(i))
        if output is not None and (unseen or not any(made.reads for made in guilty)):
            _before_tensors(outcome, use, mistakes, i, output, wanted)
    elif any(True for _ in tensors_in(output)):
        _before_tensors(outcome, use, mistakes, i, output, wanted)
    elif finding.kind in ("wrong", "type"):
        changes = watch(use, outcome.file)
        _by_values(outcome, mistakes.steps(i), changes, output, right)
    if finding.kind in ("type", "none") and not outcome.where:
        says = "returns it" if finding.kind == "type" else "is the last that runs"
        line = last_line(use, outcome.file)
        if isinstance(output, Mapping) and not isinstance(answer, type) and finding.kind == "none":
            # Of several calls the one that handed nothing back.
            ends = [c.line for c in watch(use, outcome.file) if not c.name and c.value is None]
            line = ends[0] if ends else line
        outcome.where.append(f"{at(outcome.file, line)} {says}")


def _by_attributes(outcome: Outcome, finding: Difference) -> None:
    """The lines that give a module what the finding names: in 'norm.weight' that is `norm`."""
    tree = _tree(outcome.file)
    for name in dict.fromkeys(re.findall(r"'([A-Za-z_]\w*)[.']", " ".join(finding.says))):
        if line := line_of(tree, name):
            outcome.where.append(f"{at(outcome.file, line)} sets `{name}`")


def _mutates(outcome: Outcome, exercise: Exercise, answer: Callable[..., Any], i: int) -> None:
    """The line after which an input is no longer what it was."""
    inputs = exercise.probes[i].inputs()
    before = copy.deepcopy(inputs)
    line = first_line(
        lambda: exercise.use(answer, *inputs),
        outcome.file,
        lambda: bool(changed(exercise, before, inputs)),
    )
    if line:
        outcome.where.append(f"{at(outcome.file, line)} writes into it")


def _unsteady(outcome: Outcome, use: Callable[[], Any], module: bool) -> None:
    """The first line that makes something else the second time; of a `module`, whose first weights
    are drawn anew each time, the first that does so with the same numbers."""
    made, again = (record(use, outcome.file)[0].made for _ in range(2))
    for one, other in zip(made, again, strict=False) if module else ():
        drawn = one.reads and same([t for _, t in one.reads], [t for _, t in other.reads], 0.0)
        if drawn and one.name not in DRAWN and not same(one.makes, other.makes, 0.0):
            outcome.where.append(f"{at(outcome.file, one.line)} makes something else each time")
            return
    first, second = (watch(use, outcome.file, tensors=True) for _ in range(2))
    for a, b in zip(first, second, strict=False):
        if a.line != b.line or not same(a.value, b.value, 0.0):
            outcome.where.append(f"{at(outcome.file, a.line)} makes something else each time")
            return


def _unseen(guilty: list[Made], known: Known) -> bool:
    """Whether a wrong number came in that no recorded operation made, as from an array."""
    return any(
        (source is None or source.name in CONVERTED)
        and tensor.is_floating_point()
        and not known.has(tensor)
        for made in guilty
        for (_, tensor), source in zip(made.reads, made.sources, strict=True)
    )


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
    inputs = named(mistakes.exercise, mistakes.exercise.probes[i].inputs())
    for made in guilty:
        if made.line not in told and len(told) < 2:
            told.append(made.line)
            says = f"{at(outcome.file, made.line)} {_what(made, inputs, steps)} {NO_RIGHT_WAY}"
            outcome.where.append(says + _how_far(made, steps))
    return guilty


def _what(made: Made, inputs: list[tuple[str, Tensor]], steps: dict[str, Tensor]) -> str:
    """What an operation reads, by name, where all of it has one: a mix-up shows in that."""
    told: dict[str, None] = {}
    for (_, tensor), source in zip(made.reads, made.sources, strict=True):
        mine = [name for name, each in inputs if _is(tensor, each, 0.0)]
        mine += [name for name, each in steps.items() if alike(tensor, each)]
        if not mine:
            return "reads right numbers"
        line = f" (line {source.line})" if source and source.line != made.line else ""
        told[mine[0] + line] = None
    return f"reads {' and '.join(told)}" if 0 < len(told) < 4 else "reads right numbers"


def _before_tensors(
    outcome: Outcome,
    use: Callable[[], Any],
    mistakes: Mistakes,
    i: int,
    output: Any,
    wanted: dict[str, Tensor],
) -> None:
    """The wrong tensors were made of arrays, lists and numbers: the line that put one there."""
    tree = _tree(outcome.file)
    cause = first_cause(watch(use, outcome.file, tensors=True), tree, mistakes.rights(i))
    says = f"reads right numbers {NO_RIGHT_WAY}"
    if cause is None:
        changes = watch(use, outcome.file)
        for name, tensor in tensors_in(output):
            right = wanted.get(name)
            if right is None or _is(tensor, right, mistakes.exercise.probes[i].tolerance):
                continue
            if found := first_wrong(changes, tensor.tolist(), right.tolist()):
                cause, says = found
                if not cause.name and tensor.dim() > 1:  # whole rows in a list tell nobody anything
                    says = "returns it"
                break
    if cause is not None:
        # The line that made a tensor of it says less.
        outcome.where = [each for each in outcome.where if NO_RIGHT_WAY not in each]
        outcome.where.append(f"{at(outcome.file, cause.line)} {says}")


def _tree(path: str) -> ast.Module:
    return ast.parse("".join(linecache.getlines(path)))


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
    first = next(iter(steps), "")
    if first and not last and not any(_like(value, steps[first]) for value in values):
        outcome.where.append(f"the first step, {first}, does not appear")
    _steps(outcome, last, list(steps), lambda name: any(_like(v, steps[name]) for v in values))
    if found:
        change, says = found
        outcome.where.append(f"{at(outcome.file, change.line)} {says}")
    elif changes:
        place = difference(got, wanted)
        if isinstance(wanted, Mapping) and place:  # of several answers, the first wrong one
            _, got, wanted = place
        missing = difference(wanted, got)
        says = "returns it"
        if missing and missing[2] is NOTHING:
            says = f"returns too little: {missing[1]!r:.60} is missing"
        mine = [c for c in changes if not c.name and equal(c.value, plain(got, True))]
        outcome.where.append(f"{at(outcome.file, (mine or changes)[-1].line)} {says}")


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
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == outcome.file
    ]
    if frames:
        frame, line = frames[-1]
        outcome.where.append(at(outcome.file, line).rstrip(","))
        if met := _met(_tree(outcome.file), line, frame.f_locals):
            outcome.where.append(f"there {met}")


def _met(tree: ast.Module, line: int, values: Mapping[str, Any]) -> str:
    """The shapes that meet on a line, the dtypes that aren't float64, and where they are from."""
    found = []
    for name in sorted(names_by_line(tree).get(line, set()) & set(values)):
        value = values[name]
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            dtype = str(value.dtype).removeprefix("torch.")
            kind = "" if dtype == "float64" else f" {dtype}"
            made = last_given(tree, name, line)
            place = f" (line {made})" if made else ""
            found.append(f"{name} is {tuple(value.shape)}{kind}{place}")
    return ", ".join(found[:5])
