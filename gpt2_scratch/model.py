"""GPT-2 by hand, read downwards: from one number's normalisation to the whole model.

B batch   T tokens   S tokens that may be looked at (S = T, or more with a cache)
C channels (1280)   H heads (20)   D = C / H (64)   V vocabulary (50257)

Parameter names are OpenAI's (github.com/openai/gpt-2, src/model.py), so that loading its files
is a renaming. Sizes and the key/value cache are in `config.py` and `cache.py`.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config


class LayerNorm(nn.Module):
    """Each token's C numbers to mean 0 and variance 1, then scaled by g and shifted by b."""

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(size))  # gain
        self.b = nn.Parameter(torch.zeros(size))  # bias
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = wide - wide.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)  # divided by C, not by C - 1
        return (centred * torch.rsqrt(variance + self.eps) * self.g + self.b).to(x.dtype)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU in the tanh form (Hendrycks & Gimpel 2016), which GPT-2 was trained with.

    The exact form, torch's default, differs from it by up to 4.7e-4.
    """
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


class Conv1D(nn.Module):
    """A linear map as OpenAI stores it: w is (in, out), so y = x w + b needs no transpose."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(size_in, size_out))
        self.b = nn.Parameter(torch.zeros(size_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, in) -> (B, T, out)."""
        # One call: `x @ w + b` would be widened to float32 by b wherever autocast makes x @ w bf16.
        return torch.addmm(self.b, x.flatten(0, -2), self.w).unflatten(0, x.shape[:-1])


def hidden_positions(
    tokens: int, keys: int, padding_mask: torch.Tensor | None, device: torch.device
) -> torch.Tensor:
    """True where a query may not look: (1 or B, 1, T, S), the future or a padded key.

    The T queries are the last T of the S tokens. `padding_mask` (B, S): True = padding.
    """
    ahead = torch.ones(tokens, keys, dtype=torch.bool, device=device)
    hidden = ahead.triu(keys - tokens + 1)[None, None]  # (1, 1, T, S)
    if padding_mask is not None:
        hidden = hidden | padding_mask[:, None, None, :]  # (B, 1, T, S)
    return hidden


def explicit_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor, dropout: float = 0.0
) -> torch.Tensor:
    """(B, H, T, D), (B, H, S, D), (B, H, S, D), hidden -> (B, H, T, D).

    Vaswani et al. 2017, section 3.2.1. A query with no key left gives zeros.
    """
    empty = hidden.all(-1, keepdim=True)  # (B, 1, T, 1)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    # A row of nothing but -inf would be 0/0 in the softmax: such a row stays, and is zeroed below.
    scores = scores.masked_fill(hidden & ~empty, -math.inf)
    weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    weights = F.dropout(weights, dropout)
    return weights @ v  # (B, H, T, D)


def fused_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    hidden: torch.Tensor | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """(B, H, T, D), (B, H, S, D), (B, H, S, D), hidden -> (B, H, T, D).

    The same through torch's kernel; `hidden=None` means: only the future is hidden (T is S or 1).
    """
    if hidden is None:
        causal = q.shape[2] > 1  # a single query is the newest token and may look at every key
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
    empty = hidden.all(-1, keepdim=True)  # (B, 1, T, 1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden | empty, dropout_p=dropout)
    return mixed.masked_fill(empty, 0.0)


class MultiHeadAttention(nn.Module):
    """H heads, each mixing the values of the tokens that its queries may look at."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)  # to queries, keys and values
        self.c_proj = Conv1D(config.n_embd, config.n_embd)  # back into the residual stream

    def forward(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        heads, dropout = self.config.n_head, self.config.dropout if self.training else 0.0
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).chunk(3, dim=-1)
        )
        if cache is not None:
            k, v = cache.store(layer, k, v)  # (B, H, S, D)
        if self.config.attention == "sdpa":
            mixed = fused_attention(q, k, v, hidden, dropout)
        else:
            if hidden is None:
                hidden = hidden_positions(q.shape[2], k.shape[2], None, x.device)
            mixed = explicit_attention(q, k, v, hidden, dropout)
        joined = mixed.transpose(1, 2).flatten(2)  # (B, T, C)
        return F.dropout(self.c_proj(joined), dropout)


class MLP(nn.Module):
    """Each token for itself: four times wider, GELU, back."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = Conv1D(config.n_embd, 4 * config.n_embd)
        self.c_proj = Conv1D(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        return F.dropout(self.c_proj(gelu(self.c_fc(x))), self.dropout, self.training)


class Block(nn.Module):
    """Attention, then MLP; each reads the normed residual stream and adds to it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd)
        self.attn = MultiHeadAttention(config)
        self.ln_2 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(
        self,
        x: torch.Tensor,
        hidden: torch.Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x), hidden, cache, layer)
        return x + self.mlp(self.ln_2(x))


def embedding(rows: int, size: int) -> nn.Embedding:
    """A table of vectors, not drawn yet: `GPT2.initialise` does that.

    nn.Embedding would draw once for nothing, and on the meta device import torch's compiler (5 s).
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False)


class GPT2(nn.Module):
    """The whole model: embeddings, blocks, the last norm, and `wte` once more as the head."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = embedding(config.n_vocab, config.n_embd)  # word token embeddings
        self.wpe = embedding(config.n_ctx, config.n_embd)  # word position embeddings
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd)
        if not self.wte.weight.is_meta:  # there, weights come by assignment
            self.initialise()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight anew: normal, 0.02 (wpe 0.01); projections back into the residual
        stream are divided by the root of their number (Radford et al. 2019, section 2.3)."""
        for name, parameter in self.named_parameters():
            if name.endswith((".w", "wte.weight")):
                scale = 1 / math.sqrt(2 * self.config.n_layer) if "c_proj" in name else 1.0
                parameter.normal_(std=0.02 * scale, generator=generator)
            elif name == "wpe.weight":
                parameter.normal_(std=0.01, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith(".g") else 0.0)

    def forward(self, ids: torch.Tensor, padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) -> (B, T, V)."""
        return self.forward_embeddings(self.embed(ids), padding_mask)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings, still without positions: (B, T) ids -> (B, T, C)."""
        return self.wte(ids)  # (B, T, C)

    def forward_embeddings(
        self,
        x: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """Logits for inputs that are vectors already: (B, T, C) -> (B, T, V).

        `padding_mask` (B, T): True = padding. With a cache, x and the mask are the new tokens only.
        """
        return self.unembed(self.states(x, padding_mask, cache))

    def states(
        self,
        x: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        cache: KVCache | None = None,
    ) -> torch.Tensor:
        """The last norm's output, (B, T, C) -> (B, T, C): for who needs few positions' logits."""
        tokens, before = x.shape[1], 0 if cache is None else cache.length
        if before + tokens > self.config.n_ctx:
            raise ValueError(
                f"{before + tokens} tokens came; this model's context is n_ctx={self.config.n_ctx}."
                " Shorten the input or generate fewer tokens."
            )
        mask, padded = padding_mask, padding_mask is not None
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ValueError(
                f"padding_mask is {tuple(mask.shape)} of {mask.dtype}, the input {tuple(x.shape)}."
                " Give one bool for each token, True = padding: (B, T) beside (B, T, C)."
            )
        if cache is not None:
            cache.extend(len(x), tokens, padding_mask)
            mask, padded = cache.padding_mask, cache.padded
        if padded:
            assert mask is not None
            # A token's position is the number of real tokens before it; padding's doesn't matter.
            positions = ((~mask).cumsum(-1) - 1).clamp(min=0)[:, before:]  # (B, T)
        else:
            mask, positions = None, torch.arange(before, before + tokens, device=x.device)[None]
        hidden = None
        if padded or (before and tokens > 1):
            hidden = hidden_positions(tokens, before + tokens, mask, x.device)
        dropout = self.config.dropout if self.training else 0.0
        x = F.dropout(x + self.wpe(positions), dropout)
        for layer, block in enumerate(self.h):
            x = block(x, hidden, cache, layer)
        return self.ln_f(x)

    def unembed(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of every word by its own embedding: (B, T, C) -> (B, T, V)."""
        return states @ self.wte.weight.T  # (B, T, V)
