"""The judge: runs in a process of its own, asks the oracle, and only then looks for the reason.

Order: load, run, shape, NaN, value, gradient, property. At the first finding: known mistakes, what
the numbers tell, the line, and one question.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chapters.runner import catalog, explain, intact, source, swap
from chapters.runner.catalog import Entry, entries, find
from chapters.runner.compare import COARSE, Difference, compare, same
from chapters.runner.diagnose import Mistakes
from chapters.runner.exercise import Exercise, Probe
from chapters.runner.outcome import Outcome, Stage
from chapters.runner.run import Run, attempt, differentiate, fine, wrong_gradient

Phase = Callable[[str], Any]


def check_job(request: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """`check`, as the server asks for it."""
    return check(request, phase).data()


def check(request: dict[str, Any], phase: Phase) -> Outcome:
    """One exercise of one file. `request` has id, file, home, passed: {id: file}.

    `phase("began")` starts the learner's time, `phase("explaining")` ends it: the rest is our own.
    """
    entry, path = find(request["id"]), Path(request["file"])
    found = source.read(entry, path)
    if isinstance(found, Outcome):
        return found
    exercise = entry.load()
    mistakes = Mistakes(exercise, [swap.solution(entry)])
    right = [mistakes.run(frozenset(), i) for i in range(len(exercise.probes))]
    outcome = Outcome(entry.id, entry.name, file=str(path), line=found.line, hash=found.hash)
    sys.path.append(request["home"])  # last: a learner's helper never hides one of ours
    phase("began")
    began = time.process_time()
    with ExitStack() as stack:
        passed = {find(key): Path(file) for key, file in request["passed"].items()}
        useful = catalog.needed(entry)
        earlier = [
            (each, file)
            for each, file in passed.items()
            if file != path and (each in useful or each.name in found.uses)
        ]
        python = intact.Intact()
        pieces = stack.enter_context(swap.learners(earlier))
        python.restore()
        stack.enter_context(swap.forbidden(entry))
        whole = intact.Intact(ours=True)
        try:
            module = swap.load(path, found.text, path.stem)
            others = _unpassed(entry, passed)
            outcome.borrowed += swap.complete(module, found.tree, others, found.uses)
            mine = {*pieces, *(each.name for each in passed if passed[each] == path)}
            outcome.yours = sorted(mine & found.uses)
            needed = {each.name for each in catalog.needed(entry)}
            outcome.borrowed += sorted((needed & found.uses) - mine - {*outcome.borrowed})
            answer = getattr(module, entry.name)
        except BaseException as error:
            whole.restore()
            explain.load_error(outcome, error)
            return outcome
        judge(exercise, answer, outcome, mistakes, right, phase, whole=whole, tree=found.tree)
    outcome.seconds = round(time.process_time() - began, 3)
    return outcome


def _unpassed(entry: Entry, passed: dict[Entry, Path]) -> list[Entry]:
    return [each for each in entries(entry.number) if each != entry and each not in passed]


def judge(
    exercise: Exercise,
    answer: Callable[..., Any],
    outcome: Outcome,
    mistakes: Mistakes | None = None,
    right: list[Run] | None = None,
    phase: Phase = lambda _: None,
    *,
    own: bool = False,
    whole: intact.Intact | None = None,
    tree: ast.Module | None = None,
) -> Outcome:
    """Fill in what is found about an answer. `own`: it is ours, as in a test of the exercise.

    `whole` is what the learner's code, whose tree is given, must have left alone.
    """
    mistakes = mistakes or Mistakes(exercise)
    right = right or [mistakes.run(frozenset(), i) for i in range(len(exercise.probes))]
    if not own and not from_file(answer, outcome.file):
        outcome.verdict = "foreign"
        outcome.says = [f"`{exercise.name}` is there, but its code is {_place(answer)}, not yours."]
        return outcome
    if _replaced(outcome, whole, tree):
        return outcome
    first = exercise.probes[0].inputs()
    if exercise.use.__name__ == "call" and (
        problem := source.signature_problem(answer, exercise.name, len(first))
    ):
        outcome.verdict, outcome.says = "signature", [problem]
        return outcome
    runs: list[Run] = []
    findings: dict[int, Difference] = {}
    axes = [exercise.axes] if isinstance(exercise.axes, str) else list(exercise.axes)
    finely = False
    for i, probe in enumerate(exercise.probes):
        run = attempt(exercise, answer, probe, finely=finely)
        if not finely and _coarse(run, right[i], probe, axes):
            finer = attempt(exercise, answer, probe, finely=True)
            if finer.error is None and _compared(finer, right[i], probe, axes) is None:
                run, finely = finer, True
        runs.append(run)
        if _replaced(outcome, whole, tree):
            return outcome
        if run.error is not None:
            if explain.stops(run.error):
                explain.raised(outcome, exercise, run.error, probe.name)
                return outcome
            findings[i] = Difference("raised", [explain.one_line(run.error)])
        elif run.changed:
            findings[i] = Difference("mutates", [f"it changed its input {run.changed}"])
        else:
            found = _compared(run, right[i], probe, axes)
            again = attempt(exercise, answer, probe, finely=finely)
            if (found is None or found.kind != "type") and not _twice(run, again):
                found = Difference("unsteady", ["two calls with the same inputs, two outputs"])
            if found:
                findings[i] = found
        word = f"values, {probe.name}"
        if i in findings:
            outcome.stages.append(Stage(word, False, findings[i].says[0]))
        else:
            outcome.stages.append(Stage(word, True))
    if findings:
        phase("explaining")
        explain.wrong(outcome, exercise, answer, mistakes, runs, right, findings)
        return outcome
    _beyond(exercise, answer, outcome, mistakes, runs, phase, finely)
    _replaced(outcome, whole, tree)
    return outcome


def _replaced(outcome: Outcome, whole: intact.Intact | None, tree: ast.Module | None) -> bool:
    """Whether the learner's code has put something in the place of what judges it."""
    names = whole.restore() if whole else []
    if names:
        explain.replaced(outcome, names[0], tree)
    return bool(names)


def _compared(run: Run, right: Run, probe: Probe, axes: list[str]) -> Difference | None:
    """The difference; whatever a learner's object does when it is looked at, it is one."""
    try:
        return compare(run.output, right.output, probe.tolerance, axes)
    except Exception as error:
        says = f"it can't be compared with what is wanted: {explain.one_line(error)}"
        return Difference("type", [says])


def _coarse(run: Run, right: Run, probe: Probe, axes: list[str]) -> bool:
    """Whether an answer is wrong by no more than a float32 of its own, `torch.tensor(8.0).sqrt()`,
    makes it: in a model of float32 it is right."""
    if run.error is not None or run.changed:
        return False
    found = _compared(run, right, probe, axes)
    return found is not None and found.kind == "wrong" and found.error < COARSE


def _twice(run: Run, again: Run) -> bool:
    try:
        return again.error is not None or same(again.output, run.output, 0.0)
    except Exception:  # an object that can't be compared with another, which is told elsewhere
        return True


def _beyond(
    exercise: Exercise,
    answer: Callable[..., Any],
    outcome: Outcome,
    mistakes: Mistakes,
    runs: list[Run],
    phase: Phase,
    finely: bool,
) -> Outcome:
    """All values are right: the gradients, then what must hold for any right answer."""
    backward, bad = {}, ""
    for i, probe in enumerate(exercise.probes):
        wanted = mistakes.run(frozenset(), i, True)
        if probe.gradient and wanted.gradients:
            backward[i] = differentiate(exercise, answer, probe, finely=finely)
            error = backward[i].error
            if error is not None:
                bad = bad or f"going backwards: {explain.one_line(error)}"
            else:
                wrong = wrong_gradient(backward[i].gradients, wanted.gradients, probe.tolerance)
                bad = bad or (f"{probe.name}: {wrong}" if wrong else "")
    if backward:
        outcome.stages.append(Stage("gradients", not bad, bad))
    if bad:
        phase("explaining")
        explain.gradient(outcome, exercise, answer, mistakes, runs, backward, bad)
        return outcome
    for each in exercise.properties:
        try:
            with fine(finely):
                found = each.holds(lambda *inputs: exercise.use(answer, *inputs))
        except BaseException as error:
            found = f"raises {explain.one_line(error)}"
            if explain.stops(error):
                explain.raised(outcome, exercise, error, each.name)
                return outcome
        outcome.stages.append(Stage(each.name, found is None, found or ""))
        if found:
            outcome.verdict, outcome.says = "property", [found]
            outcome.think = exercise.hints[0]
            return outcome
    return outcome


def from_file(answer: Any, path: str) -> bool:
    """Whether the code of a function, or of a class's own methods, stands in that file."""
    if isinstance(answer, type):
        found = [inspect.unwrap(each) for each in vars(answer).values() if callable(each)]
        codes = [each.__code__ for each in found if inspect.isfunction(each)]
        # What a decorator such as dataclass writes has no file: "<string>".
        files = {code.co_filename for code in codes if not code.co_filename.startswith("<")}
        return files == {path}
    answer = answer.func if isinstance(answer, functools.partial) else inspect.unwrap(answer)
    code = getattr(answer, "__code__", getattr(type(answer).__call__, "__code__", None))
    return code is not None and code.co_filename == path


def _place(answer: Any) -> str:
    code = getattr(inspect.unwrap(answer), "__code__", None) if callable(answer) else None
    if code is None:
        module = getattr(answer, "__module__", None)
        return f"that of {module}" if module else f"a {type(answer).__name__}, no function"
    return f"in {code.co_filename}"
