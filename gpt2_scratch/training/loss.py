"""What a language model is trained on: each token predicts the next."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gpt2_scratch.model import GPT2
from gpt2_scratch.training.recompute import recomputed


def next_token_loss(
    model: GPT2, ids: torch.Tensor, *, chunk: int | None = None
) -> tuple[torch.Tensor, int]:
    """Sum of the token losses in nats of ids (B, T + 1), and their number (B T).

    Logits take more memory than anything else: with `chunk`, those of so many tokens at a time,
    computed again in the backward pass.
    """
    states = model.states(model.embed(ids[:, :-1])).flatten(0, 1)  # (B T, C)
    targets = ids[:, 1:].flatten()  # (B T,)

    def loss(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model.unembed(states)  # (B T, V)
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    if chunk is None:
        return loss(states, targets), targets.numel()
    parts = zip(states.split(chunk), targets.split(chunk), strict=True)
    return torch.stack([recomputed(loss, *part) for part in parts]).sum(), targets.numel()
