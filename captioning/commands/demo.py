"""`demo`: new scenes, drawn and captioned, right and wrong told apart."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from captioning.commands.shared import at_least, load
from captioning.demo import COMMAND, LIMITS, as_page, as_text, caption_new_scenes
from weights.console import one_line


@dataclass(frozen=True)
class Demo:
    """Draw new scenes, caption them, print what is right and wrong, and write a page to look at."""

    seed: int | None = None
    """Which scenes; by the clock where not given. Printed, so that they can be drawn again."""
    n: int = 6
    """How many scenes to draw."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("demo")
    """Where the pictures and index.html go."""
    model: Annotated[str, tyro.conf.arg(metavar="scenes|FOLDER")] = "scenes"
    """"scenes", the embedded model, or a saved captioner's folder."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        at_least(1, n=self.n)
        at_least(0, seed=self.seed)

    def run(self) -> int:
        seed = int(time.time()) if self.seed is None else self.seed
        captioner = load(self.model, self.device)
        shown = caption_new_scenes(captioner, seed, self.n, self.out)
        page = self.out / "index.html"
        page.write_text(as_page(shown, seed), encoding="utf-8")
        print(f"seed {seed} (the same scenes again: --seed {seed})\n")
        print(as_text(shown))
        print(f"\n{LIMITS}\n  {COMMAND}\n\nTo look at: {one_line(page)}")
        return 0
