"""What the tests of the course need: a workspace, the command line, a learner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from chapters.runner import stub
from chapters.runner.catalog import Entry, entries

ROOT = Path(__file__).resolve().parents[1]


def command(
    *arguments: str, home: Path | None = None, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m chapters ...` as it is typed, in a process of its own."""
    given = {k: v for k, v in os.environ.items() if k not in ("CHAPTERS_HOME", "EDITOR")}
    given |= {"PYTHONPATH": str(ROOT), **environment}
    if home is not None:
        given["CHAPTERS_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "chapters", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=given,
        timeout=300,
    )


def answer(*arguments: str, home: Path) -> tuple[int, Any]:
    """Exit code and what `--json` gives."""
    done = command(*arguments, "--json", home=home)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def solved(number: int) -> str:
    """A chapter's file with every exercise solved, as the package has it."""
    text = stub.chapter_text(number)
    for entry in entries(number):
        text = with_solution(text, entry)
    return text


def with_solution(text: str, entry: Entry) -> str:
    """A chapter's file with one stub replaced by its solution."""
    before = stub.stub_text(entry)
    assert text.count(before) == 1, entry.name
    return text.replace(before, stub.solution_text(entry))
