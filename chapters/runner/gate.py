"""Tests of an exercise's test: every mistake caught and named, every right answer let through.

`python -m chapters.runner.gate 4.4` while writing; `... --readme README.md` for the table there.
"""

from __future__ import annotations

import ast
import linecache
import math
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from chapters.runner import source, stub, swap
from chapters.runner.catalog import Entry, entries, select
from chapters.runner.diagnose import Mistakes, plain
from chapters.runner.exercise import Exercise
from chapters.runner.judge import judge
from chapters.runner.mutants import mutants
from chapters.runner.outcome import Outcome

# Who answers by changing something hands nothing back: then it is wrong that nothing changed.
NOTHING = ("none", "raised", "wrong")
MARKS = ("<!-- the gate's table -->", "<!-- its end -->")


@dataclass
class Score:
    """What the gate of one exercise found; it stands when there are no `problems`."""

    id: str
    name: str
    knobs: int = 0
    knobs_named: int = 0
    pairs: int = 0
    pairs_named: int = 0
    pairs_among_three: int = 0
    pairs_declared: int = 0
    alternatives: int = 0
    mutants: int = 0
    mutants_caught: int = 0
    mutants_named: int = 0
    mutants_pointed: int = 0
    survivors: int = 0
    problems: list[str] = field(default_factory=list)


def gate(entry: Entry, *, thorough: bool = True) -> Score:
    """What must hold of an exercise, and the figures of the table.

    Not `thorough`: without pairs of mistakes and generic mutants, which take seconds.
    """
    exercise = entry.load()
    score = Score(entry.id, entry.name)
    _words(entry, exercise, score)
    _right_ways(entry, exercise, score)
    mistakes = Mistakes(exercise, [swap.solution(entry)], patience=math.inf)
    _knobs(exercise, mistakes, score)
    _no_answers(entry, exercise, score)
    if thorough:
        _pairs(exercise, mistakes, score)
        _mutants(entry, exercise, mistakes, score)
    return score


def _words(entry: Entry, exercise: Exercise, score: Score) -> None:
    """The words can be read without torch, and there are enough of them."""
    read = entry.words
    for name in ("name", "target", "hints", "knobs", "needs", "starter", "keep"):
        if read.get(name, getattr(Exercise, name, None)) not in (getattr(exercise, name),):
            score.problems.append(f"{name} is not written out in EXERCISE: `hint` can't read it")
    if len(exercise.hints) != 3 or not all(exercise.hints):
        score.problems.append("wanted three hints: a question, the idea, pseudocode")
    if not 6 <= len(exercise.knobs) <= 25:
        score.problems.append(f"{len(exercise.knobs)} knobs, wanted 6 to 25")
    code = {line.strip() for line in stub.solution_text(entry).splitlines()}
    for hint in exercise.hints:
        for line in hint.splitlines():
            if len(line) > 12 and line.strip() in code:
                score.problems.append(f"a hint gives away a line of the solution: {line.strip()}")
    for name, each in exercise.knobs.items():
        for part in ("says", "think", "hint", "text"):
            if not getattr(each, part):
                score.problems.append(f"{name} has no {part}")
        if not each.think.endswith("?"):
            score.problems.append(f"{name}: `think` is no question: {each.think}")
    for name in {n for group in exercise.exclusive for n in group} | set(exercise.secrets):
        if name not in exercise.knobs:
            score.problems.append(f"there is no knob {name}")


def _right_ways(entry: Entry, exercise: Exercise, score: Score) -> None:
    if len(exercise.alternatives) < 3:
        score.problems.append(f"{len(exercise.alternatives)} alternatives, wanted three")
    for way in (swap.solution(entry), *exercise.alternatives):
        outcome = judge(exercise, way, Outcome(entry.id, entry.name), own=True)
        if outcome.verdict != "right":
            name = getattr(way, "__name__", way)
            score.problems.append(f"{name} is refused: {outcome.verdict}, {outcome.says}")
        score.alternatives += 1
    score.alternatives -= 1


def _knobs(exercise: Exercise, mistakes: Mistakes, score: Score) -> None:
    bare = plain(exercise)
    for name, diagnosis in exercise.knobs.items():
        outcome = Outcome(score.id, score.name)
        judge(bare, mistakes.answer(frozenset({name})), outcome, mistakes, own=True)
        score.knobs += 1
        if outcome.verdict == "right":
            score.problems.append(f"{name} passes")
        elif outcome.knobs and outcome.knobs[0] in (name, *diagnosis.confusable):
            score.knobs_named += 1
        else:
            told = outcome.knobs or outcome.candidates or outcome.says
            score.problems.append(f"{name} is caught, but told as {told}")


def _pairs(exercise: Exercise, mistakes: Mistakes, score: Score) -> None:
    declared = {frozenset(key.split("+")) for key in exercise.hidden}
    probes = range(len(exercise.probes))
    used = set()
    for pair in mistakes.sets(2):
        score.pairs += 1
        runs = [mistakes.run(frozenset(pair), i) for i in probes]
        right = all(
            run.equals(mistakes.run(frozenset(), i), exercise.probes[i].tolerance)
            for i, run in zip(probes, runs, strict=True)
        )
        found = [] if right else mistakes.matching(runs, probes)
        if [set(pair)] == [set(names) for names in found]:
            score.pairs_named += 1
        elif set(pair) in [set(names) for names in found[:3]]:
            score.pairs_among_three += 1
        else:
            keys = [frozenset(pair), *(frozenset({name, "*"}) for name in pair)]
            known = [key for key in keys if key in declared]
            used |= set(known[:1])
            score.pairs_declared += bool(known)
            if not known:
                told = "right" if right else found[:3] or "nothing known"
                score.problems.append(f"{'+'.join(pair)} is told as {told}; declare it `hidden`?")
    for key in declared - used:
        score.problems.append(f"hidden {'+'.join(sorted(key))} is not needed")


def _no_answers(entry: Entry, exercise: Exercise, score: Score) -> None:
    """Each way of not answering has its own result."""
    whole = stub.chapter_text(entry.number)
    node = ast.parse(stub.stub_text(entry)).body[0]
    assert isinstance(node, stub.Definition)
    head = re.compile(rf"^(def|class) {entry.name}\b", re.M)
    texts = {
        "empty": "\n# nothing\n",
        "syntax": head.sub(rf"\1 {entry.name}((", whole, count=1),
        "missing": head.sub(rf"\1 {entry.name}_of_mine", whole, count=1),
        "none": _with_body(entry, whole, "return None"),
    }
    if not exercise.starter:
        texts["not attempted"] = whole
    if isinstance(node, ast.FunctionDef) and node.args.args:
        texts["input"] = _with_body(entry, whole, f"return {node.args.args[0].arg}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / f"{entry.folder}.py"
        for wanted, text in texts.items():
            path.write_text(text, "utf-8")
            outcome = _check(entry, exercise, path)
            accepted = {"none": NOTHING, "input": ("input", "shape", "type", "wrong")}
            if outcome.verdict not in accepted.get(wanted, (wanted,)):
                says = f"{outcome.verdict}, {outcome.says}"
                score.problems.append(f"a file that is `{wanted}` is told as {says}")


def _with_body(entry: Entry, whole: str, line: str) -> str:
    """The chapter's file with one exercise's bodies replaced; `__init__` is the solution's."""
    tree = ast.parse(whole)
    node = stub.definition(tree, entry.name)
    _, _, right = stub.solution(entry)
    made = [n for n in right.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    for each in ast.walk(node or tree):
        if isinstance(each, ast.FunctionDef):
            if each.name == "__init__":
                each.body = made[0].body
            elif each.name not in entry.words.get("keep", ()):
                each.body = ast.parse(line).body
    return ast.unparse(tree)


def _check(entry: Entry, exercise: Exercise, path: Path) -> Outcome:
    found = source.read(entry, path)
    if isinstance(found, Outcome):
        return found
    outcome = Outcome(entry.id, entry.name, file=str(path))
    module = swap.load(path, found.text, f"gate_{entry.name}")
    others = [each for each in entries(entry.number) if each != entry]
    swap.complete(module, found.tree, others, found.uses)
    return judge(exercise, getattr(module, entry.name), outcome)


def _mutants(entry: Entry, exercise: Exercise, mistakes: Mistakes, score: Score) -> None:
    module, _, node = stub.solution(entry)
    used = set()
    right = [mistakes.run(frozenset(), i) for i in range(len(exercise.probes))]
    solution = stub.solution_text(entry)
    given = _given(solution, entry.words.get("keep", ()))
    for count, (says, line, text) in enumerate(mutants(solution)):
        if line in given:
            continue
        score.mutants += 1
        name = f"mutant {count} of {entry.name}"  # not "<...>": no file's class is from there
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        space = dict(vars(import_module(module)))
        outcome = Outcome(entry.id, entry.name, file=name)
        try:
            with _at_most(5):
                exec(compile(text, name, "exec"), space)
                judge(exercise, space[node.name], outcome, mistakes, right)
        except Exception as error:  # it can't even be defined
            outcome.verdict, outcome.says = "load", [str(error)]
        except TimeoutError:
            outcome.verdict = "time"
        finally:
            del linecache.cache[name]
        key = says.split(": ", 1)[1]
        if outcome.verdict != "right":
            score.mutants_caught += 1
            score.mutants_named += bool(outcome.knobs)
            score.mutants_pointed += bool(outcome.knobs or outcome.where)
        elif key in exercise.survivors:
            score.survivors += 1
            used.add(key)
        else:
            score.problems.append(f"the mutant {key!r} (line {line}) passes")
    for key in set(exercise.survivors) - used:
        score.problems.append(f"survivor {key!r} is not needed")


def _given(solution: str, keep: Sequence[str]) -> set[int]:
    """The lines of the methods that a stub has whole: nobody gets them wrong."""
    return {
        line
        for node in ast.walk(ast.parse(solution))
        if isinstance(node, ast.FunctionDef) and node.name in keep
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(scores: list[Score]) -> str:
    """The figures as Markdown, for the README."""
    rows = [
        "| exercise | mistakes named | pairs named (+ among three, + declared) | other right ways"
        " | generic mutants caught (named or pointed at) |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {s.id} `{s.name}` | {s.knobs_named} of {s.knobs} | {s.pairs_named} of {s.pairs}"
        f" (+ {s.pairs_among_three}, + {s.pairs_declared}) | {s.alternatives}"
        f" | {s.mutants_caught} of {s.mutants - s.survivors} ({s.mutants_pointed}) |"
        for s in scores
    ]
    return "\n".join(rows) + "\n"


def put_into(readme: Path, text: str) -> None:
    """Replace what stands between the two marks of a Markdown file."""
    before, mark, rest = readme.read_text("utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise ValueError(f"{readme} lacks {' and '.join(MARKS)}. Put them where the table belongs.")
    readme.write_text(f"{before}{mark}\n{text}{end}{after}", "utf-8")


def main(arguments: list[str], write: Callable[[str], Any] = sys.stdout.write) -> int:
    """Print the problems and the table of the exercises named, or of all.

    `--readme README.md` as the first two puts the table of all into that file as well.
    """
    readme = None
    if arguments[:1] == ["--readme"]:
        readme, arguments = Path(arguments[1]), []
    scores = [gate(entry) for key in arguments or ["all"] for entry in select(key)]
    for score in scores:
        write("".join(f"{score.id} {score.name}: {problem}\n" for problem in score.problems))
    write(table(scores))
    if readme is not None:
        put_into(readme, table(scores))
    return int(any(score.problems for score in scores))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
