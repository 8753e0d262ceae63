"""Which known mistake gives these numbers? Each is made in a reference, until one agrees."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from weights.compare import Array, Explanation, Walk, allowances, explain, follow, only
from weights.rounding import KEPT, coarseness, same_size

Changes = Mapping[str, Any]  # what a mistake puts in the place of some pieces of a recipe


class Reference(Protocol):
    """A model a second time, which shares nothing with the one it judges."""

    def walk(
        self,
        recipe: Any = ...,
        alone: dict[int, Any] | None = ...,
        start: tuple[int, Array] | None = ...,
    ) -> Walk:
        """Its sites, in order. `alone`: blocks that follow a recipe of their own.

        `start`: a block and what it reads, where all before it is known.
        """


@dataclass(frozen=True)
class Lore:
    """What is known of a kind of model: its right recipe, and what is done wrong in it."""

    right: Any  # a frozen dataclass, the pieces that a reference is made of
    wrong: Collection[tuple[str, Changes]]  # a name may come twice: it can look in two ways
    of_a_block: Collection[str]  # the pieces that can be wrong in one block alone
    rough: Mapping[str, Changes]  # roundings likewise: bfloat16, float16, tf32
    says: Mapping[str, str]  # by name: the fact that the mistake gets wrong
    resizing: Collection[str] = ()  # the mistakes that change the shape of a site
    hints: Mapping[str, str] = field(default_factory=dict)  # what is wrong if such a site alone is


class Doctor:
    """Tries the known mistakes on one checkpoint and one input.

    `exact` is the reference in float64, `rough` in float32, as exact as what it is held against.
    """

    def __init__(
        self, lore: Lore, exact: Reference, rough: Reference, got: Mapping[str, Array]
    ) -> None:
        self.lore, self.exact, self.rough, self.got = lore, exact, rough, got
        self.recipes: dict[str, tuple[int | None, Changes]] = {}
        for number, (name, changes) in enumerate(lore.wrong):
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
            if set(changes) <= set(self.lore.of_a_block):
                self.recipes[f"{name}@{block}"] = (block, changes)
                yield f"{name}@{block}"

    def made(self, chosen: tuple[str, ...]) -> tuple[Any, dict[int, Any], int | None]:
        """The recipe with these mistakes, those of single blocks, the block of the last alone."""
        changes: dict[str, Any] = {}
        alone: dict[int, dict[str, Any]] = {}
        last = None
        for name in chosen:
            last, more = self.recipes[name]
            if last is None:
                changes |= more
            else:
                alone[last] = alone.get(last, {}) | dict(more)
        recipe = replace(self.lore.right, **changes) if changes else self.lore.right
        return recipe, {block: replace(recipe, **more) for block, more in alone.items()}, last

    def allowed(self, chosen: tuple[str, ...]) -> dict[str, float]:
        """What rounding may do with these mistakes: a mistake can make a model sensitive to it."""
        recipe, own, _ = self.made(chosen)
        exact, rough = (
            only(reference.walk(recipe, own), self.got) for reference in (self.exact, self.rough)
        )
        return allowances(exact, rough, "float32")

    def walk(self, chosen: tuple[str, ...]) -> Walk:
        """The sites of the reference with these mistakes."""
        recipe, own, last = self.made(chosen)
        start, known = None, self.read_by.get(chosen[:-1], {})
        if last in known:
            start = (last, known[last])
        mine = self.read_by.setdefault(chosen, {})
        for site, array in self.rough.walk(recipe, own, start):
            yield site, array
            if site.endswith(".resid") and site in self.got:
                mine[len(mine) + 1 + (start[0] if start else 0)] = array


def diagnose(
    lore: Lore,
    exact: Reference,
    rough: Reference,
    got: Mapping[str, Array],
    allowed: Mapping[str, float],
) -> Explanation:
    """Which of the known mistakes, made in the reference, give `got`; empty where it is right.

    A name is of `lore.wrong`, with `@3` behind it where it is made in block 3 alone.
    """
    first = follow(got, exact.walk(), allowed).until
    if first is None:
        return Explanation()
    doctor = Doctor(lore, exact, rough, got)
    steps: tuple[tuple[str, ...], ...] = ()
    right = next(array for site, array in exact.walk() if site == first)
    coarse = coarseness(got[first], right)
    if coarse:
        more = coarse_allowances(lore, exact, rough, allowed, coarse)
        allowed = {site: max(limit, more[site]) for site, limit in allowed.items()}
        steps = ((coarse,),)
    found = explain(got, doctor.walk, doctor.names, allowed, doctor.allowed)
    if not found.steps and not coarse:
        recipes = {name: replace(lore.right, **changes) for name, changes in lore.rough.items()}
        walks = {name: rough.walk(recipe) for name, recipe in recipes.items()}
        if names := same_size(got, exact.walk, walks):
            return Explanation((names,))
    return Explanation((*steps, *map(plain, found.steps)), found.until)


def plain(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without the numbers of names that come twice, and without blocks where all have it."""
    short = dict.fromkeys(re.sub(r"#\d+", "", name) for name in names)
    return tuple(name for name in short if "@" not in name or name.partition("@")[0] not in short)


def rounded(lore: Lore, rough: Reference, dtype: str) -> Walk:
    """The right computation in fewer bits: in float32 as it is, in 16 by the recipe for it."""
    return rough.walk(replace(lore.right, **lore.rough[dtype]) if dtype in KEPT else lore.right)


def coarse_allowances(
    lore: Lore, exact: Reference, rough: Reference, sites: Mapping[str, Any], dtype: str
) -> dict[str, float]:
    """What rounding to 16 bits may do at these sites."""
    return allowances(only(exact.walk(), sites), only(rounded(lore, rough, dtype), sites), dtype)
