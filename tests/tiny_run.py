"""A run of seconds that several tests of training start, interrupt and take up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2
from gpt2_scratch.training.loop import TrainingConfig, train
from gpt2_scratch.training.loss import next_token_loss

CONFIG = GPT2Config(n_vocab=31, n_ctx=16, n_embd=12, n_head=3, n_layer=2, dropout=0.1)


def batches(number: int) -> Iterator[torch.Tensor]:
    """Batch i is drawn from i, so that a resumed run sees what it would have seen."""
    while True:
        yield torch.randint(31, (4, 11), generator=torch.Generator().manual_seed(number))
        number += 1


def run(
    folder: Path,
    steps: int = 12,
    stop_at: int | None = None,
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> GPT2:
    """Train a tiny GPT-2, dropout on; `stop_at` raises at that call for the loss."""
    torch.manual_seed(5)
    model = GPT2(CONFIG)
    settings: dict[str, Any] = {
        "rates": {"": 1e-2},
        "checkpoint_seconds": 0,
        "precision": "fp32",
    } | changes
    config = TrainingConfig(steps, 4, **settings)
    calls = 0

    def loss_of(ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        nonlocal calls
        calls += 1
        if stop_at is not None and calls == stop_at:
            raise KeyboardInterrupt
        return next_token_loss(model, ids)

    train(model, loss_of, batches, config, folder, title="tiny", **(options or {}))
    return model


def losses(folder: Path) -> list[tuple[str, ...]]:
    """Step, loss and norm of each row of the log."""
    rows = (folder / "log.csv").read_text().splitlines()[1:]
    return [tuple(row.split(",")[:3]) for row in rows]
