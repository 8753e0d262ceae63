"""MultiHeadAttention, right in three other ways."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class Given(nn.Module):
    """c_attn and c_proj under OpenAI's names."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.n_head
        self.c_attn, self.c_proj = nn.Module(), nn.Module()
        for module, wide in ((self.c_attn, 3), (self.c_proj, 1)):
            module.w = nn.Parameter(torch.zeros(config.n_embd, wide * config.n_embd))
            module.b = nn.Parameter(torch.zeros(wide * config.n_embd))


class ByFusedKernel(Given):
    def forward(self, x, hidden=None, cache=None, layer=0):
        batch, tokens, width = x.shape
        joined = F.linear(x, self.c_attn.w.T, self.c_attn.b)
        q, k, v = joined.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.store(layer, k, v)
        if hidden is None:
            ahead = torch.ones(tokens, k.shape[2], dtype=torch.bool)
            hidden = ahead.triu(k.shape[2] - tokens + 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
        merged = mixed.transpose(1, 2).reshape(batch, tokens, width)
        return F.linear(merged, self.c_proj.w.T, self.c_proj.b)


class ByEinsum(Given):
    def forward(self, x, hidden=None, cache=None, layer=0):
        w = self.c_attn.w.unflatten(-1, (3, self.heads, -1))
        b = self.c_attn.b.unflatten(-1, (3, self.heads, 1, -1))
        q, k, v = torch.einsum("btc,cphd->pbhtd", x, w) + b[:, None]
        if cache is not None:
            k, v = cache.store(layer, k, v)
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) / q.shape[-1] ** 0.5
        own = torch.arange(k.shape[2] - q.shape[2], k.shape[2])
        future = torch.arange(k.shape[2]) > own[:, None]
        hidden = future if hidden is None else hidden
        lowest = torch.finfo(scores.dtype).min
        weights = torch.where(hidden, lowest, scores).softmax(-1) * ~hidden.all(-1, keepdim=True)
        back = self.c_proj.w.unflatten(0, (self.heads, -1))
        return torch.einsum("bhts,bhsd,hdc->btc", weights, v, back) + self.c_proj.b


class ByLoops(Given):
    def forward(self, x, hidden=None, cache=None, layer=0):
        q, k, v = (x @ self.c_attn.w + self.c_attn.b).chunk(3, -1)
        size = q.shape[-1] // self.heads
        q, k, v = (torch.stack(part.split(size, -1), 1) for part in (q, k, v))
        if cache is not None:
            k, v = cache.store(layer, k, v)
        tokens, keys = q.shape[2], k.shape[2]
        if hidden is None:
            hidden = torch.ones(tokens, keys, dtype=torch.bool).triu(keys - tokens + 1)[None, None]
        output = self.c_proj.b.expand(x.shape)
        for head in range(self.heads):
            scores = (q[:, head] * size**-0.5) @ k[:, head].mT
            empty = hidden[:, 0].all(-1, keepdim=True)
            weights = scores.masked_fill(hidden[:, 0] & ~empty, -math.inf).softmax(-1)
            mixed = weights.masked_fill(empty, 0.0) @ v[:, head]
            output = output + mixed @ self.c_proj.w[head * size : (head + 1) * size]
        return output
