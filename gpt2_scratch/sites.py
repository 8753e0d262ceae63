"""The intermediates of a model, by name: of ours, of transformers', of anybody's.

In the order of computation, L two digits at least: `embed`; of each block `layerLL.` with ln_1, q,
k, v, scores (before the softmax), weights (after it), attn (after c_proj), resid_attn, ln_2, mlp,
resid; `ln_f`; `logits`. scores and weights are (B, H, T, T), logits (B, T, V), others (B, T, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gpt2_scratch import model as model_file
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import Attention, GPT2Config
from gpt2_scratch.generate import eval_mode
from gpt2_scratch.model import GPT2
from gpt2_scratch.raw import Array
from gpt2_scratch.reference import PAD
from weights.hooks import Sites, as_array, record
from weights.planting import rebound


def third(part: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Queries (0), keys (1) or values (2) of what c_attn gives, (B, T, 3C) -> (B, T, C)."""
    return lambda y: y.chunk(3, -1)[part]


OURS: Sites = {
    "embed": "h.0.input",
    "layer{}.ln_1": "h.{}.ln_1",
    "layer{}.attn": "h.{}.attn",
    "layer{}.resid_attn": "h.{}.ln_2.input",
    "layer{}.ln_2": "h.{}.ln_2",
    "layer{}.mlp": "h.{}.mlp",
    "layer{}.resid": "h.{}",
    "ln_f": "ln_f",
}
TRANSFORMERS: Sites = {
    "embed": "transformer.h.0.input",
    "layer{}.ln_1": "transformer.h.{}.ln_1",
    "layer{}.q": ("transformer.h.{}.attn.c_attn", third(0)),
    "layer{}.k": ("transformer.h.{}.attn.c_attn", third(1)),
    "layer{}.v": ("transformer.h.{}.attn.c_attn", third(2)),
    "layer{}.weights": ("transformer.h.{}.attn", lambda output: output[1]),  # eager attention
    "layer{}.attn": "transformer.h.{}.attn",
    "layer{}.resid_attn": "transformer.h.{}.ln_2.input",
    "layer{}.ln_2": "transformer.h.{}.ln_2",
    "layer{}.mlp": "transformer.h.{}.mlp",
    "layer{}.resid": "transformer.h.{}",
    "ln_f": "transformer.ln_f",
}


def record_module(
    module: nn.Module, ids: torch.Tensor, sites: Sites, layers: int
) -> dict[str, Array]:
    """Arrays by site name of one `module(ids)` in eval mode, its output as `logits`."""
    held, output = record(module, ids, sites, layers)
    held.setdefault("logits", as_array(output, "logits"))
    return held


@contextmanager
def attention_path(model: GPT2, path: Attention) -> Iterator[None]:
    """The same model with "explicit" or "sdpa" attention inside the block."""
    with ExitStack() as stack:
        config = replace(model.config, attention=path)
        for block in model.h.children():
            part = block.get_submodule("attn")
            if isinstance(getattr(part, "config", None), GPT2Config):  # who has none has one path
                stack.enter_context(rebound(part, "config", config))
        yield


@torch.no_grad()
def record_ours(model: GPT2, ids: torch.Tensor) -> dict[str, Array]:
    """Every site of our GPT-2, and its logits on three more ways: fused, cached, padded."""
    held: dict[str, Array] = {}
    layer = -1  # the block that is at work
    table = (len(ids), model.config.n_head, ids.shape[1], ids.shape[1])
    right_softmax, right_attention = torch.softmax, model_file.explicit_attention

    def softmax(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weights = right_softmax(scores, *args, **kwargs)
        if scores.shape == table:  # who goes row by row, or head by head, has no such tables
            held[f"layer{layer:02}.scores"] = as_array(scores, "scores")
            held[f"layer{layer:02}.weights"] = as_array(weights, "weights")
        return weights

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        for name, part in zip("qkv", args, strict=False):  # (B, H, T, D)
            held[f"layer{layer:02}.{name}"] = as_array(part.transpose(1, 2).flatten(2), name)
        return right_attention(*args, **kwargs)

    def enter(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal layer
            layer = number

        return hook

    with ExitStack() as stack:
        stack.enter_context(attention_path(model, "explicit"))
        for number, block in enumerate(model.h.children()):
            part = block.get_submodule("attn")
            stack.enter_context(part.register_forward_pre_hook(enter(number)))
        stack.enter_context(rebound(model_file, "explicit_attention", attention))
        stack.enter_context(rebound(torch, "softmax", softmax))
        held |= record_module(model, ids, OURS, len(model.h))
    with eval_mode(model), attention_path(model, "sdpa"):
        held |= more_ways(model, ids)
    return held


def more_ways(model: GPT2, ids: torch.Tensor) -> dict[str, Array]:
    """The logits once more: by the fused kernel, in two pieces with a cache, padded on the left."""
    tokens, half = ids.shape[1], ids.shape[1] // 2
    ways = {"fused.logits": model(ids)}
    if half:
        dtype = model.wte.weight.dtype
        cache = KVCache(model.config, len(ids), length=tokens, dtype=dtype, device=ids.device)
        model.forward_embeddings(model.embed(ids[:, :half]), cache=cache)
        ways["cached.logits"] = model.forward_embeddings(model.embed(ids[:, half:]), cache=cache)
    if tokens + PAD <= model.config.n_ctx:
        padded = nn.functional.pad(ids, (PAD, 0))
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[:, :PAD] = True
        ways["padded.logits"] = model(padded, mask)[:, PAD:]
    return {site: as_array(logits, site) for site, logits in ways.items()}


def default_ids(n_vocab: int, n_ctx: int, rows: int = 2, tokens: int = 13) -> torch.Tensor:
    """(B, T) ids from all over the vocabulary, always the same; few, since big models are slow."""
    tokens = max(1, min(tokens, n_ctx - PAD))
    step = next(s for s in (7919, 7907, 7901, 1) if math.gcd(s, n_vocab) == 1)
    return ((torch.arange(rows * tokens) * step + 1) % n_vocab).view(rows, tokens)
