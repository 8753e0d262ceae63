"""`train-scenes`: the embedded captioner, made again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from weights.console import one_line


@dataclass(frozen=True)
class TrainScenes:
    """Train the embedded model on drawn scenes, all three stages; goes on where it was stopped."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/scenes")
    """Where checkpoints, logs and the finished model go."""
    reducer: Literal["pool", "article"] = "pool"
    """How 145 image tokens become 37: averages of 2 x 2 patches, or the article's picking."""

    def run(self) -> int:
        from captioning.scenes.recipe import Recipe, run
        from gpt2_scratch.training.parallel import joined, world
        from gpt2_scratch.training.stopping import Stopped

        recipe = Recipe(out=self.out, reducer=self.reducer)
        with joined("cpu"):
            leads = world().leads
            try:
                run(recipe)
            except Stopped as stopped:
                if leads:
                    print(stopped)
                return 128 + stopped.signal_number
        if leads:
            model = one_line(recipe.model)
            print(f"Its card: {model}/README.md")
            print(f"Caption with it: python -m captioning caption PICTURE --model {model}")
        return 0
