"""GPT-2 a second time, in plain numpy: what `verify` holds the model against.

It shares nothing with `model.py` and `loader.py`. Each piece can be another one (`Recipe`), so that
the same few lines also compute what a model with a known mistake would.

B batch   T tokens   C channels   H heads   D = C / H   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2_scratch.raw import Array, RawCheckpoint
from weights.compare import Walk
from weights.pieces import gelu_tanh, join, layer_norm, linear, pre_norm, split

CHUNK = 8192  # rows of wte that are multiplied at once: 42 MB of Large's 257 in float32
PAD = 3  # padded tokens on the left of the "padded" site

BLOCK_SITES = (
    *("ln_1", "q", "k", "v", "scores", "weights", "attn", "resid_attn"),
    *("ln_2", "mlp", "resid"),
)


def site_names(layers: int) -> list[str]:
    """Every site in the order of computation, under the names of OpenAI's intermediates here."""
    blocks = [f"layer{layer:02}.{name}" for layer in range(layers) for name in BLOCK_SITES]
    return ["embed", *blocks, "ln_f", "logits", "fused.logits", "cached.logits", "padded.logits"]


@dataclass(frozen=True)
class Recipe:
    """The pieces of a GPT-2; the defaults are the right ones."""

    stored: Callable[[Array], Array] = lambda tensor: tensor  # what becomes of what the file holds
    norm: Callable[..., Array] = layer_norm
    norms: Mapping[str, Callable[..., Array]] = field(default_factory=dict)  # of single places
    gelu: Callable[[Array], Array] = gelu_tanh
    linear: Callable[..., Array] = linear
    heads: Callable[[int, int], int] = lambda heads, width: heads
    scale: Callable[[int, int, int], float] = lambda heads, size, layer: 1 / math.sqrt(size)
    fill: float = -math.inf
    ahead: int = 0  # how many tokens after itself one sees
    over: int = -1  # axis of the softmax
    split: Callable[[Array, int], tuple[Array, Array, Array]] = split
    join: Callable[[Array], Array] = join
    wiring: Callable[..., Array] = pre_norm
    embed: Callable[[Array, Array], Array] = lambda words, places: words + places
    position: Callable[[Array], Array] = lambda positions: positions
    last_norm: bool = True
    shown: Callable[[Array], Array] = lambda logits: logits  # what is returned of the logits
    order: Callable[[int], list[int]] = lambda layers: list(range(layers))
    by_place: bool = True  # layer02 is what stands third, not the one whose weights are h2's
    padding: bool = True  # whether padded keys are hidden
    count_padding: bool = False  # whether padded tokens take positions
    restart: bool = False  # whether positions begin anew after what the cache holds
    queries_last: bool = True  # whether the queries are the last of the keys


RIGHT = Recipe()
# With these, what a token gets depends on how many come with it, or before it as padding.
OF_A_BATCH = (
    "fill",
    "ahead",
    "over",
    "join",
    "padding",
    "count_padding",
    "restart",
    "queries_last",
)


@dataclass(frozen=True)
class Batch:
    """Ids (B, T) that a model gets: in one piece or cut at `cut`, as with a cache, and padded."""

    ids: Array
    cut: int = 0
    pad: int = 0

    def chunks(self) -> list[tuple[int, int]]:
        """(first token, behind the last) of what goes through the model at once."""
        tokens = self.ids.shape[1]
        return [(0, self.cut), (self.cut, tokens)] if self.cut else [(0, tokens)]

    def positions(self, recipe: Recipe) -> Array:
        places = np.arange(self.ids.shape[1])
        if recipe.restart:
            places = places - np.where(places >= self.cut, self.cut, 0)
        pad = 0 if recipe.count_padding else self.pad
        return recipe.position(np.maximum(places - pad, 0))  # (T,)

    def hidden(self, recipe: Recipe, start: int, stop: int) -> Array:
        """True where a query of the chunk may not look: (stop - start, stop)."""
        first = start if recipe.queries_last else 0
        hidden = np.triu(np.ones((stop - start, stop), bool), first + 1 + recipe.ahead)
        if recipe.padding:
            hidden = hidden | (np.arange(stop) < self.pad)
        return hidden


class Reference:
    """One checkpoint and one batch of ids (B, T); `walk` computes, one block in memory at a time.

    `dtype` float64 is the truth, float32 says what rounding does to it. `extras`: also the logits
    as the fused kernel, a cache and padding should give them, which is the same logits again.
    """

    def __init__(
        self, raw: RawCheckpoint, ids: Array, dtype: Any = np.float64, extras: bool = False
    ) -> None:
        self.raw, self.ids, self.dtype, self.extras = raw, ids, dtype, extras

    @property
    def size(self) -> tuple[int, int, int]:
        """Blocks, numbers of one, tokens."""
        return self.raw.n_layer, 12 * self.raw.n_embd**2, self.ids.size

    def samples(self) -> Iterable[Array]:
        return map(self.raw.read, ("wpe", "h0/attn/c_attn/w"))

    def read(self, recipe: Recipe, name: str) -> Array:
        return recipe.stored(self.raw.read(name)).astype(self.dtype, copy=False)

    def walk(
        self,
        recipe: Recipe = RIGHT,
        alone: dict[int, Recipe] | None = None,
        start: tuple[int, Array] | None = None,
    ) -> Walk:
        """Sites and their arrays, in order. `alone`: blocks that follow a recipe of their own.

        `start`: a block and what it reads, where all before it is known.
        """
        alone, logits = alone or {}, np.empty(0)
        for site, logits in self._forward(recipe, alone, Batch(self.ids), start):
            yield site, logits
        if not self.extras:
            return
        yield "fused.logits", logits
        tokens = self.ids.shape[1]
        recipes = (recipe, *alone.values())
        anew = any(getattr(r, name) != getattr(RIGHT, name) for r in recipes for name in OF_A_BATCH)
        batches = {"cached.logits": Batch(self.ids, cut=tokens // 2)}
        if tokens + PAD <= self.raw.n_ctx:
            padded = np.pad(self.ids, ((0, 0), (PAD, 0)))
            batches["padded.logits"] = Batch(padded, pad=PAD)
        for site, batch in batches.items():
            again = logits
            if anew:
                *_, (_, again) = self._forward(recipe, alone, batch)
                again = again[:, batch.pad :]
            yield site, again[:, batch.cut :]

    def _forward(
        self,
        recipe: Recipe,
        alone: dict[int, Recipe],
        batch: Batch,
        start: tuple[int, Array] | None = None,
    ) -> Walk:
        if start is None:
            places = np.minimum(batch.positions(recipe), self.raw.n_ctx - 1)
            both = (self.raw.read("wte")[batch.ids], self.raw.read("wpe")[places])
            x = recipe.embed(*(recipe.stored(part).astype(self.dtype) for part in both))
            yield "embed", x
        first, x = start or (0, x)
        for place, layer in list(enumerate(recipe.order(self.raw.n_layer)))[first:]:
            seen: dict[str, Array] = {}
            x = self._block(alone.get(place, recipe), layer, x, batch, seen)
            seen["resid"] = x
            for name in BLOCK_SITES:
                yield f"layer{place if recipe.by_place else layer:02}.{name}", seen[name]
        if recipe.last_norm:
            norm = recipe.norms.get("ln_f", recipe.norm)
            x = norm(x, self.read(recipe, "ln_f/g"), self.read(recipe, "ln_f/b"))
        yield "ln_f", x
        wte = self.raw.read("wte")
        chunks = (recipe.stored(wte[row : row + CHUNK]) for row in range(0, len(wte), CHUNK))
        parts = [x @ chunk.astype(self.dtype, copy=False).T for chunk in chunks]
        yield "logits", recipe.shown(np.concatenate(parts, axis=-1))  # (B, T, V)

    def _block(
        self, recipe: Recipe, layer: int, x: Array, batch: Batch, seen: dict[str, Array]
    ) -> Array:
        heads = recipe.heads(self.raw.n_head, self.raw.n_embd)

        def linear(x: Array, name: str) -> Array:
            w, b = (self.read(recipe, f"h{layer}/{name}/{leaf}") for leaf in "wb")
            return recipe.linear(x, w, b)

        def cut(x: Array) -> Array:
            return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)  # (B, H, T, D)

        def attention(x: Array) -> Array:
            parts = recipe.split(linear(x, "attn/c_attn"), heads)
            seen["q"], seen["k"], seen["v"] = parts
            q, k, v = map(cut, parts)
            mixed = []
            for start, stop in batch.chunks():
                hidden = batch.hidden(recipe, start, stop)
                empty = hidden.all(-1, keepdims=True)
                scores = q[:, :, start:stop] @ k[:, :, :stop].swapaxes(-2, -1)
                scores = scores * recipe.scale(heads, q.shape[-1], layer)
                scores = np.where(hidden & ~empty, recipe.fill, scores).astype(self.dtype)
                top = scores.max(axis=recipe.over, keepdims=True)
                weights = np.exp(scores - top)
                weights = weights / weights.sum(axis=recipe.over, keepdims=True)
                weights = np.where(empty, 0, weights).astype(self.dtype)
                seen["scores"], seen["weights"] = scores, weights  # (B, H, T, S)
                mixed.append(recipe.join((weights @ v[:, :, :stop]).swapaxes(1, 2)))
            return linear(np.concatenate(mixed, 1), "attn/c_proj")  # (B, T, C)

        def part(name: str, x: Array) -> Array:
            if name == "attn":
                seen[name] = attention(x)
            elif name == "mlp":
                seen[name] = linear(recipe.gelu(linear(x, "mlp/c_fc")), "mlp/c_proj")
            else:
                g, b = (self.read(recipe, f"h{layer}/{name}/{leaf}") for leaf in "gb")
                seen[name] = recipe.norms.get(name, recipe.norm)(x, g, b)
            return seen[name]

        return recipe.wiring(x, part, seen)
