"""What ends a run early: a signal, after whose step it is saved; a machine at its limits; numbers
that are none."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt2_scratch.training.parallel import world

NO_MEMORY = "can't allocate memory"  # says torch of a CPU's, in an error without its own class


class Stopped(SystemExit):
    """A run that a signal ended; its checkpoint is written. Where nobody catches it, the process
    ends with the code that shells give for the signal (143 for SIGTERM, 130 for Ctrl-C)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(128 + signal_number)
        self.message = message
        self.signal_number = signal_number

    def __str__(self) -> str:
        return self.message


@contextmanager
def noting_signals() -> Iterator[list[int]]:
    """Inside, the first SIGTERM or Ctrl-C is only noted in the list; the second acts as always.

    Not under torchrun, which sends on what the terminal has sent already, and kills after 30 s.
    Outside the main thread, where Python takes no handlers, nothing is noted.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        came.append(number)
        if world().size == 1:
            signal.signal(number, before[number])

    for ending in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(ending) != signal.SIG_IGN:  # as a shell's `&` has it
            before[ending] = signal.signal(ending, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def at_its_limits(device: str, out: Path, advice: str) -> Iterator[None]:
    """What the machine has no more of, inside, becomes a ValueError that says what to do.

    Memory (`advice`: how to need less), disk below `out`, numbers that are finite.
    """
    try:
        yield
    except FloatingPointError as error:
        raise ValueError(str(error)) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ValueError(
            f"a disk is full: {error}. What {out} holds of the run stays: make room, then start"
            " again, and it goes on from its last checkpoint."
        ) from None
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        raise ValueError(
            f"{device} ran out of memory ({str(error).splitlines()[0]}). Take {advice}; the"
            " checkpoint stays."
        ) from None


@torch.no_grad()
def first_not_finite(
    module: nn.Module, compute: Callable[[], Iterable[torch.Tensor]]
) -> str | None:
    """The name of the first part of `module` whose output in `compute()` holds NaN or infinity.

    Where only what is computed has: "what follows NAME", the last part, since a head that is
    another part's table, and the loss, are none themselves.
    """
    found: list[str] = []
    last = "the inputs"

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal last
            last = name or type(part).__name__
            if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
                found.append(last)

        return hook

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            hooks.enter_context(part.register_forward_hook(look(name)))
        finite = all(bool(value.isfinite().all()) for value in compute())
    if not found and not finite:
        found.append(f"what follows {last}")
    return found[0] if found else None
