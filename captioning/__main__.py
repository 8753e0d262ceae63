"""`python -m captioning`: reads the command, runs it, and turns errors into one line each."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from captioning.commands.caption import Caption
from captioning.commands.demo import Demo
from captioning.commands.draw import Draw
from captioning.commands.evaluate import Evaluate
from captioning.commands.shared import complain
from captioning.commands.train_scenes import TrainScenes

Command = (
    Annotated[Caption, subcommand("caption", prefix_name=False)]
    | Annotated[Demo, subcommand("demo", prefix_name=False)]
    | Annotated[Evaluate, subcommand("evaluate", prefix_name=False)]
    | Annotated[TrainScenes, subcommand("train-scenes", prefix_name=False)]
    | Annotated[Draw, subcommand("draw", prefix_name=False)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # UTF-8 in every locale, and file names that are none come out as the bytes they are.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        command = tyro.cli(
            Command,
            prog="python -m captioning",
            description="Captions for pictures: CLIP, a Dense Connector and a GPT-2 by hand.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        code = command.run()
        sys.stdout.flush()
        return code
    except SystemExit as end:  # from tyro: 0 after --help, 2 after a mistake, which it explains
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130  # what a shell reports for Ctrl-C
    except BrokenPipeError:
        # `| head` has gone. Python would complain at exit when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell reports for a closed pipe
    except (ValueError, OSError) as error:
        complain("error", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
