"""How a run shows where it stands: a bar, a table, and TensorBoard where that is installed."""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from gpt2_scratch.training.log import Table
from gpt2_scratch.training.parallel import world

COLUMNS = ("step", "loss", "gradient_norm", "seconds", "tokens", "rate", "memory")
TENSORBOARD = "tensorboard"  # the folder of its files in a run's


class Step(NamedTuple):
    """What one step came to: mean loss, the gradients' norm before clipping, how many losses."""

    loss: float
    gradient_norm: float
    tokens: int
    rate: float


class Progress:
    """Bar, `log.csv` and TensorBoard of one run; in all processes but the first it is silent."""

    def __init__(
        self,
        folder: Path,
        title: str,
        done: int,
        steps: int,
        *,
        rows: int,
        unit: str | None = None,
        tensorboard: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.rows, self.unit, self.device = rows, unit, device
        self.skipped = 0
        self.began = time.perf_counter()
        self.held = ExitStack()
        self.table: Table | None = None
        self.board: Any = None
        leads = world().leads
        self.bar = self.held.enter_context(
            tqdm(total=steps, initial=done, desc=title, disable=None if leads else True)
        )
        if leads:
            self.table = self.held.enter_context(Table(folder / "log.csv", COLUMNS, done))
        if leads and tensorboard and (writer := board_writer()) is not None:
            # What a killed run wrote behind its checkpoint is written again.
            self.board = writer(str(folder / TENSORBOARD), purge_step=done + 1)
            self.held.callback(self.board.close)

    def note(self, number: int, step: Step) -> None:
        """One step is done."""
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        memory = memory_used(self.device)
        self.skipped += not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm))
        if self.table is not None:
            row = {"step": number, **step._asdict(), "seconds": seconds, "memory": memory / 1e9}
            self.table.write(row)
        shown = {"loss": f"{step.loss:.3f}", "tokens": f"{step.tokens / seconds:,.0f}/s"}
        if self.unit is not None:
            shown[self.unit] = f"{self.rows / seconds:.3g}/s"
        shown["memory"] = f"{memory / 1e9:.1f}GB"
        if self.skipped:
            shown["skipped"] = str(self.skipped)
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        self.add(
            number,
            {
                "train/loss": step.loss,
                "train/gradient norm": step.gradient_norm,
                "train/rate": step.rate,
                "speed/tokens a second": step.tokens / seconds,
                "speed/rows a second": self.rows / seconds,
                "memory/GB": memory / 1e9,
            },
        )

    def again(self) -> None:
        """The time until now is of no step: a validation, a checkpoint."""
        self.began = time.perf_counter()

    def add(self, number: int, values: dict[str, float]) -> None:
        """Numbers for TensorBoard alone."""
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, number)

    def flush(self) -> None:
        """Bring all to the disk: a checkpoint must not be ahead of its table."""
        if self.table is not None:
            self.table.flush()
        if self.board is not None:
            self.board.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held.close()


def board_writer() -> Any:
    """TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter


def memory_used(device: torch.device | None) -> int:
    """Bytes: the most that torch held on a GPU; of this process elsewhere, where Linux says it."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
