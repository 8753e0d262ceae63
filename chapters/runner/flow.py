"""Which line went wrong, where torch sees none of it: numbers in arrays, lists and plain names.

Each change of a name is followed back through the names that its statement reads, to the lines that
read only right numbers and made wrong ones. Only explains; it never judges.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from chapters.runner.trace import Known
from chapters.runner.values import Change

HEADERS = ("target", "iter", "test", "items", "subject")  # of a `for`, `if`, `with`: not its body


def first_cause(changes: Sequence[Change], tree: ast.Module, known: Known) -> Change | None:
    """The change behind the last one that made wrong numbers of right ones, if it is seen."""
    if not changes:
        return None
    reads = names_by_line(tree)
    behind = _sources(changes, reads)
    given = [c.frame == changes[-1].frame and c.line not in reads for c in changes]
    varies: list[bool] = []  # with the numbers that came in: the others are constants
    for i, change in enumerate(changes):
        # A helper's parameter may be what a comprehension counts through, which is seen too late.
        came = isinstance(change.value, list) if given[i] else change.line not in reads
        varies.append(came or any(varies[j] for j in behind[i]))

    @cache
    def wrong(i: int) -> bool:
        made = varies[i] and changes[i].line in reads
        tensor = numbers(changes[i].value) if made else None
        return tensor is not None and not known.has(tensor)

    waiting, seen, found = [len(changes) - 1], set(), []
    while waiting:
        i = waiting.pop()
        if i in seen or not wrong(i):
            continue
        seen.add(i)
        waiting += behind[i]
        if not any(wrong(j) for j in behind[i]):
            found.append(i)
    return changes[min(found)] if found else None


def numbers(value: Any) -> Tensor | None:
    """Floats, one or nested in lists, as a tensor; None for anything else."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    flat = list(_flat(value))
    if not flat or not any(isinstance(each, float) for each in flat) or None in flat:
        return None
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError):  # rows of unequal length
        return torch.tensor(flat, dtype=torch.float64)


def _flat(value: Any) -> Iterator[float | None]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield value if isinstance(value, int | float) else None


def _sources(changes: Sequence[Change], reads: dict[int, set[str]]) -> list[list[int]]:
    """For each change the earlier ones that it was made of.

    Those are the names that its statement reads, and what the helpers that it calls returned; of a
    helper's parameter, what had this value before.
    """
    found: list[list[int]] = []
    latest: dict[tuple[int, str], int] = {}  # of a call's name
    begun: dict[int, tuple[int, int]] = {}  # of a call: the line that it is at, and since when
    anywhere: dict[str, int] = {}  # of a name in any call, as a comprehension is one
    newest: dict[int, int] = {}
    returns: list[int] = []
    for i, change in enumerate(changes):
        frame, names = change.frame, reads.get(change.line)
        if begun.get(frame, (0, 0))[0] != change.line:
            begun[frame] = change.line, newest.get(frame, -1)
        known = [latest.get((frame, name), anywhere.get(name)) for name in names or ()]
        mine = [j for j in known if j is not None]
        mine += [j for j in returns[-20:] if j > begun[frame][1] and changes[j].frame != frame]
        if names is None and change.name:
            near = range(i - 1, max(i - 100, -1), -1)
            mine += [j for j in near if _equal(changes[j].value, change.value)][:1]
        found.append(mine)
        latest[frame, change.name] = anywhere[change.name] = newest[frame] = i
        if not change.name:
            returns.append(i)
    return found


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, float | list) and a == b


def names_by_line(tree: ast.Module) -> dict[int, set[str]]:
    """For each line of a file the names that its statement reads."""
    found: dict[int, set[str]] = {}
    for node in ast.walk(tree):  # from the outside to the inside
        if not isinstance(node, ast.stmt) or isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        parts = [node]
        if hasattr(node, "body"):
            parts = [getattr(node, name) for name in HEADERS if hasattr(node, name)]
        for part in parts:
            for each in part if isinstance(part, list) else [part]:
                names = {n.id for n in ast.walk(each) if isinstance(n, ast.Name)}
                last = getattr(each, "end_lineno", None) or node.lineno
                for line in range(node.lineno, last + 1):
                    found[line] = names
    return found


def last_given(tree: ast.Module, name: str, before: int) -> int:
    """The last line above `before` that gives a name its value, in the same function; or 0."""
    within: ast.AST = tree
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.lineno < before <= (node.end_lineno or 0):
            within = node
    mine = [n for n in ast.walk(within) if isinstance(n, ast.Name) and n.id == name]
    lines = [n.lineno for n in mine if isinstance(n.ctx, ast.Store) and n.lineno < before]
    return max(lines, default=0)
