"""What ends a run early: a signal, after whose step it is saved, or numbers that are none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from gpt2_scratch.training.parallel import world


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


@torch.no_grad()
def first_not_finite(module: nn.Module, compute: Callable[[], Any]) -> str | None:
    """The name of the first part of `module` whose output in `compute()` holds NaN or infinity."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
                found.append(name or type(part).__name__)

        return hook

    with ExitStack() as hooks:
        for name, part in module.named_modules():
            hooks.enter_context(part.register_forward_hook(look(name)))
        compute()
    return found[0] if found else None
