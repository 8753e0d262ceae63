"""Beam search: follow several continuations at once and return the likeliest whole one."""

import math

import torch

from gpt2_scratch.generate import new_cache, next_logits, start
from gpt2_scratch.model import GPT2


@torch.no_grad()
def beam_search(
    model: GPT2,
    prompt: torch.Tensor,
    max_new_tokens: int,
    *,
    beams: int,
    end: int | None = None,
    length_penalty: float = 1.0,
    padding_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids (B, T) or embeddings (B, T, C) -> new ids (B, n), their log-probabilities (B, n).

    The best sum of log-probabilities / length ** length_penalty wins, `end` included in both.
    Filled with `end` and 0. As transformers' search with `early_stopping=False`.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} came. Give at least 1, which is greedy search.")
    x, mask, _ = start(model, prompt, max_new_tokens, padding_mask, end)
    batch, device = len(x), x.device
    rows = torch.arange(batch, device=device)[:, None]
    fill = -1 if end is None else end  # without an end all run to the last step: nothing is filled

    # Room for the full length at once. At first all beams are the same, so one of them counts.
    ids = torch.full((batch, beams, max_new_tokens), fill, device=device)  # (B, beams, n)
    logprobs = torch.zeros(batch, beams, max_new_tokens, device=device)  # (B, beams, n)
    sums = torch.full((batch, beams), -math.inf, device=device)  # (B, beams)
    sums[:, 0] = 0.0
    # The best that have ended, best first: -inf is a free place.
    done_ids, done_logprobs = ids, logprobs
    done_scores = torch.full_like(sums, -math.inf)
    open_rows = torch.ones(batch, 1, dtype=torch.bool, device=device)  # may still find better

    cache = new_cache(model, x, max_new_tokens)
    following = next_logits(model, x, mask, cache).log_softmax(-1)[:, None]  # (B, 1, V)
    following = following.expand(-1, beams, -1)  # (B, beams, V)
    origin = rows.expand(-1, beams)  # (B, beams), the row of the cache that each beam goes on from
    for step in range(max_new_tokens):
        # Twice the candidates, so that enough go on even when the best half ends here.
        totals = (sums[..., None] + following).flatten(1)  # (B, beams * V)
        sums, index = totals.topk(min(2 * beams, totals.shape[1]))  # (B, 2 beams)
        beam, token = index // following.shape[-1], index % following.shape[-1]
        ids, logprobs = ids[rows, beam], logprobs[rows, beam]  # (B, 2 beams, n)
        ids[..., step] = token
        logprobs[..., step] = following[rows, beam, token]

        # Those of the better half that end compete with the ones that ended before.
        ended = (token == fill) | (step == max_new_tokens - 1)
        length = (step + 1) ** length_penalty
        leading = torch.arange(sums.shape[1], device=device) < beams
        scores = (sums / length).masked_fill(~(ended & leading & open_rows), -math.inf)
        done_scores, best = torch.cat([done_scores, scores], dim=1).topk(beams)  # (B, beams)
        done_ids = torch.cat([done_ids, ids], dim=1)[rows, best]  # (B, beams, n)
        done_logprobs = torch.cat([done_logprobs, logprobs], dim=1)[rows, best]

        # The best that have not ended go on, while the first of them could still enter.
        sums, best = sums.masked_fill(ended, -math.inf).topk(beams)  # (B, beams)
        ids, logprobs = ids[rows, best], logprobs[rows, best]  # (B, beams, n)
        open_rows = open_rows & (sums[:, :1] / length > done_scores[:, -1:])
        if not open_rows.any():
            break
        cache.reorder(origin[rows, beam[rows, best]].flatten())
        origin = torch.arange(batch * beams, device=device).view(batch, beams)
        new = model.embed(ids[..., step].view(-1, 1))  # (B * beams, 1, C)
        following = next_logits(model, new, None, cache).log_softmax(-1).unflatten(0, (batch, -1))

    ids, logprobs = done_ids[:, 0], done_logprobs[:, 0]  # (B, n)
    longest = int((ids != fill).sum(1).max()) + (end is not None)  # an end token of its own
    longest = min(longest, step + 1)
    return ids[:, :longest], logprobs[:, :longest]
