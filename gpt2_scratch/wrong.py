"""The mistakes of `mistakes.py`, each as a recipe of the numpy reference.

Planted there in the model, made here in code that shares nothing with it: so one tells the other.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from weights.pieces import (
    as_strings,
    eps_outside,
    gelu_exact,
    gelu_quick,
    in_few_bits,
    in_tf32,
    keys_without_bias,
    layer_norm,
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
    ("scale-by-block", {"scale": lambda heads, size, layer: 1 / math.sqrt(size) / (layer + 1)}),
    ("scale-by-width", {"scale": lambda heads, size, layer: 1 / math.sqrt(heads * size)}),
    ("mask-with-0", {"fill": 0.0}),
    ("mask-with-10", {"fill": -10.0}),
    ("mask-with-1e4", {"fill": -1e4}),
    ("no-causal-mask", {"ahead": 1 << 20}),
    ("one-token-ahead", {"ahead": 1}),
    ("padding-visible", {"padding": False}),
    ("queries-first", {"queries_last": False}),
    ("softmax-over-queries", {"over": -2}),
    ("positions-from-1", {"position": lambda places: places + 1}),
    ("positions-from-2", {"position": lambda places: places + 2}),
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
    ("qkv-per-head", {"split": split_per_head}),
    ("heads-interleaved", {"split": split_interleaved}),
    ("heads-not-turned-back", {"join": not_turned_back}),
    ("post-norm", {"wiring": norm_after}),
    ("parallel-block", {"wiring": side_by_side}),
    ("no-residual-attention", {"wiring": no_residual("attn")}),
    ("no-residual-mlp", {"wiring": no_residual("mlp")}),
    ("norms-swapped", {"wiring": norms_swapped}),
    ("norms-swapped", {"wiring": norm_weights_swapped}),
    ("no-bias", {"linear": lambda x, w, b: x @ w}),
    ("no-key-bias", {"linear": keys_without_bias}),
    ("blocks-sorted-as-strings", {"order": as_strings}),
    ("blocks-sorted-as-strings", {"order": as_strings, "by_place": False}),
    ("bfloat16", {"linear": in_few_bits}),
    ("tf32", {"linear": in_tf32}),
)
