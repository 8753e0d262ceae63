"""Words on the terminal: styled by rich where somebody looks, plain where a program reads."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

_console: Any = None


def styled() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def say(text: str = "", style: str = "", *, end: str = "\n") -> None:
    """One line, or several; `style` as rich names it. Never wrapped, never interpreted."""
    global _console
    if style and styled():
        if _console is None:
            from rich.console import Console

            _console = Console(highlight=False, soft_wrap=True)
        _console.print(text, style=style, markup=False, end=end)
    else:
        sys.stdout.write(printable(text) + end)


def printable(text: str) -> str:
    """Control characters but tabs and newlines written out: learners' code may print any."""
    return "".join(c if c.isprintable() or c in "\t\n" else repr(c)[1:-1] for c in text)


def say_json(data: Any, indent: int | None = 1) -> None:
    sys.stdout.write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")


class Keys:
    """Single keys from a terminal; from anything else none ever comes."""

    def __enter__(self) -> Keys:
        self.before: Any = None
        if sys.stdin.isatty():
            import termios
            import tty

            self.before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self.before)

    def wait(self, seconds: float) -> str:
        """The key pressed within so many seconds, or ""."""
        if self.before is None:
            time.sleep(seconds)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode("latin-1") if ready else ""


def columns(rows: list[list[str]], gap: int = 2) -> list[str]:
    """Rows whose cells stand under each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        (" " * gap).join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
