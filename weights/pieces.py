"""The pieces of a transformer in plain numpy, right and wrong: what references are made of.

They know arrays, no checkpoint. B batch   T tokens   C channels   H heads   D = C / H
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from weights.compare import Array
from weights.rounding import rounded


def layer_norm(
    x: Array, g: Array, b: Array, eps: float = 1e-5, correction: int = 0, centre: bool = True
) -> Array:
    if centre:
        x = x - x.mean(-1, keepdims=True)
    variance = (x * x).sum(-1, keepdims=True) / (x.shape[-1] - correction)
    return x / np.sqrt(variance + x.dtype.type(eps)) * g + b


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def linear(x: Array, w: Array, b: Array) -> Array:
    return x @ w + b


def split(y: Array, heads: int) -> tuple[Array, Array, Array]:
    """(B, T, 3C) -> three of (B, T, C)."""
    q, k, v = np.split(y, 3, axis=-1)
    return q, k, v


def join(mixed: Array) -> Array:
    """(B, T, H, D) -> (B, T, C)."""
    return mixed.reshape(*mixed.shape[:2], -1)


def pre_norm(x: Array, part: Callable[..., Array], seen: dict[str, Array]) -> Array:
    """One block of GPT-2 or CLIP; `part(name, input)` computes ln_1, attn, ln_2 and mlp."""
    x = x + part("attn", part("ln_1", x))
    seen["resid_attn"] = x
    return x + part("mlp", part("ln_2", x))


# --- what is done wrong ---------------------------------------------------------------------------

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


def as_strings_before(layers: int) -> list[int]:
    """The right order of blocks that were saved in that of `as_strings`."""
    return [as_strings(layers).index(layer) for layer in range(layers)]
