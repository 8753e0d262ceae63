"""The learner's file before it runs: is it there, can it be read, has it the name, is it a stub?

All this needs no torch, so these answers come at once.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from chapters.runner import stub
from chapters.runner.catalog import Entry, entries
from chapters.runner.outcome import Outcome

OURS = ("weights", "gpt2_scratch", "connector", "captioning", "chapters")
THEIRS = ("torch", "numpy", "regex", "tiktoken", "safetensors")


@dataclass(frozen=True)
class Source:
    """One exercise in the learner's file: the text, the definition, its line and fingerprint."""

    path: Path
    text: str
    tree: ast.Module
    node: ast.stmt
    hash: str
    uses: frozenset[str]  # every name that it and its helpers read

    @property
    def line(self) -> int:
        return self.node.lineno


def text_of(path: Path) -> str:
    """A learner's file; editors on Windows put a mark before the first character."""
    return path.read_text("utf-8-sig")


def read(entry: Entry, path: Path) -> Source | Outcome:
    """The learner's definition, or why there is nothing to run."""
    outcome = Outcome(entry.id, entry.name, file=str(path))

    def stop(verdict: str, *says: str, think: str = "", line: int = 0) -> Outcome:
        outcome.verdict, outcome.says, outcome.think, outcome.line = verdict, [*says], think, line
        if verdict == "foreign":
            outcome.where = [f"line {line}, `{text.split(chr(10))[line - 1].strip()}`"]
        return outcome

    if not path.is_file():
        start = f"python -m chapters start {entry.number}"
        return stop("absent", f"There is no {path}. Run: {start}")
    try:
        text = text_of(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash, say; shown when the file is run
            tree = ast.parse(text, str(path))
            compile(tree, str(path), "exec")  # finds a little more, such as a lonely `return`
    except SyntaxError as error:
        line = error.lineno or 0
        says = [f"line {line}: {error.msg}"]
        if error.text is not None:
            shown = error.text.rstrip("\n")
            caret = " " * max((error.offset or 1) - 1, 0) + "^"
            says += [f"    {shown}", f"    {caret}"]
        return stop("syntax", *says, line=line)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        said = f"line {line}: {path.name} is not UTF-8; save it in that encoding"
        return stop("syntax", said, line=line)
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, deep nesting
        return stop("syntax", f"{path.name} can't be read as Python: {error}")
    if not any(not _is_docstring(node) for node in tree.body):
        return stop(
            "empty",
            f"{path.name} holds no code, wanted `{entry.name}`."
            f" A fresh one: python -m chapters start {entry.number} --again",
        )
    bound = {name: node for node in tree.body for name in _names(node)}
    if entry.name not in bound:
        close = difflib.get_close_matches(entry.name, bound, n=1, cutoff=0.6)
        has = f"; it has `{close[0]}`" if close else ""
        return stop("missing", f"{path.name} has no `{entry.name}`{has}.")
    for name in sorted(_imported(tree)):
        if name in (*OURS, *THEIRS, *sys.stdlib_module_names):
            for shadow in (path.parent / f"{name}.py", path.parent / name):
                if shadow.exists() and shadow != path:
                    return stop(
                        "shadow",
                        f"{path.name} imports `{name}`, and beside it lies {shadow.name}: two"
                        f" things of one name. Rename {shadow.name}.",
                    )
    if "chapters" in (imported := _imported(tree)):
        return stop(
            "foreign",
            f"{path.name} imports `chapters`: that is the course itself, which has the answers.",
            line=imported["chapters"],
        )
    node = bound[entry.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        said = ast.unparse(node)
        return stop(
            "foreign",
            f"`{entry.name}` is imported (`{said}`); it is what you are to write.",
            line=node.lineno,
        )
    others = {each.name for each in entries(entry.number)}
    nodes = stub.closure(tree, entry.name, others)
    if isinstance(node, stub.Definition) and stub.is_stub(node, entry):
        return stop(
            "not attempted",
            f"`{entry.name}` is still the stub.",
            think=entry.words["hints"][0],
            line=node.lineno,
        )
    names = frozenset(stub.names_in(nodes))
    return Source(path, text, tree, node, stub.fingerprint(nodes), names)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr | ast.Pass) and not (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    )


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return stub.bound(node)


def _imported(tree: ast.Module) -> dict[str, int]:
    """Each package that is imported anywhere, and the line."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name.split(".")[0], node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.setdefault(node.module.split(".")[0], node.lineno)
    return found


def signature_problem(answer: object, name: str, count: int) -> str | None:
    """What is wrong with the parameters of an answer that is called with `count` arguments."""
    try:
        signature = inspect.signature(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(count))
    except TypeError:
        return f"`{name}{signature}` can't take the {count} arguments that it is called with."
    return None
