"""How a learner stands with each exercise, from what is remembered and what is in the files now."""

from __future__ import annotations

import ast
from typing import Any

from chapters.runner import source, stub
from chapters.runner.catalog import Entry
from chapters.runner.outcome import TITLES, Outcome
from chapters.runner.workspace import FRESH, Workspace


def standing(workspace: Workspace | None, entry: Entry) -> dict[str, Any]:
    """Everything known about one exercise; `standing` is it in a few words."""
    record = workspace.record(entry) if workspace else dict(FRESH)
    known = {"id": entry.id, "name": entry.name, "chapter": entry.number}
    return known | {"standing": _words(workspace, entry, record)} | record


def _words(workspace: Workspace | None, entry: Entry, record: dict[str, Any]) -> str:
    if workspace is None or not workspace.file(entry.number).is_file():
        return "not begun"
    changed = ", changed upstream" if _changed(workspace, entry) else ""
    return _now(workspace, entry, record) + changed


def _changed(workspace: Workspace, entry: Entry) -> bool:
    """Whether the stub is another now than when the chapter was started."""
    first = workspace.stub(entry.number)
    if first is None:
        return False
    node = stub.definition(ast.parse(first), entry.name)
    return node is None or stub.normal(node) != stub.normal(
        ast.parse(stub.stub_text(entry)).body[0]
    )


def _now(workspace: Workspace, entry: Entry, record: dict[str, Any]) -> str:
    found = source.read(entry, workspace.file(entry.number))
    if isinstance(found, Outcome):
        return (
            "begun"
            if found.verdict == "not attempted"
            else TITLES.get(found.verdict, found.verdict)
        )
    if record["result"] == "right":
        seen = ", solution seen" if record["solution_seen"] else ""
        same = found.hash == record["source"]
        return f"passed{seen}" if same else f"passed, edited since{seen}"
    tried = record["result"] not in ("not begun", "not attempted")
    return TITLES.get(record["result"], record["result"]) if tried else "written, not checked"
