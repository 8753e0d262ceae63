"""A stub is derived from the solution's source each time: the package is the only solution.

Signature and docstring stay, the body goes, and of the module's imports those that it needs come
along. Also what it takes to compare two sources: without docstrings, comments and layout.
"""

from __future__ import annotations

import ast
import hashlib
import io
import textwrap
import tokenize
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

from chapters.runner.catalog import HERE, Entry, chapter, entries

Definition = ast.FunctionDef | ast.ClassDef
EMPTY = "raise NotImplementedError"


@cache
def module_path(module: str) -> Path:
    """The file of one of our modules, found without importing it."""
    path = HERE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def read(module: str) -> tuple[str, ast.Module]:
    text = module_path(module).read_text("utf-8")
    return text, ast.parse(text)


def definition(tree: ast.Module, name: str) -> Definition | None:
    """The last top-level function or class of this name, which is the one that counts."""
    found = [n for n in tree.body if isinstance(n, Definition) and n.name == name]
    return found[-1] if found else None


def solution(entry: Entry) -> tuple[str, str, Definition]:
    """(module, source of the module, the definition) of an exercise's solution."""
    module, _, name = entry.words["target"].partition(":")
    text, tree = read(module)
    found = definition(tree, name)
    if found is None:
        raise LookupError(f"{module} has no `{name}`, which {entry.id} names as its solution.")
    return module, text, found


def solution_text(entry: Entry) -> str:
    """The solution as it stands in its file, comments and all."""
    _, text, node = solution(entry)
    return text_of(text, node)


def text_of(text: str, node: ast.stmt) -> str:
    """A statement as it stands in `text`, decorators and all."""
    return _lines(text, _first(node), node.end_lineno or node.lineno)


def stub_text(entry: Entry) -> str:
    """What the learner's file begins with, for one exercise."""
    _, text, node = solution(entry)
    starter = entry.words.get("starter")
    if starter:
        text, tree = read(entry.module)
        found = definition(tree, starter)
        assert found is not None, f"{entry.module} has no {starter}"
        return _lines(text, found.lineno, found.end_lineno or 0).replace(starter, entry.name, 1)
    if isinstance(node, ast.FunctionDef):
        return _emptied(text, node)
    keep = entry.words.get("keep", ())
    parts = [_head(text, node)]
    for child in node.body[1 if ast.get_docstring(node) is not None else 0 :]:
        if isinstance(child, ast.FunctionDef) and child.name not in keep:
            parts.append(_emptied(text, child))
        else:
            parts.append(_lines(text, _first(child), child.end_lineno or 0))
    return "\n\n".join(parts)


def chapter_text(number: int) -> str:
    """The file that `start` writes: every stub of the chapter, and the imports they need."""
    mine = entries(number)
    needed: dict[str, None] = {}
    for entry in mine:
        module, _, node = solution(entry)
        for line in imports(module, [node], {each.name for each in mine}):
            needed[line] = None
    stubs = [stub_text(entry) for entry in mine]
    head = (
        f"# Chapter {number}: {chapter(number).title}. The text: python -m chapters read {number}"
    )
    order = sorted(
        _together(needed), key=lambda line: (_floor(line), line.replace("from ", "import "), line)
    )
    blocks = [
        "\n".join(line for line in order if _floor(line) == floor)
        for floor in sorted({_floor(line) for line in order})
    ]
    tidy = "\n\n".join(["from __future__ import annotations", *blocks])
    body = [f"# {each.id}\n{text}" for each, text in zip(mine, stubs, strict=True)]
    return "\n\n\n".join([f"{head}\n\n{tidy}", *body]) + "\n"


def _together(lines: Iterable[str]) -> list[str]:
    """`from a import b` and `from a import c` are one line."""
    names: dict[str, set[str]] = {}
    for line in lines:
        head, _, tail = line.partition(" import ")
        names.setdefault(head, set()).update(tail.split(", ") if tail else [])
    together = []
    for head, each in names.items():
        line = f"{head} import {', '.join(sorted(each))}" if each else head
        if len(line) > 100:
            line = f"{head} import (\n    " + ",\n    ".join(sorted(each)) + ",\n)"
        together.append(line)
    return together


def imports(module: str, nodes: Iterable[ast.AST], own: Collection[str]) -> list[str]:
    """Import lines for the names that `nodes` of `module` use and that are not `own`."""
    used = names_in(nodes)
    _, tree = read(module)
    lines = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            wanted = [
                a for a in node.names if (a.asname or a.name.split(".")[0]) in used - set(own)
            ]
            if wanted and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                lines.append(_only(node, wanted))
    inside = {name for node in tree.body for name in bound(node)}
    local = sorted((inside & used) - set(own))
    if local:
        lines.append(f"from {module} import {', '.join(local)}")
    return lines


def _only(node: ast.Import | ast.ImportFrom, names: list[ast.alias]) -> str:
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(names))
    return ast.unparse(ast.ImportFrom(node.module, names, node.level))


def names_in(nodes: Iterable[ast.AST]) -> set[str]:
    """Every name that is read anywhere in `nodes` and that they don't bind themselves."""
    return {name for top in nodes for name in _read_in(top, frozenset())}


def _read_in(node: ast.AST, local: frozenset[str]) -> Iterator[str]:
    """What is read below a node; a function's parameters and variables are its own."""
    if isinstance(node, ast.Name) and node.id not in local:
        yield node.id
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        body = node.body if isinstance(node.body, list) else [node.body]
        for child in ast.iter_child_nodes(node):  # decorators, defaults, annotations
            if child not in body:
                yield from _read_in(child, local)
        own = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        own |= {
            each.id
            for part in body
            for each in ast.walk(part)
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        for child in body:
            yield from _read_in(child, local | own)
        return
    for child in ast.iter_child_nodes(node):
        yield from _read_in(child, local)


def bound(node: ast.stmt) -> list[str]:
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def closure(tree: ast.Module, name: str, others: Collection[str] = ()) -> list[ast.stmt]:
    """The top-level statements that `name` rests on: its own and, through them, its helpers'.

    The `others` are exercises of their own and are left out.
    """
    places = {each: node for node in tree.body for each in bound(node)}
    found: dict[str, ast.stmt] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each in places and each not in found and (each == name or each not in others):
            found[each] = places[each]
            waiting += sorted(names_in([places[each]]))
    return [node for node in tree.body if node in found.values()]


class _Bare(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(node, Definition) and body and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def bare(node: ast.AST) -> ast.AST:
    """A copy without docstrings."""
    module = ast.parse(ast.unparse(node))
    _Bare().visit(module)
    return module if isinstance(node, ast.Module) else module.body[0]


def normal(node: ast.AST) -> str:
    """What two sources have in common when only docstrings, comments and layout differ."""
    return ast.dump(bare(node))


def fingerprint(nodes: Iterable[ast.AST]) -> str:
    """A short name for a source: it changes when what is computed may change."""
    return hashlib.sha256("\n".join(map(normal, nodes)).encode()).hexdigest()[:12]


def is_stub(node: ast.AST, entry: Entry) -> bool:
    """Whether this is still the stub; a starter, which is meant to be checked, never is."""
    if entry.words.get("starter"):
        return False
    return normal(node) == normal(ast.parse(stub_text(entry)).body[0])


def _floor(line: str) -> int:
    top = line.split()[1].split(".")[0]
    ours = ("weights", "gpt2_scratch", "connector", "captioning", "chapters")
    return 2 if top in ours else int(top in ("torch", "numpy", "regex", "tiktoken"))


def _first(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min(each.lineno for each in [node, *decorators])


def _lines(text: str, first: int, last: int) -> str:
    return "\n".join(text.split("\n")[first - 1 : last])  # a form feed ends no line for Python


def _head(text: str, node: Definition) -> str:
    """From the decorators to the end of the docstring, comments gone."""
    documented = ast.get_docstring(node) is not None
    begin = node.body[0]
    head = _lines(text, _first(node), begin.lineno - 1)
    if begin.lineno == node.lineno:  # def f(): return 1
        head = text.splitlines()[node.lineno - 1][: begin.col_offset].rstrip()
    head = _uncommented(head)
    return head + ("\n" + _lines(text, begin.lineno, begin.end_lineno or 0) if documented else "")


def _emptied(text: str, node: ast.FunctionDef) -> str:
    return f"{_head(text, node)}\n{' ' * (node.col_offset + 4)}{EMPTY}"


def _uncommented(code: str) -> str:
    lines = code.splitlines()
    whole = textwrap.dedent(code) + "\n    ..."
    shift = len(lines[0]) - len(lines[0].lstrip())
    for token in tokenize.generate_tokens(io.StringIO(whole).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][: column + shift].rstrip()
    return "\n".join(line for line in lines if line.strip())
