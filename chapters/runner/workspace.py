"""The learner's folder: one file a chapter, and `state.json`. Nothing is written anywhere else.

Found by CHAPTERS_HOME, or by walking up from the current folder to `chapters.toml`, or where
`init` puts it when no folder is named.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.runner.catalog import HERE, Entry, entries, folders
from chapters.runner.stub import chapter_text

MARK = "chapters.toml"
TREE = HERE.parent
DEFAULT = TREE.parent / "gpt2-work"
FRESH: dict[str, Any] = {
    "result": "not begun",
    "source": "",
    "tries": 0,
    "hints": 0,
    "solution_seen": False,
    "diagnosis": [],  # of the last check
    "diagnoses": [],  # of all
}


@dataclass(frozen=True)
class Workspace:
    """The learner's files and what is remembered of them."""

    home: Path

    @classmethod
    def find(cls) -> Workspace:
        if named := os.environ.get("CHAPTERS_HOME"):
            home = Path(named).expanduser().absolute()
            if not (home / MARK).is_file():
                raise FileNotFoundError(
                    f"CHAPTERS_HOME is {home}, which holds no {MARK}."
                    f" Run: python -m chapters init {home}"
                )
            return cls(home)
        here = Path.cwd()
        for folder in (here, *here.parents, DEFAULT):
            if (folder / MARK).is_file():
                return cls(folder)
        raise FileNotFoundError(
            f"{here} is in no workspace, and {DEFAULT} is none. Run: python -m chapters init"
        )

    @classmethod
    def seek(cls) -> Workspace | None:
        """The workspace, if there is one."""
        try:
            return cls.find()
        except FileNotFoundError:
            return None

    @classmethod
    def create(cls, home: Path) -> Workspace:
        """A new workspace, or the one that is there."""
        if home.is_relative_to(TREE):
            raise ValueError(
                f"{home} lies inside the project, where an update could meet your work."
                f" Choose a folder beside it, such as {DEFAULT}."
            )
        if home.exists() and not home.is_dir():
            raise ValueError(f"{home} is a file. Name a folder that is new, or yours already.")
        home.mkdir(parents=True, exist_ok=True)
        if not (home / MARK).exists():
            (home / MARK).write_text(
                "# A workspace of `python -m chapters`.\nformat = 1\n", "utf-8"
            )
        return cls(home)

    def file(self, number: int) -> Path:
        """Where the learner's work on one chapter lies."""
        return self.home / f"{folders()[number]}.py"

    def start(self, number: int, *, again: bool = False) -> tuple[Path, bool]:
        """The chapter's file, and whether it was written now; an old one is never overwritten."""
        path = self.file(number)
        if path.exists() and not again:
            return path, False
        if path.exists():
            self.discard(path)
        text = chapter_text(number)
        write(path, text)
        # What the stubs were: so that `list` can say when the project has changed them.
        (self.home / "stubs").mkdir(exist_ok=True)
        write(self.home / "stubs" / path.name, text)
        return path, True

    def stub(self, number: int) -> str | None:
        """The chapter's file as `start` wrote it."""
        path = self.home / "stubs" / self.file(number).name
        return path.read_text("utf-8") if path.is_file() else None

    def reset(self, number: int) -> Path:
        """Begin a chapter anew; returns where the old file is kept."""
        path = self.file(number)
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}. Run: python -m chapters start {number}")
        kept = self.discard(path)
        self.start(number)
        for entry in entries(number):
            self.update(entry, result="not attempted", source="", diagnosis=[])
        return kept

    def discard(self, path: Path, text: str | None = None) -> Path:
        """Move a file, or some text of it, into `trash`, from where it can be fetched back."""
        trash = self.home / "trash"
        trash.mkdir(exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        goal, count = trash / f"{path.stem}-{stamp}{path.suffix}", 1
        while goal.exists():
            goal, count = trash / f"{path.stem}-{stamp}-{count}{path.suffix}", count + 1
        if text is None:
            os.replace(path, goal)
        else:
            goal.write_text(text, "utf-8")
        return goal

    def state(self) -> dict[str, Any]:
        """What `state.json` holds; a missing or broken one is an empty one."""
        try:
            state = json.loads((self.home / "state.json").read_text("utf-8"))
        except (OSError, ValueError):
            state = {}
        return state if isinstance(state, dict) else {}

    def record(self, entry: Entry) -> dict[str, Any]:
        found = self.state().get(entry.id, {})
        return FRESH | (found if isinstance(found, dict) else {})

    def noted(self, key: str) -> dict[str, Any]:
        """What is remembered under a key that is no exercise."""
        found = self.state().get(key, {})
        return found if isinstance(found, dict) else {}

    def note(self, key: str, **changes: Any) -> None:
        """Remember something under such a key."""
        self._write({"format": 1} | self.state() | {key: self.noted(key) | changes})

    def update(self, entry: Entry, **changes: Any) -> None:
        """Change what is remembered of one exercise; keys of other versions are kept."""
        self._write({"format": 1} | self.state() | {entry.id: self.record(entry) | changes})

    def _write(self, state: dict[str, Any]) -> None:
        text = json.dumps(state, indent=1, ensure_ascii=False)
        write(self.home / "state.json", text + "\n")


def write(path: Path, text: str) -> None:
    """The whole file or nothing: a killed write leaves the old one."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, "utf-8")
    os.replace(unfinished, path)
