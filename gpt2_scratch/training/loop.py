"""The training loop: for GPT-2 alone and for the captioner, killed at any moment and resumed.

A batch is a function of the step's number, so the data position needs no memory of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from torch import nn
from tqdm import tqdm

from gpt2_scratch.training.checkpoint import load_checkpoint, save_checkpoint
from gpt2_scratch.training.optim import Schedule, build_optimizers, rate_at, set_rate
from weights.store import replacing

MOST_SKIPPED = 10  # steps in a row without a finite loss before the run stops
Loss = tuple[torch.Tensor, torch.Tensor | int]


@dataclass(frozen=True)
class TrainingConfig:
    """How a run goes; `rates` are AdamW's, by prefix of the parameters' names.

    `matrix_rate` gives the weight matrices to Muon at that rate. A batch is `batch` rows.
    `warmup` is a share of the steps; `clip` bounds the norm of all gradients together.
    """

    steps: int
    batch: int
    rates: dict[str, float] = field(default_factory=lambda: {"": 3e-4})
    matrix_rate: float | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpoint_seconds: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: both must be 1 or more.")


def open_log(folder: Path, done: int) -> TextIO:
    """`log.csv` of a run, cut back to the steps done: what a killed run wrote after its last
    checkpoint will be done, and written, again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.csv"
    lines = path.read_text("utf-8").splitlines() if done and path.is_file() else []
    kept = lines[: done + 1] or ["step,loss,gradient_norm,seconds"]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(kept) + "\n", "utf-8")
    return path.open("a", encoding="utf-8")


def train(
    module: nn.Module,
    loss_of: Callable[[Any], Loss],
    batches: Callable[[int], Iterable[Any]],
    config: TrainingConfig,
    folder: Path,
    *,
    title: str = "training",
) -> None:
    """Train `module` for `config.steps`; what `folder` holds of the same run is taken up again.

    `loss_of(batch)` gives the sum of the losses and their number; `batches(step)` the batches from
    that step on. `log.csv` keeps each step's loss. A step without a finite loss is skipped; 10 in a
    row are a FloatingPointError.
    """
    torch.manual_seed(config.seed)
    optimizers = build_optimizers(
        module,
        config.rates,
        weight_decay=config.weight_decay,
        betas=config.betas,
        matrix_rate=config.matrix_rate,
    )
    settings = {k: v for k, v in asdict(config).items() if k != "checkpoint_seconds"}
    identity = f"{title}: {settings}"
    done = load_checkpoint(folder, module, optimizers, identity)
    module.train()
    with (
        open_log(folder, done) as log,
        tqdm(total=config.steps, initial=done, desc=title, disable=None) as bar,  # on a terminal
    ):
        began = saved = time.monotonic()
        skipped = 0
        remaining = range(done, config.steps)
        for step, batch in zip(remaining, batches(done) if remaining else (), strict=False):
            share = rate_at(step, config.steps, warmup=config.warmup, schedule=config.schedule)
            set_rate(optimizers, share)
            loss, norm = train_step(module, loss_of, batch, optimizers, config)
            skipped = 0 if math.isfinite(loss) and math.isfinite(norm) else skipped + 1
            if skipped == MOST_SKIPPED:
                raise FloatingPointError(
                    f"{title}: the loss or its gradient was not finite in {skipped} steps in a row,"
                    f" the last of them step {step + 1}. Lower the rate, or train in fp32."
                )
            now = time.monotonic()
            log.write(f"{step + 1},{loss:.6g},{norm:.6g},{now - began:.4g}\n")
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            began = now
            if step + 1 == config.steps or now - saved > config.checkpoint_seconds:
                log.flush()
                save_checkpoint(folder, step + 1, module, optimizers, identity)
                saved = now
    module.eval()


def train_step(
    module: nn.Module,
    loss_of: Callable[[Any], Loss],
    batch: Any,
    optimizers: list[torch.optim.Optimizer],
    config: TrainingConfig,
) -> tuple[float, float]:
    """Forward, backward, clip, step; the mean loss and the gradients' norm before clipping.

    Where either is not finite, no parameter changes.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    bf16 = config.precision == "bf16"
    with torch.autocast(parameters[0].device.type, torch.bfloat16, enabled=bf16):
        total, count = loss_of(batch)
        loss = total / count
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, config.clip)
    finite = bool(torch.isfinite(norm) & torch.isfinite(loss))
    for optimizer in optimizers:
        if finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item(), norm.item()
