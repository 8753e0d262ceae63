"""`init`: the workspace, and a look at the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from chapters.runner import doctor
from chapters.runner.terminal import say, say_json
from chapters.runner.workspace import DEFAULT, Workspace


@dataclass(frozen=True)
class Init:
    """Make the workspace: the folder outside the project in which you write."""

    folder: Annotated[Path, tyro.conf.Positional] = DEFAULT
    """New, or a workspace already; never inside the project."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace = Workspace.create(self.folder.expanduser().absolute())
        found = doctor.examine()
        if self.json:
            say_json({"workspace": str(workspace.home), "doctor": [list(each) for each in found]})
            return 0
        say(f"workspace   {workspace.home}")
        for name, says, fix in found:
            say(f"  {name:<10} {says}" + (f"   -> {fix}" if fix else ""))
        say("next        python -m chapters start 0")
        return 0
