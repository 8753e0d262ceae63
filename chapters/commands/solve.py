"""`hint`, `solution`, `diff`, `reset`: help with one exercise, as much as is asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from chapters.runner import rewrite, stub
from chapters.runner.catalog import Entry, find, select
from chapters.runner.progress import standing
from chapters.runner.terminal import say, say_json
from chapters.runner.workspace import Workspace

Id = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


@dataclass(frozen=True)
class Hint:
    """A hint: first what the last check has to say, then a question, the idea, pseudocode."""

    id: Id
    """An exercise, by id or name."""
    level: Annotated[int | None, tyro.conf.Positional, tyro.conf.arg(metavar="1|2|3")] = None
    """1 a question, 2 the idea with shapes, 3 pseudocode; without: the next one."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        entry, workspace = find(self.id), Workspace.find()
        words, record = entry.words, workspace.record(entry)
        if self.level is not None and self.level not in (1, 2, 3):
            raise ValueError(f"There is no hint {self.level}. Ask for 1, 2 or 3.")
        level = self.level or min(record["hints"] + 1, 3)
        known = [name for name in record["diagnosis"] if name in words["knobs"]]
        told = words["knobs"][known[0]].hint if known else ""
        says = words["hints"][level - 1]
        workspace.update(entry, hints=max(record["hints"], level))
        if self.json:
            say_json({"id": entry.id, "level": level, "hint": says, "diagnosis": told})
            return 0
        if told:
            say(f"to your last check   {told}\n")
        kind = ("a question", "the idea", "in words")[level - 1]
        say(f"{entry.id} {entry.name}, hint {level} of 3: {kind}\n", "bold")
        say(says)
        if level < 3:
            say(f"\nmore: python -m chapters hint {entry.id} {level + 1}")
        return 0


@dataclass(frozen=True)
class Solution:
    """The package's own way. It is marked as seen, unless you have passed."""

    id: Id
    """An exercise, by id or name."""
    alt: bool = False
    """Show other right ways too."""
    yes: bool = False
    """Don't ask."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        entry, workspace = find(self.id), Workspace.find()
        record = workspace.record(entry)
        if record["result"] != "right" and not record["solution_seen"] and not self.yes:
            if not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise ValueError(f"{entry.id} doesn't pass yet. To see the solution, give --yes.")
            say(f"{entry.id} doesn't pass yet. See the solution? [y/N] ", end="")
            sys.stdout.flush()
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                return 0
        seen = record["solution_seen"] or record["result"] != "right"
        workspace.update(entry, solution_seen=seen)
        module, _, node = stub.solution(entry)
        place = f"{stub.module_path(module)}:{node.lineno}"
        others = rewrite.alternatives(entry) if self.alt else []
        if self.json:
            text = stub.solution_text(entry)
            say_json({"id": entry.id, "place": place, "solution": text, "others": others})
            return 0
        say(f"# {place}", "dim")
        for text in (stub.solution_text(entry), *others):
            say(text)
            say()
        return 0


@dataclass(frozen=True)
class Diff:
    """Your function beside the solution, docstrings, comments and layout apart."""

    id: Id
    """An exercise that you passed, or whose solution you have seen."""
    upstream: bool = False
    """Instead: what has changed in the stub since you started."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        entry, workspace = find(self.id), Workspace.find()
        record = workspace.record(entry)
        if self.upstream:
            lines = rewrite.upstream(workspace, entry)
        elif record["result"] == "right" or record["solution_seen"]:
            lines = rewrite.difference(workspace, entry)
        else:
            raise ValueError(
                f"diff would show the solution of {entry.id}, which doesn't pass yet."
                f" To see it first: python -m chapters solution {entry.id}"
            )
        if self.json:
            say_json({"id": entry.id, "diff": lines})
            return 0
        for line in lines or ["no difference"]:
            say(line, {"+": "green", "-": "red"}.get(line[:1], ""))
        return 0


@dataclass(frozen=True)
class Reset:
    """One function back to its stub; the file as it was goes to the workspace's trash."""

    id: Id
    """An exercise; with --chapter, a chapter."""
    chapter: bool = False
    """The whole file of the chapter."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.find()
        if self.chapter:
            chosen: tuple[Entry, ...] = select(self.id)
            kept = workspace.reset(chosen[0].number)
        else:
            chosen = (find(self.id),)
            kept = rewrite.reset(workspace, chosen[0])
        path = workspace.file(chosen[0].number)
        if self.json:
            say_json({"file": str(path), "kept": str(kept)})
            return 0
        what = "the chapter" if self.chapter else f"{chosen[0].id} {chosen[0].name}"
        say(f"{what} is a stub again in {path}\nas it was: {kept}")
        say(f"{chosen[0].id}: {standing(workspace, chosen[0])['standing']}")
        return 0
