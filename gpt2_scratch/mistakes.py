"""Mistakes that are easily made in a GPT-2, each planted on purpose for the length of a `with`.

A check that lets one of them pass proves little, so whatever judges a GPT-2 is judged by them:
`with mistake.planted(): ...` rebinds names of `gpt2_scratch.model`, as they stand at that moment,
and gives them back. Models that exist already have the mistake too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from gpt2_scratch import model
from gpt2_scratch.cache import KVCache
from weights import planting
from weights.planting import Plant, during, rebound


@dataclass(frozen=True)
class Mistake(planting.Mistake):
    """One mistake: its name, the fact it gets wrong, where it shows, and how it is planted.

    It shows in the logits of one batch, or, where those can't tell, in the `keys` a cache holds, in
    going on from a `cache`, in the softmax's input (`mask`), in `padding`, in ten blocks (`depth`).
    """

    shows_in: Literal["logits", "keys", "cache", "mask", "padding", "depth"] = "logits"


# Scaffolds. Each is right until an argument makes it wrong, and wrong in that one thing only.


def layer_norm(
    *, eps: float = 1e-5, outside: bool = False, correction: int = 0, centre: bool = True
) -> Plant:
    """LayerNorm with another epsilon, outside the root, sample variance, or without the mean."""

    def forward(self: model.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        if centre:
            x = x - x.mean(-1, keepdim=True)
        variance = x.square().sum(-1, keepdim=True) / (x.shape[-1] - correction)
        root = variance.sqrt() + eps if outside else (variance + eps).sqrt()
        return x / root * self.g + self.b

    return lambda: [(model.LayerNorm, "forward", forward)]


def attention(
    *,
    scale: Callable[[int, int], float] = lambda heads, size: 1 / math.sqrt(size),
    fill: float = -math.inf,
    over: int = -1,
) -> Plant:
    """Both attention paths with another scale of (H, D), mask value, or axis of the softmax."""

    def mix(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        hidden: torch.Tensor | None,
        dropout: float = 0.0,
    ) -> torch.Tensor:
        if hidden is None:
            hidden = model.hidden_positions(q.shape[2], k.shape[2], None, q.device)
        empty = hidden.all(-1, keepdim=True)
        scores = q @ k.transpose(-2, -1) * scale(q.shape[1], q.shape[3])
        weights = torch.softmax(scores.masked_fill(hidden & ~empty, fill), dim=over)
        return F.dropout(weights.masked_fill(empty, 0.0), dropout) @ v

    return lambda: [(model, "explicit_attention", mix), (model, "fused_attention", mix)]


def masking(*, ahead: int = 0, padding: bool = True, last: bool = True) -> Plant:
    """A mask that lets every token see so many `ahead` of it, that forgets the padding, or for
    which the queries are not the last of the keys but the first."""

    def hidden(
        tokens: int, keys: int, padding_mask: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor:
        future = torch.ones(tokens, keys, dtype=torch.bool, device=device)
        future = future.triu((keys - tokens if last else 0) + 1 + ahead)[None, None]
        if padding and padding_mask is not None:
            future = future | padding_mask[:, None, None, :]
        return future

    # The fused path makes no mask where only the future is hidden: it gets one through `attention`.
    return lambda: [(model, "hidden_positions", hidden), *attention()()]


def conv1d(forward: Callable[[model.Conv1D, torch.Tensor], torch.Tensor]) -> Plant:
    """Every linear map computed by `forward(self, x)`."""
    return lambda: [(model.Conv1D, "forward", forward)]


def block(forward: Callable[..., torch.Tensor]) -> Plant:
    """Every block computed by `forward(self, x, *what attention gets)`."""
    return lambda: [(model.Block, "forward", forward)]


def projected(change: Callable[[torch.Tensor, int], torch.Tensor]) -> Plant:
    """What c_attn gives, (B, T, 3C), changed by `change(y, H)` before it is split."""

    def meddle(self: model.MultiHeadAttention, *_: Any) -> AbstractContextManager[Any]:
        heads = self.config.n_head
        return self.c_attn.register_forward_hook(lambda _, args, y: change(y, heads))

    return during(model.MultiHeadAttention, "forward", meddle)


def joined(change: Callable[[torch.Tensor], torch.Tensor]) -> Plant:
    """What the heads give, (B, T, H, D), joined to (B, T, C) by `change`."""

    def meddle(self: model.MultiHeadAttention, *_: Any) -> AbstractContextManager[Any]:
        heads = self.config.n_head
        return self.c_proj.register_forward_pre_hook(
            lambda _, args: change(args[0].unflatten(-1, (heads, -1)))
        )

    return during(model.MultiHeadAttention, "forward", meddle)


def thirds(*order: int) -> Plant:
    """Queries, keys and values taken from these thirds of what c_attn gives."""
    return projected(lambda y, H: y.unflatten(-1, (3, -1))[..., order, :].flatten(-2))


def positions(change: Callable[[torch.Tensor, int], torch.Tensor]) -> Plant:
    """Positions (1 or B, T) changed by `change(positions, tokens that the cache holds)`."""

    def meddle(
        self: model.GPT2, x: torch.Tensor, _: object = None, cache: KVCache | None = None
    ) -> AbstractContextManager[Any]:
        before, last = 0 if cache is None else cache.length, self.config.n_ctx - 1
        return self.wpe.register_forward_pre_hook(
            lambda _, args: change(args[0], before).clamp(max=last)
        )

    return during(model.GPT2, "states", meddle)


# The wrong pieces that need more than an argument.


def square_transposed(self: model.Conv1D, x: torch.Tensor) -> torch.Tensor:
    square = self.w.shape[0] == self.w.shape[1]  # c_proj of attention: no shape gives it away
    return x @ (self.w.T if square else self.w) + self.b


def keys_without_bias(self: model.Conv1D, x: torch.Tensor) -> torch.Tensor:
    size_in, size_out = self.w.shape
    b = self.b.clone()
    if size_out == 3 * size_in:  # c_attn
        b[size_in : 2 * size_in] = 0.0
    return x @ self.w + b


def in_bfloat16(self: model.Conv1D, x: torch.Tensor) -> torch.Tensor:
    return (x.bfloat16() @ self.w.bfloat16() + self.b.bfloat16()).to(x.dtype)


def norm_after(self: model.Block, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    x = self.ln_1(x + self.attn(x, *rest))
    return self.ln_2(x + self.mlp(x))


def norms_swapped(self: model.Block, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    x = x + self.attn(self.ln_2(x), *rest)
    return x + self.mlp(self.ln_1(x))


def side_by_side(self: model.Block, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x + self.attn(self.ln_1(x), *rest) + self.mlp(self.ln_2(x))


def no_residual_around_attention(self: model.Block, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    x = self.attn(self.ln_1(x), *rest)
    return x + self.mlp(self.ln_2(x))


def no_residual_around_mlp(self: model.Block, x: torch.Tensor, *rest: Any) -> torch.Tensor:
    x = x + self.attn(self.ln_1(x), *rest)
    return self.mlp(self.ln_2(x))


def sorted_as_strings(self: model.GPT2, *_: Any, **__: Any) -> AbstractContextManager[None]:
    order = sorted(range(len(self.h)), key=str)  # 0, 1, 10, 11, 2, ...
    return rebound(self, "h", nn.ModuleList(self.h[layer] for layer in order))


def last_norm_skipped(self: model.GPT2, *_: Any, **__: Any) -> AbstractContextManager[Any]:
    return self.ln_f.register_forward_hook(lambda _, args, y: args[0], prepend=True)


def places_forgotten(self: model.GPT2, *_: Any, **__: Any) -> AbstractContextManager[Any]:
    return self.wpe.register_forward_hook(lambda _, args, y: torch.zeros_like(y))


def head_of_its_own(self: model.GPT2, states: torch.Tensor) -> torch.Tensor:
    drawn = torch.Generator(states.device).manual_seed(0)
    head = torch.empty_like(self.wte.weight, requires_grad=False).normal_(std=0.02, generator=drawn)
    return states @ head.T


# fmt: off
MISTAKES = (
    Mistake("gelu-exact", "GPT-2's GELU is the tanh form; torch's default is up to 4.7e-4 away.",
            lambda: [(model, "gelu", F.gelu)]),
    Mistake("gelu-quick", "QuickGELU, x * sigmoid(1.702 x), is OpenAI's CLIP, not GPT-2.",
            lambda: [(model, "gelu", lambda x: x * torch.sigmoid(1.702 * x))]),
    Mistake("relu", "GPT-2's MLP has a GELU, which lets a little of the negative side through.",
            lambda: [(model, "gelu", torch.relu)]),
    Mistake("eps-outside-root", "LayerNorm adds epsilon to the variance, before the root.",
            layer_norm(outside=True)),
    Mistake("eps-1e-3", "LayerNorm's epsilon is 1e-5 in GPT-2; 1e-3 is Keras's.",
            layer_norm(eps=1e-3)),
    Mistake("eps-1e-6", "LayerNorm's epsilon is 1e-5 in GPT-2.", layer_norm(eps=1e-6)),
    Mistake("eps-1e-12", "LayerNorm's epsilon is 1e-5 in GPT-2; 1e-12 is BERT's.",
            layer_norm(eps=1e-12)),
    Mistake("sample-variance", "LayerNorm divides the sum of squares by C, not by C - 1.",
            layer_norm(correction=1)),
    Mistake("no-mean", "LayerNorm takes the mean away first; RMSNorm does not.",
            layer_norm(centre=False)),
    Mistake("no-scale", "Scores are divided by sqrt(D).",
            attention(scale=lambda heads, size: 1.0)),
    Mistake("scale-by-width", "Scores are divided by sqrt(D), one head's width, not by sqrt(C).",
            attention(scale=lambda heads, size: 1 / math.sqrt(heads * size))),
    Mistake("mask-with-0", "A hidden score is -inf; 0 is a score like any other.",
            attention(fill=0.0)),
    Mistake("mask-with-10", "A hidden score is -inf; -10 lets a little of the future through.",
            attention(fill=-10.0)),
    Mistake("mask-with-1e4", "A hidden score is -inf; -1e4 works only while no real score is near.",
            attention(fill=-1e4), shows_in="mask"),
    Mistake("no-causal-mask", "No token sees what comes after it.", masking(ahead=1 << 20)),
    Mistake("one-token-ahead", "A token sees itself and what came before, not its successor.",
            masking(ahead=1)),
    Mistake("padding-visible", "No query sees a padded key.",
            masking(padding=False), shows_in="padding"),
    Mistake("queries-first", "With a cache the queries are the last of the keys, not the first.",
            masking(last=False), shows_in="cache"),
    Mistake("softmax-over-queries", "A query's weights over the keys sum to 1: softmax over keys.",
            attention(over=-2)),
    Mistake("positions-from-1", "The first token has position 0.",
            positions(lambda p, before: p + 1)),
    Mistake("positions-from-2", "The first token has position 0; OPT's has 2.",
            positions(lambda p, before: p + 2)),
    Mistake("no-positions", "Each token gets its position's embedding, wpe, too.",
            during(model.GPT2, "states", places_forgotten)),
    Mistake("positions-restart", "Positions go on from the tokens that the cache holds.",
            positions(lambda p, before: p - before), shows_in="cache"),
    Mistake("positions-count-padding", "A position is the number of real tokens before it.",
            positions(lambda p, before: torch.arange(p.shape[1], device=p.device)[None] + before),
            shows_in="padding"),
    Mistake("no-last-norm", "A last LayerNorm, ln_f, stands before the head.",
            during(model.GPT2, "states", last_norm_skipped)),
    Mistake("head-untied", "The head is the token embedding itself, wte.",
            lambda: [(model.GPT2, "unembed", head_of_its_own)]),
    Mistake("c_proj-transposed", "w is (in, out); c_proj is square: no shape betrays a transpose.",
            conv1d(square_transposed)),
    Mistake("keys-queries-values", "c_attn gives queries, keys, values, in this order.",
            thirds(1, 0, 2)),
    Mistake("queries-values-keys", "c_attn gives queries, keys, values, in this order.",
            thirds(0, 2, 1)),
    Mistake("values-keys-queries", "c_attn gives queries, keys, values, in this order.",
            thirds(2, 1, 0)),
    Mistake("keys-values-queries", "c_attn gives queries, keys, values, in this order.",
            thirds(2, 0, 1)),
    Mistake("values-queries-keys", "c_attn gives queries, keys, values, in this order.",
            thirds(1, 2, 0)),
    Mistake("qkv-per-head", "c_attn's output is split in three first, each third into heads then.",
            projected(lambda y, H: y.unflatten(-1, (H, 3, -1)).transpose(-3, -2).flatten(-3))),
    Mistake("heads-interleaved", "A head is D neighbouring channels, not every H-th one.",
            projected(lambda y, H: y.unflatten(-1, (3, -1, H)).transpose(-2, -1).flatten(-3))),
    Mistake("heads-not-turned-back", "Heads are joined as (B, T, H, D), tokens first again.",
            joined(lambda z: z.transpose(1, 2).reshape(*z.shape[:2], -1))),
    Mistake("post-norm", "GPT-2 norms what a block reads; the first Transformer, what it wrote.",
            block(norm_after)),
    Mistake("parallel-block", "The MLP reads the stream after attention has added to it.",
            block(side_by_side)),
    Mistake("no-residual-attention", "Attention adds to the residual stream, replaces nothing.",
            block(no_residual_around_attention)),
    Mistake("no-residual-mlp", "The MLP adds to the residual stream, replaces nothing.",
            block(no_residual_around_mlp)),
    Mistake("norms-swapped", "ln_1 stands before attention, ln_2 before the MLP.",
            block(norms_swapped)),
    Mistake("no-bias", "Every linear map of a block adds its b.",
            conv1d(lambda self, x: x @ self.w)),
    Mistake("no-key-bias", "Keys have a bias; it cancels in the softmax, only a cache shows it.",
            conv1d(keys_without_bias), shows_in="keys"),
    Mistake("blocks-sorted-as-strings", "Block 2 comes before block 10; not so as strings.",
            during(model.GPT2, "states", sorted_as_strings), shows_in="depth"),
    Mistake("bfloat16", "GPT-2 was published in float32; bfloat16 keeps 8 bits of each number.",
            conv1d(in_bfloat16)),
)
# fmt: on
