"""The whole GPT-2 as an oracle, with the registry's mistakes for knobs.

`verify` and the course share one list: names and recipes are `gpt2_scratch.wrong`'s, facts are
`gpt2_scratch.mistakes`'. The reference is numpy's and shares nothing with the model it judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chapters.runner.exercise import Knobs
from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.raw import Array, RawCheckpoint
from gpt2_scratch.reference import RIGHT, Reference
from gpt2_scratch.wrong import WRONG

CHANGES: dict[str, dict[str, Any]] = {}
for _name, _changes in WRONG:  # the first of a name: as one sees it who watches modules
    CHANGES.setdefault(_name, _changes)
SAYS = {mistake.name: mistake.says for mistake in MISTAKES}


def sites(
    ids: Tensor, tensors: Mapping[str, Tensor], heads: int, *, knobs: Knobs = frozenset()
) -> dict[str, Tensor]:
    """Every intermediate of a GPT-2 in float64, under the names of `gpt2_scratch.sites`.

    `tensors` has the names of our state dict (`h.0.attn.c_attn.w`). "padded.logits" are those of
    the same ids behind three padded tokens, "cached.logits" of their second half.
    """
    raw = _raw({name: tensor.detach().numpy() for name, tensor in tensors.items()}, heads)
    changes: dict[str, Any] = {}
    for name in CHANGES:
        changes |= CHANGES[name] if name in knobs else {}
    walk = Reference(raw, ids.numpy(), extras=True).walk(replace(RIGHT, **changes))
    return {site: torch.from_numpy(array.copy()) for site, array in walk}


def exclusive(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of mistakes that change the same piece, of which a model can have one only."""
    pieces = {piece for name in names for piece in CHANGES[name]}
    groups = [tuple(name for name in names if piece in CHANGES[name]) for piece in sorted(pieces)]
    return tuple(group for group in groups if len(group) > 1)


def _raw(tensors: Mapping[str, Array], heads: int) -> RawCheckpoint:
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("h."))
    n_vocab, n_embd = tensors["wte.weight"].shape
    n_ctx = len(tensors["wpe.weight"])

    def read(name: str) -> Array:
        """`h0/attn/c_attn/w` is `h.0.attn.c_attn.w` here, `wte` is `wte.weight`."""
        if name in ("wte", "wpe"):
            return tensors[f"{name}.weight"]
        dotted = name.replace("/", ".")
        return tensors[f"h.{dotted[1:]}" if dotted[1].isdigit() else dotted]

    return RawCheckpoint(Path(), "here", layers, heads, n_embd, n_ctx, n_vocab, read)
