"""From a finding to what the learner reads: facts, the line, and one question at the end."""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from chapters.runner import intact
from chapters.runner.compare import Difference, tensors_in
from chapters.runner.diagnose import Mistakes, tells
from chapters.runner.exercise import Exercise
from chapters.runner.outcome import Outcome, Stage
from chapters.runner.run import Run
from chapters.runner.swap import PackageUsedError
from chapters.runner.trace import record
from chapters.runner.where import at, place, point

# What torch's own messages mean, where the exercise doesn't know better.
EXCEPTIONS = {
    r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)": (
        "the left matrix has {1} columns and the right one {2} rows; they must be the same number"
    ),
    r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)(?:.*dimension (\d+))?": (
        "two tensors meet whose axes of {0} and {1} don't fit"
    ),
    r"Expected size for first two dimensions of batch2 tensor": (
        "the inner sizes of a batched matrix product don't fit: is a transpose missing?"
    ),
    r"expected (?:scalar type|m1 and m2 to have the same dtype).*|.*same dtype.*": (
        "two dtypes meet: a tensor of a fixed dtype is made where the inputs are float64."
        " Make it like the inputs: `x.new_zeros(...)`, `dtype=x.dtype`"
    ),
    r"leaf Variable that requires grad is being used in an in-place": (
        "an input is changed in place"
    ),
    r"view size is not compatible": "`view` needs numbers that lie in order; after a transpose they"
    " don't",
    r"'NoneType' object": "something that should be a value is None: is a `return` missing?",
    r"Boolean value of Tensor with more than one value": (
        "`if`, `and`, `or`, `not` ask a tensor for one yes or no; `&`, `|`, `~` go number by number"
    ),
    r"maximum recursion depth": "the function calls itself without an end",
}
QUESTIONS = {
    "raised": "what are the shapes and dtypes on that line, just before it runs?",
    "none": "what does the last line of your function hand back?",
    "type": "where does the value that you return get its type?",
    "shape": "which line is the last on which the shape is still what you expect?",
    "nan": "which step can make NaN or infinity: an exponential, a division, a logarithm?",
    "mutates": "which line writes into something that was given to you?",
    "unsteady": "what in it depends on chance, or on the call before?",
    "wrong": "what should the step on that line give for the smallest input you can work by hand?",
    "gradient": "which step can gradients not pass: detach, .data, .item(), numpy, a 0 times inf?",
}


def message(error: BaseException) -> str:
    """What an error says; a learner's own may say very much, or fail at that too."""
    try:
        return str(error)[:2000]
    except Exception:
        return ""


def one_line(error: BaseException) -> str:
    text = " ".join(message(error).split())
    return f"{type(error).__name__}{': ' if text else ''}{text[:300]}"


def stops(error: BaseException) -> bool:
    """Whether there is no point in asking further."""
    return (
        not isinstance(error, Exception)
        or isinstance(error, PackageUsedError | PermissionError)
        or _unwritten(error)
        or _out_of_memory(error)
        or _refused(error)
    )


def _unwritten(error: BaseException) -> bool:
    """Whether it is the stub's own `raise`; torch raises the same, of what a dtype can't do."""
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, NotImplementedError) or not frames:
        return False
    theirs = Path(torch.__file__).parent in Path(frames[-1].filename).parents
    return not theirs and "NotImplementedError" in (frames[-1].line or "")


def _refused(error: BaseException) -> bool:
    """Whether the system refused it, as it does where torch opens a file outside the workspace."""
    return isinstance(error, RuntimeError | OSError) and "Permission denied" in message(error)


def load_error(outcome: Outcome, error: BaseException) -> None:
    """The file doesn't run from top to bottom."""
    outcome.verdict = "load"
    if isinstance(error, SystemExit):
        outcome.says = ["the file ends the program while it is loaded (SystemExit)"]
    elif isinstance(error, KeyboardInterrupt):
        outcome.says = ["the file raises KeyboardInterrupt while it is loaded"]
    elif isinstance(error, MemoryError):
        outcome.verdict, outcome.says = (
            "memory",
            ["loading the file took more memory than there is"],
        )
    elif isinstance(error, PackageUsedError):
        outcome.verdict, outcome.says = "foreign", [str(error)]
    else:
        outcome.says = [f"loading the file: {one_line(error)}"]
    point(outcome, error)


def replaced(outcome: Outcome, name: str, tree: ast.Module | None) -> None:
    """The answer put something of its own in the place of what it is judged with."""
    outcome.verdict = "patches"
    outcome.says = [
        f"it puts something of its own in the place of `{name}`, which everything else relies on"
    ]
    outcome.think = "which name of your own could that have instead?"
    line = intact.line_of(tree, name) if tree else 0
    outcome.where = [at(outcome.file, line).rstrip(",")] if line else []


def raised(outcome: Outcome, exercise: Exercise, error: BaseException, when: str) -> None:
    """The answer was called and didn't come back with a value."""
    point(outcome, error)
    if _unwritten(error):
        outcome.verdict = "not attempted"
        outcome.says = ["it still raises NotImplementedError"]
        outcome.think = exercise.hints[0]
    elif isinstance(error, SystemExit):
        outcome.verdict, outcome.says = (
            "exits",
            ["it ends the program (SystemExit): return instead"],
        )
    elif isinstance(error, KeyboardInterrupt):
        outcome.verdict, outcome.says = "interrupts", ["it raises KeyboardInterrupt itself"]
    elif isinstance(error, PackageUsedError):
        outcome.verdict, outcome.says = "foreign", [str(error)]
    elif _out_of_memory(error):
        outcome.verdict, outcome.says = "memory", [f"it takes too much memory: {one_line(error)}"]
        outcome.think = "what is the largest tensor or list on that line, and how large need it be?"
    elif isinstance(error, PermissionError) and "outside the workspace" in message(error):
        outcome.verdict, outcome.says = "writes", [message(error)]
    elif _refused(error):
        outcome.verdict = "writes"
        outcome.says = [f"outside the workspace nothing can be written: {one_line(error)}"]
    else:
        outcome.verdict, outcome.think = "raised", QUESTIONS["raised"]
        outcome.says = [f"{when}: {one_line(error)}", *meaning(exercise, error)]
    outcome.stages.append(Stage(f"run, {when}", False, outcome.title))


def meaning(exercise: Exercise, error: BaseException) -> list[str]:
    """What a message of Python's or torch's means in this exercise, where somebody knows."""
    text = message(error)
    for table in (exercise.exceptions, EXCEPTIONS):
        for pattern, says in table.items():
            if found := re.search(pattern, text):
                for i, group in enumerate(found.groups()):
                    # Not `format`: what is said may have braces of its own, as \p{L} has.
                    says = says.replace(f"{{{i}}}", str(group))
                return [says]
    return []


def wrong(
    outcome: Outcome,
    exercise: Exercise,
    answer: Callable[..., Any],
    mistakes: Mistakes,
    runs: Sequence[Run],
    right: Sequence[Run],
    findings: dict[int, Difference],
) -> None:
    """The oracle said no. The first wrong probe is told; all of them are asked for the reason."""
    i = next(iter(findings))
    finding, run, probe = findings[i], runs[i], exercise.probes[i]
    outcome.verdict = finding.kind
    outcome.think = QUESTIONS[finding.kind]
    if run.error is not None:
        point(outcome, run.error)
        outcome.says = [f"{probe.name}: {one_line(run.error)}", *meaning(exercise, run.error)]
    else:
        outcome.says = [f"{probe.name}: {each}" for each in finding.says]
        outcome.arrays = _arrays(run.output, right[i].output)
    try:
        _reasons(outcome, exercise, answer, mistakes, runs, right, findings)
    except Exception as error:  # the verdict stands, whatever an odd answer does to its explanation
        outcome.says.append(f"the reason could not be looked for: {one_line(error)}")


def _reasons(
    outcome: Outcome,
    exercise: Exercise,
    answer: Callable[..., Any],
    mistakes: Mistakes,
    runs: Sequence[Run],
    right: Sequence[Run],
    findings: dict[int, Difference],
) -> None:
    """The line, the known mistake, and else what the numbers tell."""
    i = next(iter(findings))
    finding, run, probe = findings[i], runs[i], exercise.probes[i]
    place(outcome, exercise, answer, mistakes, i, finding)
    if finding.kind in ("mutates", "unsteady"):
        return
    order = sorted(range(len(runs)), key=lambda each: each not in findings)
    axes = exercise.axes if isinstance(exercise.axes, str) else exercise.axes[0]
    told: list[str] = []
    if run.error is None:
        steps = mistakes.steps(i)
        told = tells(exercise, i, run.output, right[i].output, axes.split(), steps, probe.tolerance)
    plain = any("unchanged" in each or "every number" in each for each in told)
    plain = plain or finding.kind == "none"
    if any("unchanged" in each for each in told):
        outcome.verdict = "input"
    # Zeros and inputs come out of many mistakes at once: only a single one would be news.
    name_mistakes(outcome, exercise, mistakes.matching(runs, order, most=1 if plain else 3))
    if not outcome.diagnosis:
        outcome.says += told
    elif finding.kind == "none":  # None in one place of many, and known why
        outcome.verdict = "wrong"


def gradient(
    outcome: Outcome,
    exercise: Exercise,
    answer: Callable[..., Any],
    mistakes: Mistakes,
    runs: Sequence[Run],
    backward: dict[int, Run],
    says: str,
) -> None:
    """All values are right, the way back is not."""
    outcome.verdict, outcome.says, outcome.think = "gradient", [says], QUESTIONS["gradient"]
    errors = [run.error for run in backward.values() if run.error is not None]
    if errors:
        point(outcome, errors[0])
        return
    filled = [backward.get(i, run) for i, run in enumerate(runs)]
    found = mistakes.matching(runs, list(backward), filled, most=1)
    name_mistakes(outcome, exercise, found)
    if outcome.file:
        probe = exercise.probes[next(iter(backward))]
        inputs = probe.inputs()
        for _, tensor in tensors_in(inputs):
            if tensor.is_floating_point():
                tensor.requires_grad_()
        recorder, _ = record(lambda: exercise.use(answer, *inputs), outcome.file, gradients=True)
        cut = [made for made in recorder.made if made.cuts]
        outcome.where += [f"{at(outcome.file, made.line)} cuts the graph" for made in cut[:1]]


def name_mistakes(outcome: Outcome, exercise: Exercise, found: Sequence[tuple[str, ...]]) -> None:
    """Tell the one explanation, or up to three."""
    if not found:
        return
    first = found[0]
    twins = {twin for name in first for twin in (name, *exercise.knobs[name].confusable)}
    says = {name: exercise.knobs[name].says for names in found[:3] for name in names}
    if len(found) == 1 or all(set(names) <= twins for names in found):
        outcome.knobs = list(first)
        parts = [f"({n}) {says[name]}" for n, name in enumerate(first, 1)]
        count = ["", "two things at once: ", "three things at once: "][len(first) - 1]
        told = count + "; ".join(parts) if count else says[first[0]]
        outcome.diagnosis = f"{told}. On every probe your output equals that."
    else:
        outcome.candidates = [list(names) for names in found[:3]]
        ways = [f"({n}) {', and '.join(says[x] for x in w)}" for n, w in enumerate(found[:3], 1)]
        outcome.diagnosis = f"your output equals each of these: {'; or '.join(ways)}."
    outcome.think = exercise.knobs[first[0]].think
    outcome.text = exercise.knobs[first[0]].text


def _out_of_memory(error: BaseException) -> bool:
    text = message(error)
    phrases = ("not enough memory", "allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)


def _arrays(got: Any, wanted: Any) -> str:
    torch.set_printoptions(precision=4, threshold=200, linewidth=100)
    return f"expected\n{wanted}\nyours\n{got}"[:20_000]
