"""CLIP's image tower a second time, in plain numpy: what `verify` holds the tower against.

It shares nothing with `vision.py` and `loader.py`. Each piece can be another one (`Recipe`), so
that the same few lines also compute what a tower with a known mistake would.

B batch   S side of the picture   P patches   W width   T = 1 + P tokens   H heads   D = W / H
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from connector.raw import RawTower
from weights.compare import Array, Walk
from weights.pieces import gelu_exact, gelu_quick, join, layer_norm, linear, pre_norm, split

MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip/clip.py
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
BLOCK_SITES = ("ln_1", "q", "k", "v", "weights", "attn", "resid_attn", "ln_2", "mlp", "resid")


def site_names(layers: int, projection: bool = True) -> list[str]:
    """Every site in the order of computation."""
    names = ["pixel_values", "patches", "embed", "ln_pre", "hidden_states_00"]
    for layer in range(layers):
        names += [f"layer{layer:02}.{name}" for name in BLOCK_SITES]
        names.append(f"hidden_states_{layer + 1:02}")
    return [*names, "ln_post", *(["image_features"] * projection)]


def resize_and_crop(picture: Array, side: int, filter: Any = Image.Resampling.BICUBIC) -> Array:
    """(height, width, 3) -> (S, S, 3) uint8: the shorter side becomes S, the centre is kept."""
    high, wide = (max(side, side * n // min(picture.shape[:2])) for n in picture.shape[:2])
    resized = np.asarray(Image.fromarray(picture).resize((wide, high), filter))
    top, left = round((high - side) / 2), round((wide - side) / 2)
    return resized[top : top + side, left : left + side]


def normalised(pixels: Array, mean: Sequence[float] = MEAN, deviation: Any = DEVIATION) -> Array:
    """(B, S, S, 3) of 0 to 255 -> (B, 3, S, S)."""
    return np.moveaxis((pixels / 255 - np.array(mean)) / np.array(deviation), -1, 1)


def patches(pixels: Array, weight: Array, multiply: Callable[[Array, Array], Array]) -> Array:
    """(B, 3, S, S), (W, 3, p, p) -> (B, P, W), row by row."""
    side = weight.shape[-1]
    grid = pixels.shape[-1] // side
    cut = pixels.reshape(*pixels.shape[:2], grid, side, grid, side).transpose(0, 2, 4, 1, 3, 5)
    flat = cut.reshape(len(pixels), grid * grid, -1)  # (B, P, 3 p p)
    return multiply(flat, weight.reshape(len(weight), -1).T)


def embed(patches: Array, class_token: Array, places: Array) -> Array:
    """(B, P, W) -> (B, 1 + P, W)."""
    first = np.broadcast_to(class_token, (len(patches), 1, patches.shape[-1]))
    return np.concatenate([first, patches], 1) + places


@dataclass(frozen=True)
class Recipe:
    """The pieces of a tower; the defaults are the right ones."""

    stored: Callable[[Array], Array] = lambda tensor: tensor  # what becomes of what the file holds
    picture: Callable[[Array, int], Array] = resize_and_crop
    pixels: Callable[[Array], Array] = lambda pixels: pixels  # what becomes of right ones
    patches: Callable[..., Array] = patches
    embed: Callable[[Array, Array, Array], Array] = embed
    ln_pre: bool = True
    norm: Callable[..., Array] = layer_norm
    norms: Mapping[str, Callable[..., Array]] = field(default_factory=dict)  # of single places
    gelu: Callable[[Array], Array] | None = None  # None: the one that the folder names
    linear: Callable[..., Array] = linear
    in_proj: Callable[..., Array] | None = None  # another linear map for q, k and v alone
    out_proj: Callable[..., Array] | None = None
    multiply: Callable[[Array, Array], Array] = lambda x, w: x @ w
    scale: Callable[[int, int, int], float] = lambda heads, size, layer: 1 / math.sqrt(size)
    heads: Callable[[int, int], int] = lambda heads, width: heads
    causal: bool = False
    over: int = -1  # axis of the softmax
    split: Callable[[Array, int], tuple[Array, Array, Array]] = split
    join: Callable[[Array], Array] = join
    wiring: Callable[..., Array] = pre_norm
    order: Callable[[int], list[int]] = lambda layers: list(range(layers))
    by_place: bool = True  # layer02 is what stands third, not the one whose weights are block 2's
    first_state: str = "ln_pre"
    states_from: int = 0  # which state is returned as the first
    # What is returned of a state x (B, T, W): shown(x, whether it is the last, ln_post).
    shown: Callable[[Array, bool, Callable[[Array], Array]], Array] = lambda x, last, post: x
    pool_shown: bool = False  # whether the image's vector is made of the state as it is returned
    pool: Callable[[Array], Array] = lambda x: x[:, 0]
    ln_post: bool = True
    features: Callable[[Array], Array] = lambda features: features


RIGHT = Recipe()


@dataclass(frozen=True)
class Given:
    """What a tower is run on: pictures (height, width, 3) of uint8, or what became of them."""

    pictures: tuple[Array, ...] = ()
    pixels: Array | None = None  # (B, 3, S, S), where there are no pictures


class Reference:
    """One checkpoint and one input; `walk` computes, one block's weights in memory at a time."""

    def __init__(self, raw: RawTower, given: Given, dtype: Any = np.float64) -> None:
        self.raw, self.given, self.dtype = raw, given, dtype
        self.gelu = gelu_quick if raw.quick_gelu else gelu_exact

    @property
    def size(self) -> tuple[int, int, int]:
        """Blocks, numbers of one, tokens."""
        raw = self.raw
        pictures = len(self.given.pictures if self.given.pixels is None else self.given.pixels)
        tokens = pictures * (1 + (raw.image_size // raw.patch_size) ** 2)
        return raw.layers, (4 * raw.width + 2 * raw.inner) * raw.width, tokens

    def samples(self) -> Iterable[Array]:
        return map(self.raw.read, ("visual.conv1.weight", "visual.positional_embedding"))

    def read(self, name: str) -> Array:
        return self.raw.read(f"visual.{name}").astype(self.dtype, copy=False)

    def walk(
        self,
        recipe: Recipe = RIGHT,
        alone: dict[int, Recipe] | None = None,
        start: tuple[int, Array] | None = None,
    ) -> Walk:
        """Sites and their arrays, in order. `alone`: blocks that follow a recipe of their own.

        `start`: a block and what it reads, where all before it is known.
        """
        alone, layers = alone or {}, self.raw.layers

        def read(name: str) -> Array:
            return recipe.stored(self.read(name))

        def norm(name: str) -> Callable[[Array], Array]:
            kind = recipe.norms.get(name, recipe.norm)
            return lambda x: kind(x, read(f"{name}.weight"), read(f"{name}.bias"))

        post = norm("ln_post") if recipe.ln_post else lambda x: x
        if start is None:
            pixels = self._pixels(recipe)
            yield "pixel_values", pixels
            x = recipe.patches(pixels, read("conv1.weight"), recipe.multiply)
            yield "patches", x
            x = recipe.embed(x, read("class_embedding"), read("positional_embedding"))
            yield "embed", x
            first = x
            x = norm("ln_pre")(x) if recipe.ln_pre else x
            yield "ln_pre", x
            first = x if recipe.first_state == "ln_pre" else first
            if not recipe.states_from:
                yield "hidden_states_00", recipe.shown(first, False, post)
        begin, x = start or (0, x)
        shown = x
        for place, layer in list(enumerate(recipe.order(layers)))[begin:]:
            seen: dict[str, Array] = {}
            x = block(alone.get(place, recipe), self, f"transformer.resblocks.{layer}", x, seen)
            seen["resid"] = x
            for name in BLOCK_SITES:
                yield f"layer{place if recipe.by_place else layer:02}.{name}", seen[name]
            shown = recipe.shown(x, place == layers - 1, post)
            yield f"hidden_states_{place + 1 - recipe.states_from:02}", shown
        x = recipe.pool(shown if recipe.pool_shown else x)  # (B, W)
        x = post(x)
        yield "ln_post", x
        if self.raw.projection:
            yield "image_features", recipe.features(recipe.multiply(x, read("proj")))

    def _pixels(self, recipe: Recipe) -> Array:
        if self.given.pixels is not None:
            pixels = self.given.pixels.astype(np.float64)
        else:
            side = self.raw.image_size
            cut = np.stack([recipe.picture(picture, side) for picture in self.given.pictures])
            pixels = normalised(cut)
        return recipe.pixels(pixels).astype(self.dtype)

    @property
    def heads(self) -> int:
        return self.raw.heads


def block(recipe: Recipe, tower: Any, path: str, x: Array, seen: dict[str, Array]) -> Array:
    """One block (B, T, W) -> (B, T, W) of a `tower` with heads, gelu, dtype and read(name)."""
    heads = recipe.heads(tower.heads, x.shape[-1])

    def read(name: str) -> Array:
        return recipe.stored(tower.read(f"{path}.{name}"))

    def affine(x: Array, name: str, weight: str = ".weight", bias: str = ".bias") -> Array:
        w, b = (read(f"{name}{leaf}") for leaf in (weight, bias))
        own = {"attn.in_proj_": recipe.in_proj, "attn.out_proj": recipe.out_proj}.get(name)
        return (own or recipe.linear)(x, w.T, b)

    def cut(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)  # (B, H, T, D)

    def attention(x: Array) -> Array:
        parts = recipe.split(affine(x, "attn.in_proj_", "weight", "bias"), heads)
        seen["q"], seen["k"], seen["v"] = parts
        q, k, v = map(cut, parts)
        scores = q @ k.swapaxes(-2, -1) * tower.dtype(recipe.scale(heads, q.shape[-1], 0))
        if recipe.causal:
            hidden = np.triu(np.ones(scores.shape[-2:], bool), 1)
            scores = np.where(hidden, tower.dtype(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=recipe.over, keepdims=True))
        weights /= weights.sum(axis=recipe.over, keepdims=True)
        seen["weights"] = weights  # (B, H, T, T)
        return affine(recipe.join((weights @ v).swapaxes(1, 2)), "attn.out_proj")

    def part(name: str, x: Array) -> Array:
        if name == "attn":
            seen[name] = attention(x)
        elif name == "mlp":
            inner = affine(x, "mlp.c_fc")
            seen[name] = affine((recipe.gelu or tower.gelu)(inner), "mlp.c_proj")
        else:
            g, b = read(f"{name}.weight"), read(f"{name}.bias")
            seen[name] = recipe.norms.get(name, recipe.norm)(x, g, b)
        return seen[name]

    return recipe.wiring(x, part, seen)
