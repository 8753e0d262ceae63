"""`draw`: scenes on the disk, to look at or to train something else on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.commands.shared import at_least
from captioning.scenes.draw import write_scenes
from weights.console import one_line


@dataclass(frozen=True)
class Draw:
    """Draw scenes and write them as PNG files, their captions and facts beside them."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/drawn")
    """Where the pictures and captions.jsonl go."""
    n: int = 100
    """How many scenes to draw."""
    seed: int = 0
    """Which scenes; the same seed draws the same ones."""

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        at_least(0, seed=self.seed)

    def run(self) -> int:
        print(one_line(write_scenes(self.out, self.n, self.seed)))
        return 0
