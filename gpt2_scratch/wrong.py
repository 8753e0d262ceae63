"""The mistakes of `mistakes.py`, each as a recipe of the numpy reference.

Planted there in the model, made here in code that shares nothing with it: so one tells the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpt2_scratch.raw import Array
from gpt2_scratch.reference import join, layer_norm, split
from weights.rounding import rounded

ERF = np.vectorize(math.erf, otypes=[float])


def gelu_exact(x: Array) -> Array:
    return 0.5 * x * (1 + ERF(x / math.sqrt(2)).astype(x.dtype))


def gelu_quick(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-1.702 * x))


def eps_outside(x: Array, g: Array, b: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    return x / (np.sqrt((x * x).mean(-1, keepdims=True)) + x.dtype.type(1e-5)) * g + b


def square_transposed(x: Array, w: Array, b: Array) -> Array:
    return x @ (w.T if w.shape[0] == w.shape[1] else w) + b


def keys_without_bias(x: Array, w: Array, b: Array) -> Array:
    size_in, size_out = w.shape
    if size_out == 3 * size_in:  # c_attn
        b = b.copy()
        b[size_in : 2 * size_in] = 0
    return x @ w + b


def in_few_bits(x: Array, w: Array, b: Array, kept: int = 7) -> Array:
    return rounded(rounded(rounded(x, kept) @ rounded(w, kept), kept) + rounded(b, kept), kept)


def in_tf32(x: Array, w: Array, b: Array) -> Array:
    return rounded(x, 10) @ rounded(w, 10) + b


def reordered(order: tuple[int, int, int]) -> Callable[[Array, int], Any]:
    return lambda y, heads: tuple(split(y, heads)[part] for part in order)


def split_per_head(y: Array, heads: int) -> tuple[Array, ...]:
    parts = y.reshape(*y.shape[:2], heads, 3, -1)  # (B, T, H, 3, D)
    return tuple(parts[..., i, :].reshape(*y.shape[:2], -1) for i in range(3))


def split_interleaved(y: Array, heads: int) -> tuple[Array, ...]:
    return tuple(
        part.reshape(*y.shape[:2], -1, heads).swapaxes(-2, -1).reshape(part.shape)
        for part in split(y, heads)
    )


def not_turned_back(mixed: Array) -> Array:
    return join(mixed).reshape(mixed.shape).swapaxes(1, 2).reshape(*mixed.shape[:2], -1)


def norm_after(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
    x = part("ln_1", x + part("attn", x))
    seen["resid_attn"] = x + part("mlp", x)
    return part("ln_2", seen["resid_attn"])


def side_by_side(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
    seen["resid_attn"] = x
    return x + part("attn", part("ln_1", x)) + part("mlp", part("ln_2", x))


def norms_swapped(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
    """As one sees it who watches the two norms themselves: ln_1 is what ln_1 gives."""
    seen["resid_attn"] = x
    x = x + part("attn", part("ln_2", x))
    return x + part("mlp", part("ln_1", x))


def norm_weights_swapped(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
    """As one sees it who watches the places: ln_1 is what attention reads."""
    first = part("ln_2", x)
    x = x + part("attn", first)
    seen["resid_attn"] = x
    second = part("ln_1", x)
    seen["ln_1"], seen["ln_2"] = first, second
    return x + part("mlp", second)


def no_residual(around: str) -> Callable[..., Array]:
    def wired(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
        x = part("attn", part("ln_1", x)) + (0 if around == "attn" else x)
        seen["resid_attn"] = x
        return part("mlp", part("ln_2", x)) + (0 if around == "mlp" else x)

    return wired


def as_strings(layers: int) -> list[int]:
    return sorted(range(layers), key=str)  # 0, 1, 10, 11, 2, ...


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
