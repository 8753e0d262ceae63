"""Three games with the knobs and the mutants: break a mistake, spot a line, predict a number.

The `_job` functions run where the learner's code runs; the others need no torch.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from chapters.runner import explain, stub, swap
from chapters.runner.catalog import HERE, Entry, find, folders, words
from chapters.runner.exercise import Exercise, Experiment, Spot
from chapters.runner.mutants import mutants
from chapters.runner.outcome import Outcome
from chapters.runner.source import text_of

Phase = Callable[[str], Any]


# --- break: an input on which a mistake shows --------------------------------------------------


def secrets(exercise: Exercise | dict[str, Any]) -> list[str]:
    """The mistakes of the game, in order."""
    given = exercise if isinstance(exercise, dict) else vars(exercise)
    return list(given.get("secrets") or list(given["knobs"])[:4])


def break_text(entry: Entry) -> str:
    """The file in which the learner writes a probe."""
    _, tree = stub.read(entry.module)
    reference = stub.definition(tree, "reference")
    names = _parameters(reference) if reference else ["..."]
    return (
        f"# break {entry.id}: mistakes are hidden in `{entry.name}`. For the one whose turn it is,"
        "\n# write inputs on which it gives something else than the right function."
        f"\n#\n#     python -m chapters break {entry.id}\n\n"
        f"import torch\n\n\ndef probe():\n    # as small as you can: ({', '.join(names)})\n"
        "    raise NotImplementedError\n"
    )


def _parameters(node: ast.AST) -> list[str]:
    """Those without a default."""
    arguments = next(each.args for each in ast.walk(node) if isinstance(each, ast.FunctionDef))
    names = [each.arg for each in arguments.args]
    return names[: len(names) - len(arguments.defaults)]


def break_job(request: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """{"outcome": ...} where the probe is no probe, else what shows on it: {knob: bool}."""
    entry, path = find(request["id"]), Path(request["file"])
    exercise = entry.load()
    outcome = Outcome(entry.id, f"break {entry.name}", file=str(path))
    phase("began")
    try:
        module = swap.load(path, text_of(path), path.stem)
        inputs = module.probe()
    except BaseException as error:
        if isinstance(error, NotImplementedError):
            explain.raised(outcome, exercise, error, "probe()")
            outcome.think = "what is the smallest input on which anything can go wrong here?"
        else:
            explain.load_error(outcome, error)
        return {"outcome": outcome.data()}
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    problem = contract(exercise, inputs)
    if problem is None:
        try:
            shows = {name: differs(exercise, inputs, name) for name in secrets(exercise)}
            return {"shows": shows, "size": size(inputs)}
        except Exception as error:
            problem = f"the right function can't take it: {explain.one_line(error)}"
    outcome.verdict, outcome.says = "wrong", [f"the probe is out of contract: {problem}"]
    return {"outcome": outcome.data()}


def contract(exercise: Exercise, inputs: tuple[Any, ...]) -> str | None:
    """What is wrong with a learner's inputs, by the look of the exercise's own and by its word."""
    known = [probe.inputs() for probe in exercise.probes]
    if len(inputs) != len(known[0]):
        return f"{len(inputs)} inputs, wanted {len(known[0])}"
    names = list(inspect.signature(exercise.reference).parameters)
    for name, mine, *theirs in zip(names, inputs, *known, strict=False):
        unlike = [_unlike(name, mine, each) for each in theirs]
        if all(unlike):  # one probe may have None where another has a tensor
            return unlike[0]
    return exercise.contract(*inputs) if exercise.contract else None


def _unlike(name: str, mine: Any, theirs: Any) -> str | None:
    """In what an input is of another kind than one of the exercise's own."""
    import torch

    if isinstance(theirs, torch.Tensor):
        if not isinstance(mine, torch.Tensor):
            return f"{name} is no tensor"
        if mine.is_floating_point() != theirs.is_floating_point() or (
            (mine.dtype == torch.bool) != (theirs.dtype == torch.bool)
        ):
            return f"{name} is {mine.dtype}, wanted {theirs.dtype}".replace("torch.", "")
    elif not isinstance(mine, type(theirs)) and not isinstance(mine, int | float):
        return f"{name} is a {type(mine).__name__}, wanted a {type(theirs).__name__}"
    return None


def differs(exercise: Exercise, inputs: tuple[Any, ...], knob: str) -> bool:
    """Whether a mistake gives something else than the truth on these inputs."""
    import copy

    from chapters.runner.compare import same

    right = exercise.reference(*copy.deepcopy(inputs), knobs=frozenset(), steps={})
    try:
        wrong = exercise.reference(*copy.deepcopy(inputs), knobs=frozenset({knob}), steps={})
    except Exception:
        return True
    return not same(wrong, right, 1e-6)


def size(inputs: tuple[Any, ...]) -> int:
    """How many numbers a probe has: the fewer, the better it is understood."""
    from chapters.runner.compare import tensors_in

    return sum(tensor.numel() for _, tensor in tensors_in(inputs))


# --- spot: the line with the mistake -----------------------------------------------------------


def spot(entry: Entry, turn: int) -> tuple[Spot, str]:
    """The exercise's `turn`-th wrong solution, and what is wrong with it."""
    given = entry.words.get("spots", ())
    if turn < len(given):
        chosen: Spot = given[turn]
        return chosen, entry.words["knobs"][chosen.knob].says
    text = ast.unparse(ast.parse(stub.solution_text(entry)))
    survivors = entry.words.get("survivors", {})
    wrong = [
        (says.split(": ", 1)[1], source)
        for says, _, source in mutants(text)
        if says.split(": ", 1)[1] not in survivors and _one_line(text, source)
    ]
    says, source = wrong[(7 * turn + 3) % len(wrong)]
    return Spot(source, _one_line(text, source), ""), f"right is the left of {says}"


def _one_line(old: str, new: str) -> int:
    """The one line in which two texts differ, from 1; 0 where it isn't one."""
    pair = list(zip(old.splitlines(), new.splitlines(), strict=False))
    lines = [number for number, (a, b) in enumerate(pair, 1) if a != b]
    same_length = len(old.splitlines()) == len(new.splitlines())
    return lines[0] if len(lines) == 1 and same_length else 0


# --- predict: a number before it is measured ----------------------------------------------------


def experiment(number: int) -> dict[str, Any]:
    """The words of a chapter's experiment."""
    path = HERE / folders()[number] / "experiment.py"
    if not path.is_file():
        raise ValueError(f"Chapter {number} has no experiment.")
    return words(path, "EXPERIMENT")


def experiment_job(request: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """The number that was measured and its table, with the learner's pieces."""
    module = import_module(f"chapters.{folders()[request['number']]}.experiment")
    chosen: Experiment = module.EXPERIMENT
    outcome = Outcome(str(request["number"]), "experiment")
    phase("began")
    used: list[str] = []
    with swap.pieces(request) as piece:

        def noted(name: str) -> Any:
            used.append(name)
            return piece(name)

        try:
            number, table = chosen.measure(noted)
        except BaseException as error:
            outcome.verdict, outcome.says = "raised", [explain.one_line(error)]
            return {"outcome": outcome.data()}
    own = [name for name in dict.fromkeys(used) if find(name).id in request["passed"]]
    borrowed = [name for name in dict.fromkeys(used) if name not in own]
    return {"number": float(number), "table": list(table), "yours": own, "borrowed": borrowed}
