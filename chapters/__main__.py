"""`python -m chapters`: the course. Reads a command, loads its module, and runs it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from weights.console import complain, run_command

# name -> (module, in chapters.commands if short; class; what it does); loaded when typed.
COMMANDS = {
    "init": ("setup", "Init", "make a workspace, and look whether all is there"),
    "list": ("browse", "List", "the chapters and their exercises"),
    "start": ("browse", "Start", "put a chapter's stubs into the workspace"),
    "read": ("browse", "Read", "a chapter's text"),
    "next": ("browse", "Next", "the first exercise that doesn't pass yet"),
    "check": ("check", "Check", "is it right, and if not, what is wrong?"),
    "watch": ("check", "Watch", "check again at every save"),
    "hint": ("solve", "Hint", "a question, the idea, pseudocode"),
    "solution": ("solve", "Solution", "the package's own way"),
    "diff": ("solve", "Diff", "yours beside the solution"),
    "reset": ("solve", "Reset", "a function back to its stub"),
    "progress": ("browse", "Progress", "how you stand"),
    "predict": ("play", "Predict", "guess what a chapter's experiment will give"),
    "run": ("play", "Run", "the experiment, with your code"),
    "break": ("play", "Break", "find an input that shows a mistake"),
    "spot": ("play", "Spot", "find the line with the mistake"),
    "verify": ("gpt2_scratch.commands.verify", "Verify", "is a GPT-2 right, site by site?"),
    "graduate": ("whole", "Graduate", "your own GPT-2 runs OpenAI's weights"),
    "report": ("check", "Report", "write down a mistake that wasn't recognised"),
    "notebook": ("browse", "Notebook", "a chapter as an .ipynb"),
}
RUNNING = ("check", "watch", "run", "break", "graduate", "report")  # learners' code
OUR_FAULT = 6


def usage() -> str:
    lines = [f"  {name:<10} {says}" for name, (_, _, says) in COMMANDS.items()]
    return (
        "usage: python -m chapters COMMAND [-h]\n\nThe course: GPT-2 by your own hand.\n\n"
        + "\n".join(lines)
        + "\n\nThe first steps: init, start 0, check 0.1.\n"
    )


def run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(f"There is no command {name!r}. There are: {', '.join(COMMANDS)}.")
    if name in RUNNING and not {"-h", "--help"} & set(rest):
        from chapters.runner.client import start_early

        start_early()
    import tyro

    module, kind, _ = COMMANDS[name]
    if "." not in module:
        module = f"chapters.commands.{module}"
    command = getattr(import_module(module), kind)
    parsed = tyro.cli(
        command,
        prog=f"python -m chapters {name}",
        args=rest,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        code: int = parsed.run()
        return code
    except (ValueError, OSError):
        raise
    except Exception:
        sys.stderr.write(traceback.format_exc())
        complain("fault", "this is the course's own mistake, not yours: please report it")
        return OUR_FAULT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    return run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
