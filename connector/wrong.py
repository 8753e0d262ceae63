"""The mistakes of `mistakes.py`, each as a recipe of the numpy reference.

Planted there in the tower, made here in code that shares nothing with it: so one tells the other.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from connector.reference import DEVIATION, MEAN, embed, patches, resize_and_crop
from weights import pieces
from weights.compare import Array
from weights.pieces import reordered
from weights.rounding import rounded, to_float16

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 32)  # of heads, some of which somebody sets

# --- pixels: what becomes of right ones, (B, 3, S, S) ------------------------------------------


def scaled(pixels: Array) -> Array:
    """Back to 0 to 1, before the mean was taken away."""
    return pixels * np.reshape(DEVIATION, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1))


def normalised_by(mean: Any, deviation: Any, pixels: Array, factor: float = 1.0) -> Array:
    mean, deviation = (np.reshape(three, (3, 1, 1)) for three in (mean, deviation))
    return (scaled(pixels) * factor - mean) / deviation


def swapped(pixels: Array) -> Array:
    """Channels in the other order before they were normalised: red by blue's mean."""
    three = scaled(pixels)[:, ::-1]
    return (three - np.reshape(MEAN, (3, 1, 1))) / np.reshape(DEVIATION, (3, 1, 1))


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def squashed(picture: Array, side: int) -> Array:
    image = Image.fromarray(picture)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def cut_from_corner(picture: Array, side: int) -> Array:
    high, wide = (max(side, side * n // min(picture.shape[:2])) for n in picture.shape[:2])
    resized = Image.fromarray(picture).resize((wide, high), Image.Resampling.BICUBIC)
    return np.asarray(resized)[:side, :side]


# --- patches and their places -------------------------------------------------------------------


def with_kernel(turn: Any) -> Any:
    return lambda pixels, weight, multiply: patches(pixels, turn(weight), multiply)


def channels_last(pixels: Array, weight: Array, multiply: Any) -> Array:
    """A patch laid out as (p, p, 3), times weights that lie as (3, p, p)."""
    wide, _, side, _ = weight.shape
    laid = weight.reshape(wide, side, side, 3)
    return patches(pixels, np.moveaxis(laid, -1, 1), multiply)


def by_column(x: Array) -> Array:
    """(B, P, W): the patches column by column."""
    side = math.isqrt(x.shape[1])
    return x.reshape(len(x), side, side, -1).swapaxes(1, 2).reshape(x.shape)


def columns_first(pixels: Array, weight: Array, multiply: Any) -> Array:
    return by_column(patches(pixels, weight, multiply))


def places_by_column(x: Array, first: Array, places: Array) -> Array:
    return embed(x, first, np.concatenate([places[:1], by_column(places[None, 1:])[0]]))


def token(x: Array, first: Array) -> Array:
    return np.broadcast_to(first, (len(x), 1, x.shape[-1]))


def class_last(x: Array, first: Array, places: Array) -> Array:
    return np.concatenate([x, token(x, first)], 1) + places


def class_last_placed(x: Array, first: Array, places: Array) -> Array:
    return np.roll(embed(x, first, places), -1, axis=1)


def at(turn: Any) -> Any:
    """With other places: `turn` makes (1 + P, W) of (1 + P, W)."""
    return lambda x, first, places: embed(x, first, turn(places))


# --- attention and linear maps ------------------------------------------------------------------


def thirds_transposed(x: Array, w: Array, b: Array) -> Array:
    """Queries, keys and values by square matrices that lie the other way."""
    return x @ np.concatenate([part.T for part in np.split(w, 3, axis=1)], axis=1) + b


def no_bias(x: Array, w: Array, b: Array) -> Array:
    return x @ w


def in_few_bits(kept: int) -> dict[str, Any]:
    return {
        "linear": partial(pieces.in_few_bits, kept=kept),
        "multiply": lambda x, w: pieces.in_few_bits(x, w, np.zeros(1, x.dtype), kept),
    }


IN_TF32: dict[str, Any] = {
    "linear": pieces.in_tf32,
    "multiply": lambda x, w: pieces.in_tf32(x, w, np.zeros(1, x.dtype)),
}


def shared(right: int, count: int, width: int) -> int:
    """So many heads where the width can be shared by them, else as many as is right."""
    return right if not count or width % count else count


def with_heads(count: int) -> dict[str, Any]:
    """So many heads where no other name says it."""

    def heads(right: int, width: int) -> int:
        return shared(right, right if count in (right // 2, 2 * right) else count, width)

    return {"heads": heads}


def shown_last(x: Array, last: bool, post: Any) -> Array:
    return post(x) if last else x


def unit(features: Array) -> Array:
    return features / np.sqrt((features * features).sum(-1, keepdims=True))


def both(name: str, changes: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The image's vector is made of the state inside, or of the one that is returned."""
    return [(name, changes), (name, {**changes, "pool_shown": True})]


# What each mistake of the registry, under its name there, changes in the recipe. A name comes twice
# where it is made in two ways, or looks different to who watches modules and to who watches places.
# fmt: off
WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("imagenet-mean", {"pixels": partial(normalised_by, *IMAGENET)}),
    ("mean-of-a-half", {"pixels": partial(normalised_by, *HALF)}),
    ("not-normalised", {"pixels": scaled}),
    ("not-divided-by-255", {"pixels": partial(normalised_by, MEAN, DEVIATION, factor=255.0)}),
    ("divided-by-255-twice", {"pixels": partial(normalised_by, MEAN, DEVIATION, factor=1 / 255)}),
    ("bgr", {"pixels": swapped}),
    ("bgr", {"pixels": lambda pixels: pixels[:, ::-1]}),
    ("rows-as-columns", {"pixels": lambda pixels: pixels.swapaxes(-2, -1)}),
    ("squashed", {"picture": squashed}),
    ("bilinear", {"picture": partial(resize_and_crop, filter=Image.Resampling.BILINEAR)}),
    ("cut-from-corner", {"picture": cut_from_corner}),
    ("conv-transposed", {"patches": with_kernel(lambda w: w.swapaxes(-2, -1))}),
    ("conv-flipped", {"patches": with_kernel(lambda w: w[..., ::-1, ::-1])}),
    ("conv-channels-last", {"patches": channels_last}),
    ("patches-by-column", {"patches": columns_first}),
    ("patches-by-column", {"embed": lambda x, first, places: embed(by_column(x), first, places)}),
    ("places-by-column", {"embed": places_by_column}),
    ("class-token-last", {"embed": class_last}),
    ("class-token-last", {"embed": class_last, "pool": lambda x: x[:, -1]}),
    ("class-token-last", {"embed": class_last_placed}),
    ("class-token-last", {"embed": class_last_placed, "pool": lambda x: x[:, -1]}),
    ("no-class-token", {"embed": lambda x, first, places: x + places[1:]}),
    ("no-class-token", {"embed": lambda x, first, places: x + places[:-1]}),
    ("no-positions", {"embed": lambda x, first, places: embed(x, first, 0 * places)}),
    ("class-token-unplaced", {"embed": at(lambda places: np.r_[0 * places[:1], places[1:]])}),
    ("positions-off-by-one", {"embed": at(lambda places: np.roll(places, 1, axis=0))}),
    ("positions-off-by-one", {"embed": at(lambda places: np.roll(places, -1, axis=0))}),
    ("positions-off-by-one", {"embed": at(lambda places: np.r_[places[:1], places[:-1]])}),
    ("positions-off-by-one", {"embed": at(lambda places: np.r_[places[1:], places[-1:]])}),
    ("positions-off-by-one", {"embed": at(lambda places: np.r_[0 * places[:1], places[:-1]])}),
    ("no-ln-pre", {"ln_pre": False}),
    ("gelu-exact", {"gelu": pieces.gelu_exact}),
    ("gelu-tanh", {"gelu": pieces.gelu_tanh}),
    ("gelu-quick", {"gelu": pieces.gelu_quick}),
    ("relu", {"gelu": lambda x: np.maximum(x, 0)}),
    ("eps-outside-root", {"norm": pieces.eps_outside}),
    ("eps-1e-3", {"norm": partial(pieces.layer_norm, eps=1e-3)}),
    ("eps-1e-6", {"norm": partial(pieces.layer_norm, eps=1e-6)}),
    ("eps-1e-12", {"norm": partial(pieces.layer_norm, eps=1e-12)}),
    ("sample-variance", {"norm": partial(pieces.layer_norm, correction=1)}),
    ("no-mean", {"norm": partial(pieces.layer_norm, centre=False)}),
    ("no-scale", {"scale": lambda heads, size, layer: 1.0}),
    ("scale-twice", {"scale": lambda heads, size, layer: 1 / size}),
    ("scale-by-width", {"scale": lambda heads, size, layer: 1 / math.sqrt(heads * size)}),
    ("causal-mask", {"causal": True}),
    ("softmax-over-queries", {"over": -2}),
    ("half-the-heads", {"heads": lambda heads, width: shared(heads, heads // 2, width)}),
    ("twice-the-heads", {"heads": lambda heads, width: shared(heads, 2 * heads, width)}),
    *((f"{count}-heads", with_heads(count)) for count in COUNTS),
    ("keys-queries-values", {"split": reordered((1, 0, 2))}),
    ("queries-values-keys", {"split": reordered((0, 2, 1))}),
    ("values-keys-queries", {"split": reordered((2, 1, 0))}),
    ("keys-values-queries", {"split": reordered((2, 0, 1))}),
    ("values-queries-keys", {"split": reordered((1, 2, 0))}),
    ("qkv-per-head", {"split": pieces.split_per_head}),
    ("heads-interleaved", {"split": pieces.split_interleaved}),
    ("heads-not-turned-back", {"join": pieces.not_turned_back}),
    ("qkv-transposed", {"in_proj": thirds_transposed}),
    ("out_proj-transposed", {"out_proj": lambda x, w, b: x @ w.T + b}),
    ("no-bias", {"linear": no_bias}),
    ("no-qkv-bias", {"in_proj": no_bias}),
    ("no-key-bias", {"in_proj": pieces.keys_without_bias}),
    ("post-norm", {"wiring": pieces.norm_after}),
    ("parallel-block", {"wiring": pieces.side_by_side}),
    ("no-residual-attention", {"wiring": pieces.no_residual("attn")}),
    ("no-residual-mlp", {"wiring": pieces.no_residual("mlp")}),
    ("norms-swapped", {"wiring": pieces.norms_swapped}),
    ("norms-swapped", {"wiring": pieces.norm_weights_swapped}),
    ("blocks-sorted-as-strings", {"order": pieces.as_strings}),
    ("blocks-sorted-as-strings", {"order": pieces.as_strings, "by_place": False}),
    ("blocks-sorted-as-strings", {"order": pieces.as_strings_before}),
    ("states-from-block-1", {"states_from": 1}),
    ("states-before-ln-pre", {"first_state": "embed"}),
    *both("ln-post-on-states", {"shown": lambda x, last, post: post(x)}),
    *both("ln-post-on-last-state", {"shown": shown_last}),
    *both("states-without-class-token", {"shown": lambda x, last, post: x[:, 1:]}),
    *both("patch-states-from-block-1",
          {"states_from": 1, "shown": lambda x, last, post: x[:, 1:]}),
    *both("normed-states-from-block-1",
          {"states_from": 1, "shown": lambda x, last, post: post(x)}),
    ("no-ln-post", {"ln_post": False}),
    ("mean-of-patches", {"pool": lambda x: x[:, 1:].mean(1)}),
    ("mean-of-patches", {"pool": lambda x: x.mean(1)}),
    ("features-of-length-1", {"features": unit}),
    ("weights-in-bfloat16", {"stored": lambda tensor: rounded(tensor, 7)}),
    ("weights-in-float16", {"stored": to_float16}),
    ("bfloat16", in_few_bits(7)),
    ("tf32", IN_TF32),
)
# fmt: on
