"""`check`, `watch`, `report`: the judge's report on what stands in the workspace."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from chapters.runner.catalog import Entry, entries, find, select
from chapters.runner.client import Server, check
from chapters.runner.outcome import Outcome
from chapters.runner.progress import standing
from chapters.runner.report import tell
from chapters.runner.terminal import Keys, say, say_json
from chapters.runner.workspace import Workspace, write

SEVERITY = (0, 3, 1, 5, 4, 2, 6)  # of several codes, the worst is what the command ends with
What = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID|N")]


@dataclass(frozen=True)
class Check:
    """Check an exercise (4.4), a chapter (4), or everything.

    Exit code: 0 right, 1 wrong, 2 usage, 3 not attempted, 4 can't be loaded, 5 too much time,
    memory or output, 6 the course's own fault.
    """

    what: What = ""
    """An exercise, by id or name, or a chapter."""
    all: bool = False
    """Every exercise."""
    json: bool = False
    """For programs."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Show what was expected and what came."""

    def run(self) -> int:
        if bool(self.what) == self.all:
            raise ValueError("Name an exercise (4.4), a chapter (4), or give --all.")
        workspace = Workspace.find()
        chosen = select("all" if self.all else self.what)
        outcomes: list[Outcome] = []
        with Server() as server:
            for entry in chosen:
                outcomes.append(check(server, workspace, entry))
                if not self.json:
                    say(end="\n" if len(outcomes) > 1 else "")
                    tell(outcomes[-1], entry, verbose=self.verbose)
        if self.json:
            data = [outcome.data() for outcome in outcomes]
            say_json(data[0] if len(chosen) == 1 else data)
        elif len(chosen) > 1:
            right = sum(outcome.verdict == "right" for outcome in outcomes)
            say(f"\n{right} of {len(outcomes)} right")
        return max((outcome.code for outcome in outcomes), key=SEVERITY.index)


@dataclass(frozen=True)
class Watch:
    """Check again at every save. Keys: h hint, n next, l list, r again, q quit."""

    what: What = ""
    """An exercise or a chapter; without: whatever is saved."""
    checks: int = 0
    """Stop after so many checks; 0: never."""
    json: bool = False
    """One line of JSON a check."""

    def run(self) -> int:
        workspace = Workspace.find()
        chosen = select(self.what) if self.what else entries()
        files = {entry: workspace.file(entry.number) for entry in chosen}
        last: Entry | None = None
        done, seen = 0, _stamps(files.values())
        with Server() as server, Keys() as keys:
            server.start()
            if not self.json:
                say(f"watching {workspace.home}   keys: h hint, n next, l list, r again, q quit")
            while not self.checks or done < self.checks:
                key = keys.wait(0.05)
                now = _stamps(files.values())
                changed = [path for path in now if now[path] != seen.get(path)]
                seen = now
                if key == "q":
                    return 0
                if key in ("h", "n", "l"):
                    self._help(key, workspace, last)
                again = [last] if key == "r" and last else []
                for entry in again or _touched(workspace, files, changed):
                    began = time.perf_counter()
                    outcome = check(server, workspace, entry)
                    last, done = entry, done + 1
                    took = time.perf_counter() - began
                    if self.json:
                        say_json(outcome.data() | {"took": round(took, 3)}, indent=None)
                    else:
                        say()
                        tell(outcome, entry)
                        say(f"  {'took':<11} {took:.2f} s")
                sys.stdout.flush()
        return 0

    def _help(self, key: str, workspace: Workspace, last: Entry | None) -> None:
        from chapters.commands.browse import List, Next
        from chapters.commands.solve import Hint

        if key == "l":
            List().run()
        elif key == "n" or last is None:
            Next().run()
        else:
            Hint(last.id).run()


def _stamps(files: object) -> dict[Path, int]:
    found = {}
    for path in dict.fromkeys(files):  # type: ignore[call-overload]
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def _touched(workspace: Workspace, files: dict[Entry, Path], changed: list[Path]) -> list[Entry]:
    """Of a saved file: the first exercise whose source is another than when it was checked."""
    from chapters.runner import source

    found = []
    for path in changed:
        mine = [entry for entry in files if files[entry] == path]
        fresh = []
        for entry in mine:
            read = source.read(entry, path)
            if isinstance(read, Outcome):
                if read.verdict != "not attempted":
                    fresh.append(entry)
                    break
            elif read.hash != workspace.record(entry)["source"]:
                fresh.append(entry)
        found += fresh[:1] or [e for e in mine if workspace.record(e)["result"] != "right"][:1]
    return found


@dataclass(frozen=True)
class Report:
    """Write your function, its result and the versions into one file, to send with an issue."""

    id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
    """An exercise, by id or name."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        from chapters.runner import rewrite

        entry, workspace = find(self.id), Workspace.find()
        with Server() as server:
            outcome = check(server, workspace, entry)
        path = workspace.home / f"report-{entry.id}.md"
        code = rewrite.function_text(entry, workspace.file(entry.number))
        write(path, _report(entry, outcome, code, standing(workspace, entry)["tries"]))
        if self.json:
            say_json({"file": str(path), "verdict": outcome.verdict})
            return 0
        say(f"{path}\nnothing was sent: read it, and attach it to an issue if you like")
        return 0


def _report(entry: Entry, outcome: Outcome, code: str, tries: int) -> str:
    import json
    import platform

    from chapters.runner.doctor import installed

    data = outcome.data() | {"file": Path(outcome.file).name, "output": outcome.output[:500]}
    versions = ", ".join(f"{name} {installed(name)}" for name in ("torch", "numpy", "gpt2-scratch"))
    return (
        f"# {entry.id} {entry.name}: {outcome.title}\n\nPython {platform.python_version()},"
        f" {versions}, {platform.system()}; {tries} tries\n\n```python\n{code}\n```\n\n"
        f"```json\n{json.dumps(data, indent=1, ensure_ascii=False)}\n```\n"
    )
