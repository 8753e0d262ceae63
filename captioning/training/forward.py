"""What a captioner is trained on: pixels or kept features, and a caption behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from captioning.data.batches import Batch
from captioning.model import Captioner
from gpt2_scratch.training.language import CHUNK
from gpt2_scratch.training.loop import LossOf
from gpt2_scratch.training.loss import next_token_loss_behind
from gpt2_scratch.training.recompute import compiling, recomputing

# B captions   T tokens of the longest   N image tokens   C channels


def image_tokens(captioner: Captioner, inputs: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, size, size) or kept features (B, N, F), on any device -> (B, N, C)."""
    inputs = inputs.to(captioner.device, non_blocking=True)
    if inputs.ndim == 3:
        return captioner.tokens_from_features(inputs)
    return captioner.image_tokens(inputs.to(captioner.vision.positional_embedding.dtype))


def blocks(captioner: Captioner) -> Iterator[nn.Module]:
    """Every block that keeps activations: GPT-2's, and the tower's where it learns."""
    yield from captioner.gpt2.h
    for block in captioner.vision.transformer.resblocks:
        if any(p.requires_grad for p in block.parameters()):
            yield block


def shards(captioner: Captioner) -> Iterator[nn.Module]:
    """The blocks whose weights several processes share out each by itself, where all learns."""
    yield from captioner.gpt2.h
    yield from captioner.vision.transformer.resblocks


@contextmanager
def computing_loss(
    captioner: Captioner, *, recompute: bool = False, compile: bool = False
) -> Iterator[LossOf]:
    """Inside, the loss of a Batch as `loop.train` wants it.

    `recompute` keeps neither the activations of the blocks nor more than some logits; `compile`
    has torch compile the blocks.
    """
    chunk = CHUNK if recompute else None

    def loss_of(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        device = captioner.device
        image = image_tokens(captioner, batch.inputs)  # (B, N, C)
        ids, lengths = batch.ids.to(device), batch.lengths.to(device)
        return next_token_loss_behind(captioner.gpt2, image, ids, lengths, chunk=chunk)

    with ExitStack() as held:
        if compile:
            held.enter_context(compiling(blocks(captioner)))
        if recompute:
            held.enter_context(recomputing(blocks(captioner)))
        yield loss_of
