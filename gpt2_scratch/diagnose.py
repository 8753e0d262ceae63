"""Which known mistake gives these numbers? Each is made in the reference, until one agrees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gpt2_scratch.raw import Array, RawCheckpoint
from gpt2_scratch.reference import RIGHT, Recipe, Reference, Walk
from gpt2_scratch.wrong import WRONG, in_few_bits, in_tf32
from weights.compare import Explanation, allowances, explain, follow
from weights.rounding import KEPT, coarseness, same_size

# What can be wrong in one block alone, as where one tensor was read wrongly.
OF_A_BLOCK = {"norm", "gelu", "linear", "scale", "fill", "ahead", "over", "split", "join", "wiring"}
# Beside those of `mistakes.py`: what a setting does, of a machine or of another model.
SETTINGS = {
    "float16": "GPT-2 was published in float32; float16 keeps 11 bits of each number.",
    "tf32": "TF32 keeps 11 bits of each factor: a setting of the GPU, not of the model.",
    "scale-by-block": "Scores are divided by sqrt(D), not by the block's number as well.",
}


class Doctor:
    """Tries the known mistakes on one checkpoint and one batch of ids."""

    def __init__(self, raw: RawCheckpoint, ids: Array, got: Mapping[str, Array]) -> None:
        # float32 is as exact as what it is held against, and needs no copy of the weights.
        extras = "fused.logits" in got
        self.reference = Reference(raw, ids, np.float32, extras)
        self.exact = Reference(raw, ids, np.float64, extras)
        self.got = got
        self.recipes: dict[str, tuple[int | None, dict[str, Any]]] = {}
        for number, (name, changes) in enumerate(WRONG):
            again = name in self.recipes
            self.recipes[f"{name}#{number}" if again else name] = (None, changes)
        # What each block reads, for walks that differ from another only from that block on.
        self.read_by: dict[tuple[str, ...], dict[int, Array]] = {}

    def names(self, site: str) -> Iterator[str]:
        """What to try where `site` is the first that differs: everywhere, or in its block alone."""
        everywhere = [name for name, (block, _) in self.recipes.items() if block is None]
        yield from everywhere
        if not site.startswith("layer"):
            return
        block = int(site[5:].partition(".")[0])
        for name in everywhere:
            changes = self.recipes[name][1]
            if changes.keys() <= OF_A_BLOCK:
                self.recipes[f"{name}@{block}"] = (block, changes)
                yield f"{name}@{block}"

    def made(self, chosen: tuple[str, ...]) -> tuple[Recipe, dict[int, Recipe], int | None]:
        """The recipe with these mistakes, those of single blocks, the block of the last alone."""
        changes: dict[str, Any] = {}
        alone: dict[int, dict[str, Any]] = {}
        last = None
        for name in chosen:
            last, more = self.recipes[name]
            if last is None:
                changes |= more
            else:
                alone[last] = alone.get(last, {}) | more
        recipe = replace(RIGHT, **changes) if changes else RIGHT
        return recipe, {block: replace(recipe, **more) for block, more in alone.items()}, last

    def allowed(self, chosen: tuple[str, ...]) -> dict[str, float]:
        """What rounding may do with these mistakes: a mistake can make a model sensitive to it."""
        recipe, own, _ = self.made(chosen)
        exact, rounded = (
            {site: array for site, array in reference.walk(recipe, own) if site in self.got}
            for reference in (self.exact, self.reference)
        )
        return allowances(exact, rounded, "float32")

    def walk(self, chosen: tuple[str, ...]) -> Walk:
        """The sites of the reference with these mistakes."""
        recipe, own, last = self.made(chosen)
        start, known = None, self.read_by.get(chosen[:-1], {})
        if last in known:
            start = (last, known[last])
        mine = self.read_by.setdefault(chosen, {})
        for site, array in self.reference.walk(recipe, own, start):
            yield site, array
            if site.endswith(".resid") and site in self.got:
                mine[len(mine) + 1 + (start[0] if start else 0)] = array


def diagnose(
    raw: RawCheckpoint,
    ids: Array,
    got: Mapping[str, Array],
    exact: Mapping[str, Array],
    allowed: Mapping[str, float],
) -> Explanation:
    """Which of the known mistakes, made in the reference, give `got`; empty where it is right.

    A name is of `mistakes.py`, with `@3` behind it where it is made in block 3 alone.
    """
    first = follow(got, iter(exact.items()), allowed).until
    if first is None:
        return Explanation()
    doctor = Doctor(raw, ids, got)
    steps: tuple[tuple[str, ...], ...] = ()
    coarse = coarseness(got[first], exact[first])
    if coarse:
        rough = coarse_allowances(doctor.reference, exact, coarse)
        allowed = {site: max(limit, rough[site]) for site, limit in allowed.items()}
        steps = ((coarse,),)
    found = explain(got, doctor.walk, doctor.names, allowed, doctor.allowed)
    if not found.steps and not coarse:
        if first == "logits" and "ln_f" in got:
            return Explanation((("head-untied",),))  # all before it is right: nothing else is left
        roundings = {**ROUGH, "tf32": in_tf32}.items()
        walks = {name: doctor.reference.walk(replace(RIGHT, linear=x)) for name, x in roundings}
        if names := same_size(got, exact, walks):
            return Explanation((names,))
    return Explanation((*steps, *map(plain, found.steps)), found.until)


def plain(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without the numbers of names that come twice, and without blocks where all have it."""
    short = dict.fromkeys(re.sub(r"#\d+", "", name) for name in names)
    return tuple(name for name in short if "@" not in name or name.partition("@")[0] not in short)


ROUGH: dict[str, Callable[..., Array]] = {
    name: partial(in_few_bits, kept=kept) for name, kept in KEPT.items()
}


def coarse_allowances(
    reference: Reference, exact: Mapping[str, Array], dtype: str
) -> dict[str, float]:
    """What rounding to 16 bits in every linear map may do."""
    walk = reference.walk(replace(RIGHT, linear=ROUGH[dtype]))
    return allowances(exact, {site: array for site, array in walk if site in exact}, dtype)
