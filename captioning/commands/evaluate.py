"""`evaluate`: how much of freshly drawn scenes a model says rightly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from captioning.commands.shared import at_least, load
from captioning.evaluate import evaluate_scenes

SHORT = ("facts_f1", "exact_match", "n", "facts_f1_shuffled", "facts_f1_blank")


@dataclass(frozen=True)
class Evaluate:
    """Draw new scenes, caption them, and compare the facts said with the facts drawn."""

    model: Annotated[str, tyro.conf.arg(metavar="scenes|FOLDER")] = "scenes"
    """"scenes", the embedded model, or a saved captioner's folder."""
    scenes: int = 500
    """How many scenes to draw."""
    seed: int = 0
    """Which scenes; none of them is ever trained on."""
    json: bool = False
    """One line of JSON instead of a table."""
    batch_size: int = 50
    """Pictures that go through the model at once."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        at_least(2, scenes=self.scenes)
        at_least(1, batch_size=self.batch_size)
        at_least(0, seed=self.seed)

    def run(self) -> int:
        captioner = load(self.model, self.device)
        result = evaluate_scenes(captioner, self.scenes, self.seed, self.batch_size)
        if self.json:
            print(json.dumps({name: result[name] for name in SHORT}))
        else:
            print(_table(result, f"{self.scenes} scenes of seed {self.seed}, model {self.model}"))
        return 0


def _table(result: dict[str, Any], title: str) -> str:
    rows = [
        ("facts F1", result["facts_f1"]),
        ("  precision: of what was said, right", result["facts_precision"]),
        ("  recall: of what was drawn, said", result["facts_recall"]),
        *((f"    {kind}", share) for kind, share in result["recall_by_kind"].items()),
        ("scenes told exactly", result["exact_match"]),
        ("facts F1, captions of other scenes", result["facts_f1_shuffled"]),
        ("facts F1, caption of a grey picture", result["facts_f1_blank"]),
    ]
    return "\n".join([title, "", *(f"{name:<40}{value:6.3f}" for name, value in rows)])
