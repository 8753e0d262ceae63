"""Training a GPT-2 alone, from any endless source of windows: text files or generated captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2
from gpt2_scratch.training.loop import LossOf, train
from gpt2_scratch.training.loss import next_token_loss
from gpt2_scratch.training.recompute import compiling, recomputing
from gpt2_scratch.training.settings import TrainingConfig

CHUNK = 512  # tokens whose logits are in memory at once when activations are computed again


def random_language_model(
    config: GPT2Config, seed: int, *, table_scale: float | None = None
) -> GPT2:
    """A GPT-2 to be trained from nothing. `table_scale`: the deviation of wte and wpe alike.

    Small models learn faster from 0.1 than from GPT-2's 0.02 and 0.01.
    """
    torch.manual_seed(seed)
    model = GPT2(config)
    if table_scale is not None:
        for table in (model.wte, model.wpe):
            nn.init.normal_(table.weight, std=table_scale)
    return model


@contextmanager
def computing_loss(model: GPT2, recompute: bool, *, compile: bool = False) -> Iterator[LossOf]:
    """Inside, the loss of ids (B, T + 1) on any device, as `loop.train` wants it.

    `recompute` keeps neither the activations of the blocks nor more than some logits; `compile`
    has torch compile the blocks.
    """
    device = model.wte.weight.device
    chunk = CHUNK if recompute else None
    with ExitStack() as held:
        if compile:
            held.enter_context(compiling(model.h))
        if recompute:
            held.enter_context(recomputing(model.h))
        yield lambda ids: next_token_loss(model, ids.to(device), chunk=chunk)


def train_language_model(
    model: GPT2,
    batches: Callable[[int], Iterable[torch.Tensor]],
    config: TrainingConfig,
    folder: Path,
    *,
    title: str = "language model",
    recompute: bool = False,
    compile: bool = False,
    validation: Callable[[], Iterable[torch.Tensor]] | None = None,
    on_validation: Callable[[int, float], None] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> None:
    """Train on batches of ids (B, T + 1), each token from those before it; see `loop.train`."""
    with computing_loss(model, recompute, compile=compile) as loss_of:
        train(
            model,
            loss_of,
            batches,
            config,
            folder,
            title=title,
            validation=validation,
            on_validation=on_validation,
            on_start=on_start,
        )
