"""Does training work at all? A small captioner learns a few photographs by heart.

    python benchmarks/overfit.py FOLDER        # pictures with captions, a couple of hundred

A proof of the path from files to captions, and of nothing general. The embedded tower, which knows
drawn scenes alone, stays as it is; connector and GPT-2 learn. Two minutes on one core.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import tyro

from weights.console import run_command

BATCH = 50  # pictures that are captioned at once


@dataclass(frozen=True)
class Overfit:
    """Train on every first caption, then ask for those of the first pictures."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Captioned pictures, in any layout that `python -m captioning data` knows."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")] = Path("runs/overfit")
    """Where the run goes; a second start goes on from there."""
    steps: int = 800
    """Of training, 43 pictures each."""
    first: int = 50
    """So many pictures are asked for."""

    def run(self) -> int:
        from captioning.__main__ import main

        words = ["train", "--preset", "scenes", "--data", str(self.data), "--out", str(self.out)]
        words += ["--split", "none", "--captions", "first", "--steps", str(self.steps)]
        words += ["--batch", "43", "--dropout", "0", "--features", "on", "--precision", "bf16"]
        words += ["--rates.connector", "2e-3", "--rates.gpt2", "2e-3", "--no-tensorboard"]
        if code := main(words):
            return code
        with (self.out / "log.csv").open(encoding="utf-8") as log:
            loss = float(list(csv.DictReader(log))[-1]["loss"])
        asked, right = self.ask()
        found = {"token_loss": loss, "pictures": asked, "captions_reproduced": right}
        sys.stdout.write(json.dumps(found) + "\n")
        return 0

    def ask(self) -> tuple[int, int]:
        """How many pictures were asked for, and how many captions came back to the letter."""
        from captioning.data.index import Index
        from captioning.data.opening import open_place
        from captioning.model import load_captioner

        captioner = load_captioner(self.out / "model")
        asked = right = 0
        with Index(self.out / "index.sqlite") as index:
            pictures = islice(index.pictures("train"), self.first)
            while chunk := list(islice(pictures, BATCH)):
                said = captioner.caption([open_place(picture.place) for picture in chunk])
                asked += len(chunk)
                right += sum(s == p.captions[0] for s, p in zip(said, chunk, strict=True))
        return asked, right


if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(Overfit, description=__doc__).run()))
