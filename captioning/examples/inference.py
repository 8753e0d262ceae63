"""The article's two ways to a caption, one token after the other, without a key/value cache.

They compute the same: at temperature 0 the same tokens, with one seed the same samples too. Like
the article's they take one picture and never stop at the end token.
"""

from __future__ import annotations

import torch

from captioning.model import Captioner

# C channels   V vocabulary   N image tokens   T tokens of the caption so far


@torch.no_grad()
def inference(
    captioner: Captioner,
    pixels: torch.Tensor,
    max_length: int = 50,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """(1, 3, size, size) -> `max_length` ids; embeds the whole caption anew at each step."""
    image = captioner.image_tokens(pixels)  # (1, N, C)
    caption: list[int] = []
    for _ in range(max_length):
        ids = torch.tensor([caption], dtype=torch.long, device=pixels.device)  # (1, T)
        x = torch.cat([image, captioner.gpt2.embed(ids)], dim=1)  # (1, N + T, C)
        logits = captioner.gpt2.forward_embeddings(x)[0, -1]  # (V,)
        caption.append(next_token(logits, temperature, top_k, generator))
    return caption


@torch.no_grad()
def inference2(
    captioner: Captioner,
    pixels: torch.Tensor,
    max_length: int = 50,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """(1, 3, size, size) -> `max_length` ids; keeps the vectors and appends one at each step."""
    x = captioner.image_tokens(pixels)  # (1, N, C)
    caption: list[int] = []
    for _ in range(max_length):
        logits = captioner.gpt2.forward_embeddings(x)[0, -1]  # (V,)
        token = next_token(logits, temperature, top_k, generator)
        caption.append(token)
        newest = torch.tensor([[token]], device=pixels.device)  # (1, 1)
        x = torch.cat([x, captioner.gpt2.embed(newest)], dim=1)  # (1, N + T, C)
    return caption


def next_token(
    logits: torch.Tensor,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> int:
    """The likeliest of (V,), or one drawn: the k likeliest kept, then the temperature."""
    if temperature == 0:
        return int(logits.argmax())
    if top_k is not None:
        lowest = logits.topk(min(top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    chances = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(chances, 1, generator=generator))
