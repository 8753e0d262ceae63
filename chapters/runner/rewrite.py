"""Learner's source beside the solution's, and one function put back to its stub."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

from chapters.runner import source, stub
from chapters.runner.catalog import Entry, entries
from chapters.runner.outcome import Outcome
from chapters.runner.workspace import Workspace, write


def alternatives(entry: Entry) -> list[str]:
    """The source of each other right way that stands in the exercise's file."""
    text, tree = stub.read(entry.module)
    names = [
        node.id
        for call in ast.walk(tree)
        if isinstance(call, ast.keyword) and call.arg == "alternatives"
        for node in ast.walk(call.value)
        if isinstance(node, ast.Name)
    ]
    found = [stub.definition(tree, name) for name in names]
    return [stub.text_of(text, node) for node in found if node is not None]


def difference(workspace: Workspace, entry: Entry) -> list[str]:
    """Solution (-) against learner (+)."""
    mine = source.read(entry, workspace.file(entry.number))
    if isinstance(mine, Outcome):
        raise ValueError(f"{entry.id}: {' '.join(mine.says)}")
    _, _, right = stub.solution(entry)
    return _lines(_plain(right, right), _plain(mine.node, right), "solution", "yours")


def upstream(workspace: Workspace, entry: Entry) -> list[str]:
    """The stub that `start` wrote (-) against today's (+)."""
    first = workspace.stub(entry.number)
    if first is None:
        raise FileNotFoundError(
            f"Chapter {entry.number} was not started here."
            f" Run: python -m chapters start {entry.number}"
        )
    node = stub.definition(ast.parse(first), entry.name)
    old = stub.text_of(first, node) if node else ""
    return _lines(old, stub.stub_text(entry), "stub then", "stub now")


def _lines(old: str, new: str, old_name: str, new_name: str) -> list[str]:
    before, after = old.splitlines(), new.splitlines()
    return list(difflib.unified_diff(before, after, old_name, new_name, lineterm="", n=9))


def _plain(node: ast.AST, like: ast.AST) -> str:
    """Without docstrings and comments, the parameters called as in `like`."""
    bare = stub.bare(node)
    if isinstance(bare, ast.FunctionDef) and isinstance(like, ast.FunctionDef):
        mine, theirs = bare.args.args, like.args.args
        names = {a.arg: b.arg for a, b in zip(mine, theirs, strict=False)}
        for each in ast.walk(bare):
            if isinstance(each, ast.arg):
                each.arg = names.get(each.arg, each.arg)
                each.annotation = None
            elif isinstance(each, ast.Name):
                each.id = names.get(each.id, each.id)
        bare.returns = None
        bare.name = like.name
    return ast.unparse(bare)


def reset(workspace: Workspace, entry: Entry) -> Path:
    """Put one definition back to its stub; returns where the file as it was is kept."""
    path = workspace.file(entry.number)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}. Run: python -m chapters start {entry.number}")
    try:
        text = source.text_of(path)
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        says = f", line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else ""
        raise ValueError(
            f"{path.name}{says or ' is no Python text'}, so the function can't be found."
            f" Mend it, or give --chapter."
        ) from None
    kept = workspace.discard(path, text)
    node = stub.definition(tree, entry.name)
    lines = text.rstrip("\n").split("\n")  # as Python counts them
    if node is None:
        lines += ["", "", f"# {entry.id}", *stub.stub_text(entry).splitlines()]
    else:
        first = min(each.lineno for each in [node, *node.decorator_list])
        lines[first - 1 : node.end_lineno] = stub.stub_text(entry).splitlines()
    write(path, "\n".join(lines) + "\n")
    workspace.update(entry, result="not attempted", source="", diagnosis=[])
    return kept


def function_text(entry: Entry, path: Path) -> str:
    """A learner's definition with its helpers, as it stands in the file."""
    found = source.read(entry, path)
    if isinstance(found, Outcome):
        return "\n".join(found.says)
    others = {each.name for each in entries(entry.number)}
    nodes = stub.closure(found.tree, entry.name, others)
    return "\n\n".join(stub.text_of(found.text, node) for node in nodes)
