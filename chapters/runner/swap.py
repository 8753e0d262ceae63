"""Whose pieces an answer is built on: the learner's where they pass, the package's where not.

Rebinding names for the length of a `with`: no import hooks, nothing that outlives it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from chapters.runner.catalog import Entry, find
from chapters.runner.source import OURS, text_of
from weights.planting import rebound


class PackageUsedError(Exception):
    """The learner's code asked the package for the very thing it is to write."""


def solution(entry: Entry) -> Any:
    """The package's own object for an exercise."""
    module, _, name = entry.words["target"].partition(":")
    return getattr(import_module(module), name)


@contextmanager
def placed(entry: Entry, value: Any) -> Iterator[None]:
    """`value` stands wherever the package has its own, in each module that imported it too."""
    name, right = entry.words["target"].partition(":")[2], solution(entry)
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            ours = getattr(module, "__name__", "").partition(".")[0] in OURS
            if ours and vars(module).get(name) is right:
                stack.enter_context(rebound(module, name, value))
        yield


@contextmanager
def forbidden(entry: Entry) -> Iterator[None]:
    """The package doesn't give away the solution: not itself, and not a class made of it."""
    right: Any = solution(entry)
    says = f"`{entry.name}` is what this exercise asks for, and the package's own was used"

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PackageUsedError(says)

    if not isinstance(right, type):
        with placed(entry, refuse):
            yield
        return
    init = right.__init__  # type: ignore[misc]

    def begin(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is not right:
            refuse()
        init(self, *args, **kwargs)

    inert = {"__new__": refuse, "__init_subclass__": classmethod(refuse)}
    with placed(entry, type(entry.name, (), inert)), rebound(right, "__init__", begin):
        yield


def load(path: Path, text: str, name: str) -> ModuleType:
    """Run a learner's file as the module `name`; it may raise anything."""
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


@contextmanager
def learners(
    passed: list[tuple[Entry, Path]],
) -> Iterator[dict[str, Any]]:
    """The learner's passed pieces by name, and a context with them in the package's places.

    What can't be loaded is left out, and so borrowed after all.
    """
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        modules: dict[Path, ModuleType | None] = {}
        for entry, path in passed:
            if path not in modules:
                try:
                    modules[path] = load(path, text_of(path), path.stem)
                except BaseException:  # it may raise anything, also what ends a program
                    modules[path] = None
            value = getattr(modules[path], entry.name, None)
            if value is not None:
                found[entry.name] = value
                stack.enter_context(placed(entry, value))
        yield found


@contextmanager
def pieces(request: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """`piece("gelu")`: the learner's own where it passes, the package's where not.

    `request` has home and passed, {id: file}. Inside, the package uses the learner's pieces too.
    """
    sys.path.append(request["home"])  # last: a learner's helper never hides one of ours
    passed = [(find(key), Path(file)) for key, file in request["passed"].items()]
    with learners(passed) as found:
        yield lambda name: found[name] if name in found else solution(find(name))


def complete(
    module: ModuleType, tree: ast.Module, unpassed: list[Entry], used: frozenset[str]
) -> list[str]:
    """Give a learner's file the package's own for the exercises in it that don't pass yet."""
    names = []
    for entry in unpassed:
        if hasattr(module, entry.name) and entry.name in used:
            setattr(module, entry.name, solution(entry))
            names.append(entry.name)
    return names
