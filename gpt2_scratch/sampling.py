"""From scores to the next token: pure functions of logits (B, V), none changes its input.

A removed token's logit is -inf, so its probability is exactly 0. Each function does what the
processor of that name in transformers does. `ids` (B, T) are the tokens so far; -1 is no token.
"""

import math

import torch


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token: (B, V) -> (B,)."""
    return logits.argmax(-1)


def sample(logits: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One token drawn by its probability: (B, V) -> (B,). ValueError where that can't be."""
    total = logits.logsumexp(-1)  # (B,)
    if not total.isfinite().all():
        row = int((~total.isfinite()).nonzero()[0])
        if total[row].isneginf():
            raise ValueError(
                f"Row {row} has no token left to draw: the filters and penalties removed all."
                " Loosen no_repeat_ngram or another of them."
            )
        raise ValueError(
            f"Row {row} has scores that are NaN or infinite. Check the weights, or raise the"
            " temperature: just above 0 is too near; 0 itself takes the likeliest token."
        )
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def temperature(logits: torch.Tensor, t: float) -> torch.Tensor:
    """Below 1 the likely tokens get likelier, above 1 all get more alike; 0 keeps the likeliest."""
    _check(t >= 0, f"temperature={t}", "0 (greedy) or more, 1 changes nothing")
    if t == 0:
        return _keep_only(logits, greedy(logits)[:, None])
    return logits / t


def top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the k likeliest tokens, and all that tie with the last of them."""
    _check(k >= 1, f"top_k={k}", "at least 1, or None for no limit")
    smallest = logits.topk(min(k, logits.shape[-1])).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the fewest likeliest tokens that together reach probability p (Holtzman et al. 2019).

    The token that crosses p stays. Removed is who, with all less likely ones, adds up to 1 - p.
    """
    _check(0 <= p <= 1, f"top_p={p}", "a probability, or None for no limit")
    ascending, order = logits.sort(-1)
    removed = ascending.softmax(-1).cumsum(-1) <= 1 - p
    removed[:, -1] = False  # the likeliest stays even for p = 0
    return logits.masked_fill(removed.scatter(1, order, removed), -math.inf)


def min_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Keep the tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    _check(0 <= p <= 1, f"min_p={p}", "between 0 and 1, or None for no limit")
    probabilities = logits.softmax(-1)
    smallest = p * probabilities.amax(-1, keepdim=True)  # (B, 1)
    return logits.masked_fill(probabilities < smallest, -math.inf)


def repetition_penalty(logits: torch.Tensor, ids: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens that are in `ids` less likely (Keskar et al. 2019); 1 changes nothing.

    Positive logits are divided by the penalty, negative ones multiplied: both go down.
    """
    _check(penalty > 0, f"repetition_penalty={penalty}", "above 0, 1 changes nothing")
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(_among(ids, logits), penalised, logits)


def no_repeat_ngram(logits: torch.Tensor, ids: torch.Tensor, n: int) -> torch.Tensor:
    """Remove each token that would complete n tokens in a row that `ids` already holds."""
    _check(n >= 1, f"no_repeat_ngram={n}", "at least 1, or 0 in `generate` for no limit")
    if ids.shape[1] < n:
        return logits
    windows = ids.unfold(1, n, 1)  # (B, T - n + 1, n)
    newest = ids[:, ids.shape[1] - (n - 1) :]  # (B, n - 1), what the next token would complete
    repeats = (windows[..., :-1] == newest[:, None]).all(-1)  # (B, T - n + 1)
    completions = windows[..., -1].masked_fill(~repeats, -1)
    return logits.masked_fill(_among(completions, logits), -math.inf)


def _among(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """True at (row, token) where the row of `ids` holds the token: (B, T) -> (B, V)."""
    rows, tokens = logits.shape
    marks = torch.zeros(rows, tokens + 1, dtype=torch.bool, device=logits.device)
    return marks.scatter(1, ids + 1, True)[:, 1:]  # -1, no token, falls into the extra column


def _keep_only(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~_among(ids, logits), -math.inf)


def _check(holds: bool, got: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{got} came. Give {wanted}.")
