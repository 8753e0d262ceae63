"""`python -m gpt2_scratch`: reads the command, runs it, and turns errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import tyro
import tyro.extras

from weights.console import run_command

COMMANDS = {
    "generate": "Generate",
    "convert": "Convert",
    "verify": "Verify",
    "finetune": "Finetune",
}


def commands() -> dict[str, Callable[..., Any]]:
    return {
        name: getattr(import_module(module), cls)
        for name, cls in COMMANDS.items()
        if find_spec(module := f"gpt2_scratch.commands.{name}")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands(),
            prog="python -m gpt2_scratch",
            description="GPT-2 by hand.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
