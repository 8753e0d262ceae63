"""`python -m connector`: reads the command, runs it, and turns errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyro.conf import FlagCreatePairsOff
from tyro.extras import subcommand_cli_from_dict

from connector.commands.verify import Verify
from weights.console import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: subcommand_cli_from_dict(
            {"verify": Verify},
            prog="python -m connector",
            description="From a picture to vectors of the language model's width.",
            args=argv,
            config=(FlagCreatePairsOff,),
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
