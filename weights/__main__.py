"""`python -m weights`: what comes with the code, and what can be fetched."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyro.conf import FlagCreatePairsOff
from tyro.extras import subcommand_cli_from_dict

from weights.commands.get import fetch, import_
from weights.commands.show import check, list_, path
from weights.console import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: subcommand_cli_from_dict(
            {"list": list_, "fetch": fetch, "path": path, "check": check, "import": import_},
            prog="python -m weights",
            description="Weights: what comes with the code, and OpenAI's, fetched and checked.",
            args=argv,
            config=(FlagCreatePairsOff,),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
