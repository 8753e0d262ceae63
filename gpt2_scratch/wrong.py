"""The mistakes of `mistakes.py`, each as a recipe of the numpy reference.

Planted there in the model, made here in code that shares nothing with it: so one tells the other.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from weights.compare import Array
from weights.pieces import (
    as_strings,
    as_strings_before,
    eps_outside,
    gelu_exact,
    gelu_quick,
    in_few_bits,
    in_tf32,
    keys_without_bias,
    layer_norm,
    linear,
    no_residual,
    norm_after,
    norm_weights_swapped,
    norms_swapped,
    not_turned_back,
    reordered,
    side_by_side,
    split_interleaved,
    split_per_head,
    square_transposed,
)
from weights.rounding import rounded, to_float16

LOWEST = float(np.finfo(np.float32).min)
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 25, 32)  # of heads, some of which somebody sets


def with_heads(count: int) -> dict[str, Any]:
    """So many heads where the width can be shared by them; else as many as there are."""
    return {"heads": lambda heads, width: heads if width % count else count}


def of_queries(changed: Any) -> Any:
    """Another linear map in c_attn alone, whose w is (C, 3C)."""
    return lambda x, w, b: (changed if w.shape[1] == 3 * w.shape[0] else linear)(x, w, b)


def log_softmax(logits: Array) -> Array:
    far = logits - logits.max(-1, keepdims=True)
    return far - np.log(np.exp(far).sum(-1, keepdims=True))


def no_bias(x: Array, w: Array, b: Array) -> Array:
    return x @ w


# What each mistake of the registry, under its name there, changes in the recipe. A name comes twice
# where its sites look different to who watches modules and to who watches places.
WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gelu-exact", {"gelu": gelu_exact}),
    ("gelu-quick", {"gelu": gelu_quick}),
    ("relu", {"gelu": lambda x: np.maximum(x, 0)}),
    ("eps-outside-root", {"norm": eps_outside}),
    ("eps-1e-3", {"norm": partial(layer_norm, eps=1e-3)}),
    ("eps-1e-6", {"norm": partial(layer_norm, eps=1e-6)}),
    ("eps-1e-12", {"norm": partial(layer_norm, eps=1e-12)}),
    ("sample-variance", {"norm": partial(layer_norm, correction=1)}),
    ("no-mean", {"norm": partial(layer_norm, centre=False)}),
    ("no-scale", {"scale": lambda heads, size, layer: 1.0}),
    ("scale-twice", {"scale": lambda heads, size, layer: 1 / size}),
    ("scale-by-block", {"scale": lambda heads, size, layer: 1 / math.sqrt(size) / (layer + 1)}),
    ("scale-by-width", {"scale": lambda heads, size, layer: 1 / math.sqrt(heads * size)}),
    ("mask-with-0", {"fill": 0.0}),
    ("mask-with-10", {"fill": -10.0}),
    ("mask-with-1e4", {"fill": -1e4}),
    ("mask-with-1e9", {"fill": -1e9}),
    ("mask-with-1e10", {"fill": -1e10}),
    ("mask-with-lowest", {"fill": LOWEST}),
    ("no-causal-mask", {"ahead": 1 << 20}),
    ("one-token-ahead", {"ahead": 1}),
    ("padding-visible", {"padding": False}),
    ("queries-first", {"queries_last": False}),
    ("softmax-over-queries", {"over": -2}),
    ("positions-from-1", {"position": lambda places: places + 1}),
    ("positions-from-2", {"position": lambda places: places + 2}),
    ("positions-late", {"position": lambda places: places - 1}),  # -1: the last of all, as in numpy
    ("positions-late", {"position": lambda places: np.maximum(places - 1, 0)}),
    ("positions-all-0", {"position": lambda places: 0 * places}),
    ("no-positions", {"embed": lambda words, places: words}),
    ("positions-restart", {"restart": True}),
    ("positions-count-padding", {"count_padding": True}),
    ("no-last-norm", {"last_norm": False}),
    ("c_proj-transposed", {"linear": square_transposed}),
    ("keys-queries-values", {"split": reordered((1, 0, 2))}),
    ("queries-values-keys", {"split": reordered((0, 2, 1))}),
    ("values-keys-queries", {"split": reordered((2, 1, 0))}),
    ("keys-values-queries", {"split": reordered((2, 0, 1))}),
    ("values-queries-keys", {"split": reordered((1, 2, 0))}),
    *((f"{count}-heads", with_heads(count)) for count in COUNTS),
    ("qkv-per-head", {"split": split_per_head}),
    ("heads-interleaved", {"split": split_interleaved}),
    ("heads-not-turned-back", {"join": not_turned_back}),
    ("post-norm", {"wiring": norm_after}),
    ("parallel-block", {"wiring": side_by_side}),
    ("no-residual-attention", {"wiring": no_residual("attn")}),
    ("no-residual-mlp", {"wiring": no_residual("mlp")}),
    ("norms-swapped", {"wiring": norms_swapped}),
    ("norms-swapped", {"wiring": norm_weights_swapped}),
    ("no-bias", {"linear": no_bias}),
    ("no-bias", {"linear": no_bias, "norm": lambda x, g, b: layer_norm(x, g, 0 * b)}),
    ("no-norm-bias", {"norm": lambda x, g, b: layer_norm(x, g, 0 * b)}),
    ("no-qkv-bias", {"linear": of_queries(no_bias)}),
    ("no-key-bias", {"linear": keys_without_bias}),
    ("blocks-sorted-as-strings", {"order": as_strings}),
    ("blocks-sorted-as-strings", {"order": as_strings, "by_place": False}),
    ("blocks-sorted-as-strings", {"order": as_strings_before}),
    ("log-probabilities", {"shown": log_softmax}),
    ("probabilities", {"shown": lambda logits: np.exp(log_softmax(logits))}),
    ("weights-in-bfloat16", {"stored": lambda tensor: rounded(tensor, 7)}),
    ("weights-in-float16", {"stored": to_float16}),
    ("bfloat16", {"linear": in_few_bits}),
    ("tf32", {"linear": in_tf32}),
)
