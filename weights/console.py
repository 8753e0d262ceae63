"""How every command line of the project ends: one line for a mistake, never a traceback."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable


def one_line(text: object) -> str:
    r"""Control characters written out (a newline as `\n`): file names may hold any."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], str(text))


def each_line(text: object) -> str:
    """`one_line` of each line: a text whose lines are ours, and the words in them not."""
    return "\n".join(map(one_line, str(text).split("\n")))


def complain(kind: str, message: object) -> None:
    """One line on stderr, behind whatever stdout still holds."""
    sys.stdout.flush()
    sys.stderr.write(f"{kind}: {one_line(message)}\n")
    sys.stderr.flush()


def run_command(command: Callable[[], int | None]) -> int:
    """The exit code of a command: 2 for whatever a person can put right (ValueError, OSError).

    130 after Ctrl-C and 141 where the reader of a pipe has gone, as shells have it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # UTF-8 in every locale, and file names that are none come out as the bytes they are.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code = command()
        sys.stdout.flush()
        return code or 0
    except SystemExit as end:  # from tyro: 0 after --help, 2 after a mistake, which it explains
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python would complain at exit when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        complain("error", error)
        return 2


def check_device(device: str) -> None:
    """ValueError where torch can't compute on this device here."""
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(
            f"--device {device} can't be used ({str(error).splitlines()[0]}), wanted one that"
            " torch has here, such as cpu or cuda; leave it out for cpu."
        ) from None
