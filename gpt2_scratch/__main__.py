"""`python -m gpt2_scratch`: reads the command, runs it, and turns errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from gpt2_scratch.commands.convert import Convert
from gpt2_scratch.commands.finetune import Finetune
from gpt2_scratch.commands.generate import Generate
from gpt2_scratch.commands.verify import Verify
from weights.console import run_command

Command = (
    Annotated[Generate, subcommand("generate", prefix_name=False)]
    | Annotated[Verify, subcommand("verify", prefix_name=False)]
    | Annotated[Convert, subcommand("convert", prefix_name=False)]
    | Annotated[Finetune, subcommand("finetune", prefix_name=False)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: tyro.cli(
            Command,
            prog="python -m gpt2_scratch",
            description="GPT-2 by hand.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
