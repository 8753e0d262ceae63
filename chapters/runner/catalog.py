"""Which chapters and exercises there are, found without running any exercise's file.

A chapter's `__init__.py` lists its exercises; an exercise's words are read from its source by
`ast`, so that `list`, `hint` and `start` never import torch.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from chapters.runner.exercise import Chapter, Diagnosis, Exercise, Spot

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Entry:
    """An exercise's place: everything about it that needs no torch."""

    number: int  # of its chapter
    index: int  # within the chapter, from 1
    name: str
    folder: str  # of its chapter, such as ch04_one_head: also the name of the learner's file

    @property
    def id(self) -> str:
        return f"{self.number}.{self.index}"

    @property
    def module(self) -> str:
        return f"chapters.{self.folder}.exercises.{self.name}"

    @property
    def path(self) -> Path:
        return HERE / self.folder / "exercises" / f"{self.name}.py"

    @property
    def words(self) -> dict[str, Any]:
        """The literal arguments of the file's `EXERCISE = Exercise(...)`."""
        return words(self.path)

    def load(self) -> Exercise:
        """The exercise itself, torch and all."""
        exercise: Exercise = import_module(self.module).EXERCISE
        return exercise


@cache
def folders() -> dict[int, str]:
    """{4: "ch04_one_head"}: a chapter is a folder `chNN_name` with a text."""
    found = sorted(path.parent.name for path in HERE.glob("ch[0-9][0-9]_*/text.md"))
    return {int(name[2:4]): name for name in found}


@cache
def chapter(number: int) -> Chapter:
    if number not in folders():
        known = ", ".join(map(str, folders()))
        raise ValueError(f"There is no chapter {number}. There are: {known}.")
    found: Chapter = import_module(f"chapters.{folders()[number]}").CHAPTER
    return found


@cache
def entries(number: int | None = None) -> tuple[Entry, ...]:
    """The exercises of one chapter, or of all, in order."""
    if number is None:
        return tuple(entry for each in folders() for entry in entries(each))
    return tuple(
        Entry(number, index, name, folders()[number])
        for index, name in enumerate(chapter(number).exercises, 1)
    )


def find(key: str) -> Entry:
    """By id, "4.4", or by name, "explicit_attention"."""
    for entry in entries():
        if key in (entry.id, entry.name):
            return entry
    raise ValueError(f"There is no exercise {key!r}. See: python -m chapters list")


def select(key: str) -> tuple[Entry, ...]:
    """The exercises meant by "4.4", "explicit_attention", "4" or "all"."""
    if key == "all":
        return entries()
    if key.isdecimal():
        chapter(int(key))
        return entries(int(key))
    return (find(key),)


def needed(entry: Entry) -> tuple[Entry, ...]:
    """The exercises that this one builds on, and theirs, earliest first."""
    found: dict[Entry, None] = {}

    def visit(each: Entry) -> None:
        for name in each.words.get("needs", ()):
            visit(find(name))
            found[find(name)] = None

    visit(entry)
    return tuple(sorted(found, key=entries().index))


@cache
def words(path: Path, name: str = "EXERCISE") -> dict[str, Any]:
    """The literal arguments of the call that a file binds to `name`."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id == name:
                read = {k.arg: _literal(k.value) for k in node.value.keywords if k.arg}
                return {name: value for name, value in read.items() if value is not _CODE}
    raise ValueError(f"{path} has no {name} = {name.capitalize()}(...).")


_CODE = object()  # what can't be known without running the file
_RECORDS = {"Diagnosis": Diagnosis, "Spot": Spot}


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        items = [_literal(item) for item in node.elts]
        return _CODE if _CODE in items else tuple(items)
    if isinstance(node, ast.Dict) and None in node.keys:  # {**others}
        return _CODE
    if isinstance(node, ast.Dict):
        pairs = {_literal(k): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k}
        return _CODE if _CODE in [*pairs, *pairs.values()] else pairs
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _RECORDS:
        given = [_literal(argument) for argument in node.args]
        named = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
        if _CODE in [*given, *named.values()]:
            return _CODE
        return _RECORDS[node.func.id](*given, **named)
    return _CODE
