"""`list`, `progress`, `start`, `next`, `read`, `notebook`: what there is, and where to write."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from chapters.runner.catalog import chapter, entries, find, folders, select
from chapters.runner.progress import standing
from chapters.runner.terminal import columns, say, say_json
from chapters.runner.text import notebook_of, opening, text_of
from chapters.runner.workspace import Workspace

Number = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="N")]


@dataclass(frozen=True)
class List:
    """The chapters, their questions, their exercises, and how you stand."""

    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.seek()
        if self.json:
            say_json([standing(workspace, entry) for entry in entries()])
            return 0
        for number in folders():
            say(f"{number:>2}  {chapter(number).title}", "bold")
            say(f"    {chapter(number).question}")
            rows = [
                [f"    {each.id}", each.name, standing(workspace, each)["standing"]]
                for each in entries(number)
            ]
            for line in columns(rows):
                say(line)
        return 0


@dataclass(frozen=True)
class Progress:
    """How you stand with every exercise: tries, hints, mistakes that were named."""

    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.find()
        found = [standing(workspace, entry) for entry in entries()]
        if self.json:
            say_json(found)
            return 0
        rows = [["", "exercise", "standing", "tries", "hints", "mistakes named"]]
        for each in found:
            counts = [str(each["tries"] or "-"), str(each["hints"] or "-")]
            named = ", ".join(each["diagnoses"])
            rows.append([each["id"], each["name"], each["standing"], *counts, named])
        for line in columns(rows):
            say(line)
        passed = sum(each["standing"].startswith("passed") for each in found)
        say(f"\n{passed} of {len(found)} passed; what isn't is borrowed from the package")
        return 0


@dataclass(frozen=True)
class Start:
    """Write a chapter's stubs into the workspace, once: what is there is never overwritten."""

    chapter: Number
    """The chapter's number, or one of its exercises."""
    again: bool = False
    """Move your file to the workspace's trash and begin anew."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        number = select(self.chapter)[0].number
        path, written = Workspace.find().start(number, again=self.again)
        if self.json:
            say_json({"file": str(path), "written": written})
            return 0
        say(f"{path}   {'written' if written else 'is there already, untouched'}")
        say(f"\n{opening(number)}\n")
        first = entries(number)[0].id
        say(f"the text: python -m chapters read {number}    then: python -m chapters check {first}")
        return 0


@dataclass(frozen=True)
class Next:
    """The first exercise that doesn't pass yet."""

    edit: bool = False
    """Open it in $EDITOR."""
    skip: bool = False
    """Leave it out from now on, and go to the one after it."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.find()
        left = [
            entry
            for entry in entries()
            if standing(workspace, entry)["standing"].partition(",")[0] != "passed"
            and not workspace.record(entry).get("skipped")
        ]
        if self.skip and left:
            workspace.update(left[0], skipped=True)
            left = left[1:]
        if self.json:
            say_json({"id": left[0].id, "name": left[0].name} if left else None)
            return 0
        if not left:
            say("nothing is left: python -m chapters graduate")
            return 0
        entry = left[0]
        path, _ = workspace.start(entry.number)
        line = _line_of(path, entry.name)
        say(f"{entry.id} {entry.name}   {path}:{line}   about {entry.words['minutes']} minutes")
        say(f"the text: python -m chapters read {entry.number}")
        say(f"then: python -m chapters check {entry.id}")
        if self.edit:
            editor = shlex.split(os.environ.get("EDITOR") or "vi")
            return subprocess.run([*editor, f"+{line}", str(path)]).returncode
        return 0


def _line_of(path: Path, name: str) -> int:
    lines = path.read_text("utf-8", errors="replace").split("\n")
    starts = (f"def {name}(", f"class {name}(", f"class {name}:")
    return next((n for n, line in enumerate(lines, 1) if line.startswith(starts)), 1)


@dataclass(frozen=True)
class Read:
    """A chapter's text."""

    chapter: Number
    """The chapter's number, or one of its exercises."""
    path: bool = False
    """Only say where it lies."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        number = select(self.chapter)[0].number
        file = str(chapter_folder(number) / "text.md")
        if self.json:
            say_json({"chapter": number, "file": file, "text": text_of(number)})
            return 0
        if self.path:
            say(file)
            return 0
        say(text_of(number).rstrip())
        return 0


def chapter_folder(number: int) -> Path:
    return find(f"{number}.1").path.parents[1]


@dataclass(frozen=True)
class Notebook:
    """Write a chapter's text and stubs as one .ipynb into the workspace."""

    chapter: Number
    """The chapter's number."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        number = select(self.chapter)[0].number
        path = notebook_of(Workspace.find(), number)
        if self.json:
            say_json({"file": str(path)})
            return 0
        say(str(path))
        return 0
