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
    return word_loss(model, states, targets, chunk), targets.numel()


def next_token_loss_behind(
    model: GPT2,
    prefix: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of ids (B, T) that follow vectors (B, N, C), whose last predicts ids[:, 0].

    Behind lengths (B,) is padding, whatever its ids: no mask hides it, since it lies in the future
    of every token that counts, and without one torch takes its faster kernel.
    """
    n, tokens = prefix.shape[1], ids.shape[1]
    words = model.embed(ids[:, :-1]).to(prefix.dtype)
    states = model.states(torch.cat([prefix, words], 1))[:, n - 1 :]  # (B, T, C)
    counted = torch.arange(tokens, device=ids.device) < lengths[:, None]  # (B, T)
    return word_loss(model, states[counted], ids[counted], chunk), counted.sum()


def word_loss(
    model: GPT2, states: torch.Tensor, targets: torch.Tensor, chunk: int | None
) -> torch.Tensor:
    """Sum of -log p of targets (n,) after states (n, C)."""

    def loss(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model.unembed(states)  # (n, V)
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    if chunk is None:
        return loss(states, targets)
    parts = zip(states.split(chunk), targets.split(chunk), strict=True)
    return torch.stack([recomputed(loss, *part) for part in parts]).sum()
