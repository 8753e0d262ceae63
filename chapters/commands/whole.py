"""`graduate` and `verify`: a whole model, yours or anybody's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from chapters.commands.play import failed
from chapters.runner.catalog import find
from chapters.runner.client import Server, passed_before
from chapters.runner.graduation import GOLDEN, wanted
from chapters.runner.outcome import Outcome
from chapters.runner.terminal import say, say_json
from chapters.runner.workspace import Workspace, write


@dataclass(frozen=True)
class Graduate:
    """Your own GPT-2 runs: checked site by site against OpenAI's code, then it writes.

    With OpenAI's weights where they were fetched (`python -m weights fetch gpt2`), else with the
    small ones that come along.
    """

    which: Annotated[Literal[1], tyro.conf.Positional, tyro.conf.arg(metavar="1")] = 1
    """1: the language model, at the end of chapter 7."""
    bundle: Annotated[Path | None, tyro.conf.arg(metavar="FILE.py")] = None
    """Write your GPT-2 as one file of your own code, which runs without this project."""
    borrow: bool = False
    """A rehearsal: what doesn't pass yet is the package's."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.find()
        passed = passed_before(workspace, 8)
        model = wanted(self.which)
        missing = [entry for entry in model if entry.id not in passed]
        if missing and (self.bundle or not self.borrow):
            return self._not_yet([f"{entry.id} {entry.name}" for entry in missing])
        request = {
            "job": "chapters.runner.graduation:job",
            "which": self.which,
            "home": str(workspace.home),
            "passed": passed,
            "seconds": 240.0,
            "wall": 300.0,
            "gibibytes": 8.0,
        }
        with Server() as server:
            answer = server.ask(request)
        found = answer.get("result", {})
        if "sites" not in found:
            return failed(answer, Outcome("graduate", str(self.which)), self.json)
        if self.bundle and found["passed"]:
            from chapters.runner.bundle import bundle

            mine = [(entry, Path(passed[entry.id])) for entry in model]
            others = [(find(key), Path(file)) for key, file in passed.items()]
            write(self.bundle, bundle(mine, others))
            found |= {"bundle": str(self.bundle), "alone": try_alone(self.bundle)}
        if found["passed"] and not missing:
            workspace.note(f"graduation {self.which}", passed=True, weights=found["weights"])
        names = [entry.name for entry in model if entry not in missing]
        found |= {"yours": names, "borrowed": [entry.name for entry in missing]}
        if self.json:
            say_json(found)
        else:
            self._tell(found)
        return int(not found["passed"])

    def _tell(self, found: dict[str, object]) -> None:
        say(str(found["sites"]))
        say(f"\nyours       {', '.join(found['yours']) or 'nothing'}")  # type: ignore[arg-type]
        if found["borrowed"]:
            say(f"borrowed    {', '.join(found['borrowed'])}")  # type: ignore[arg-type]
        if "text" in found:
            say(f"\nit writes, with the weights of {found['weights']}:\n\n    {found['text']}\n")
        if found["passed"] and not found["borrowed"]:
            say("graduated: this GPT-2 is your own", "bold green")
        if "bundle" in found:
            folder, oracle = GOLDEN / "hf-prefixed", GOLDEN / "oracle.npz"
            say(
                f"one file    {found['bundle']}\n"
                f"by itself   {found['alone']}\n"
                f"try it      python {found['bundle']} {folder} {oracle}"
            )

    def _not_yet(self, names: list[str]) -> int:
        if self.json:
            say_json({"passed": False, "missing": names})
        else:
            say(f"not yours yet: {', '.join(names)}")
            say("python -m chapters next   or, as a rehearsal, graduate --borrow")
        return 1


def try_alone(path: Path) -> str:
    """What the file prints in a Python that knows nothing of this project."""
    done = subprocess.run(
        [sys.executable, "-I", "-B", path, GOLDEN / "hf-prefixed", GOLDEN / "oracle.npz"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ValueError(f"{path} was written but doesn't run alone: {' '.join(last)}")
    return done.stdout.strip()
