"""`python -m captioning`: reads the command, runs it, and turns errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from captioning.commands.article import Article
from captioning.commands.caption import Caption
from captioning.commands.data import Data
from captioning.commands.demo import Demo
from captioning.commands.draw import Draw
from captioning.commands.evaluate import Evaluate
from captioning.commands.plan import PlanCommand
from captioning.commands.presets import Presets
from captioning.commands.score import Score
from captioning.commands.train import Train
from captioning.commands.train_scenes import TrainScenes
from weights.console import run_command

Command = (
    Annotated[Caption, subcommand("caption", prefix_name=False)]
    | Annotated[Data, subcommand("data", prefix_name=False)]
    | Annotated[Article, subcommand("article", prefix_name=False)]
    | Annotated[Demo, subcommand("demo", prefix_name=False)]
    | Annotated[Evaluate, subcommand("evaluate", prefix_name=False)]
    | Annotated[PlanCommand, subcommand("plan", prefix_name=False)]
    | Annotated[Presets, subcommand("presets", prefix_name=False)]
    | Annotated[Score, subcommand("score", prefix_name=False)]
    | Annotated[Train, subcommand("train", prefix_name=False)]
    | Annotated[TrainScenes, subcommand("train-scenes", prefix_name=False)]
    | Annotated[Draw, subcommand("draw", prefix_name=False)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: tyro.cli(
            Command,
            prog="python -m captioning",
            description="Captions for pictures: CLIP, a Dense Connector and a GPT-2 by hand.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
