"""`python -m chapters list`: what the course will hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tyro.extras import subcommand_cli_from_dict

from weights.console import run_command

CHAPTERS = (
    "Warm-up: edit, check, read the diagnosis",
    "From bytes to tokens",
    "Embeddings, positions, and batches of unequal length",
    "Layer norm, GELU, and OpenAI's linear map",
    "One attention head",
    "Many heads, padding and minus infinity",
    "MLP, block, the whole model",
    "OpenAI's weights in your own GPT-2",
    "Writing text: sampling and search",
    "The key/value cache",
    "The loss, and training from zero",
    "Fine-tuning on one GPU",
    "Seeing: CLIP's image tower",
    "The Dense Connector, and captions",
    "Is it any good? Scoring captions",
)


def list_chapters() -> None:
    """Print the chapters that are planned; none is there yet."""
    for number, title in enumerate(CHAPTERS):
        print(f"{number:>2}  {title}  (coming)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    return run_command(
        lambda: subcommand_cli_from_dict(
            {"list": list_chapters},
            prog="python -m chapters",
            description="The course.",
            args=argv,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
