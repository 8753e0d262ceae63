"""What a language model is trained on: each token predicts the next."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gpt2_scratch.model import GPT2


def next_token_loss(model: GPT2, ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the token losses in nats of ids (B, T + 1), and their number (B T)."""
    logits = model(ids[:, :-1])  # (B, T, V)
    targets = ids[:, 1:].flatten()  # (B T,)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
    return loss, targets.numel()
