"""A chapter's text: its opening, its blocks of code and what they must print, a notebook of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.runner.catalog import HERE, folders
from chapters.runner.stub import chapter_text
from chapters.runner.workspace import Workspace, write

FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of Python, what must be printed (None: whatever), and what it needs to run."""

    line: int
    code: str
    prints: str | None
    needs: str = ""  # "", "vocabulary" or "gpt2"


def text_of(number: int) -> str:
    """The Markdown of one chapter."""
    return (HERE / folders()[number] / "text.md").read_text("utf-8")


def opening(number: int) -> str:
    """The heading and the first paragraph."""
    parts = [part.strip() for part in text_of(number).split("\n\n") if part.strip()]
    return "\n".join(parts[:2])


def blocks(text: str) -> list[Block]:
    """The Python of a text, each with the `text` block that directly follows it."""
    found = list(FENCE.finditer(text))
    made = []
    for i, fence in enumerate(found):
        if fence[1] != "python":
            continue
        after = found[i + 1] if i + 1 < len(found) else None
        shown = (
            after[3]
            if after and after[1] == "text" and not text[fence.end() : after.start()].strip()
            else None
        )
        needs = re.fullmatch(r"needs=(vocabulary|gpt2)", fence[2].strip())
        if fence[2].strip() and not needs:
            raise ValueError(f"```python {fence[2]}: wanted nothing or needs=vocabulary|gpt2.")
        line = text.count("\n", 0, fence.start()) + 1
        made.append(Block(line, fence[3], shown, needs[1] if needs else ""))
    return made


def prose(text: str) -> str:
    """The text without its blocks, as a reader's words are counted."""
    return FENCE.sub("", text)


def notebook_of(workspace: Workspace, number: int) -> Path:
    """An .ipynb of text and stubs, written into the workspace."""
    text, cells, at = text_of(number), [], 0
    for fence in FENCE.finditer(text):
        if fence[1] == "python":
            cells.append(_cell("markdown", text[at : fence.start()]))
            cells.append(_cell("code", fence[3]))
            at = fence.end()
    cells += [_cell("markdown", text[at:]), _cell("code", chapter_text(number))]
    book = {
        "cells": [cell for cell in cells if cell["source"]],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    for i, cell in enumerate(book["cells"]):  # type: ignore[arg-type, var-annotated]
        cell["id"] = f"cell-{i}"
    path = workspace.home / f"{folders()[number]}.ipynb"
    if path.exists():
        workspace.discard(path)
    write(path, json.dumps(book, indent=1, ensure_ascii=False) + "\n")
    return path


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.strip("\n").splitlines(keepends=True)}
