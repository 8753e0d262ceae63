"""CLIP's text tower in plain numpy, for the published figures about pictures and texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from connector.raw import RawTower
from connector.reference import Recipe, block
from weights.compare import Array
from weights.pieces import gelu_exact, gelu_quick, layer_norm


class TextTower:
    """The text tower of a folder that holds one; `features` computes, in `dtype`."""

    def __init__(self, raw: RawTower, dtype: Any = np.float32) -> None:
        self.raw, self.dtype, self.heads = raw, dtype, raw.text_heads
        self.gelu = gelu_quick if raw.quick_gelu else gelu_exact

    def read(self, name: str) -> Array:
        return self.raw.read(name).astype(self.dtype, copy=False)

    def features(self, tokens: Sequence[Sequence[int]]) -> Array:
        """Ids of each text -> (texts, projection), not normalised.

        What follows a text's end, its highest id, is never looked at: the mask is causal.
        """
        words, places = self.read("token_embedding.weight"), self.read("positional_embedding")
        layers = 1 + max(
            int(name.split(".")[2]) for name in self.raw.names if name.startswith("transformer.")
        )
        rows = []
        for ids in tokens:
            end = int(np.argmax(ids)) + 1
            x = (words[list(ids[:end])] + places[:end])[None]  # (1, T, C)
            for layer in range(layers):
                x = block(Recipe(causal=True), self, f"transformer.resblocks.{layer}", x, {})
            x = layer_norm(x[:, -1], self.read("ln_final.weight"), self.read("ln_final.bias"))
            rows.append(x @ self.read("text_projection"))
        return np.concatenate(rows)
