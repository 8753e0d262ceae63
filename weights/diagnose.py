"""Which known mistake gives these numbers? Each is made in a reference, until one agrees."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from weights.compare import Array, Explanation, Walk, allowances, explain, follow, only
from weights.rounding import KEPT, coarseness, same_size

Changes = Mapping[str, Any]  # what a mistake puts in the place of some pieces of a recipe

# Numbers times tokens that may go through all blocks for one mistake that is in one block alone: a
# minute of two cores for the mistakes that there are. GPT-2 small, of which only logits are known.
MOST = 2e10
NOT_LOOKED = (
    "No known mistake, made everywhere, gives these numbers. One that is made in a single block was"
    " not looked for: of a model of this size that needs more sites, such as each block's output."
)
SIZE_ALONE = (
    "A reference that is rounded so is as far off at every site: to which side each sum goes is"
    " chance, so its numbers are others."
)
ONE_SITE = " With one site to go by, another mistake may be as large: more sites would tell."


class Reference(Protocol):
    """A model a second time, which shares nothing with the one it judges."""

    @property
    def size(self) -> tuple[int, int, int]:
        """How many blocks, how many numbers one has, how many tokens go through."""

    def samples(self) -> Iterable[Array]:
        """Some tensors as the checkpoint holds them."""

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
    before_blocks: Collection[str]  # the sites in front of the first block
    norms: Collection[str]  # the norms that can be wrong where others are not, by their sites
    rough: Mapping[str, Changes]  # roundings likewise: bfloat16, float16, tf32
    says: Mapping[str, str]  # by name: the fact that the mistake gets wrong
    resizing: Collection[str] = ()  # the mistakes that change the shape of a site
    resized: tuple[str, ...] = ("",)  # how the names of such sites end
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
        self.everywhere = list(self.recipes)
        # What each block reads, of the last walk and of the one whose next mistake is looked for:
        # with that in one block alone, nothing before the block is another.
        self.latest: tuple[tuple[str, ...], dict[int, Array]] = ((), {})
        self.known: tuple[tuple[str, ...], dict[int, Array]] = ((), {})
        self.left_out = False  # whether a search would have taken too long

    def names(self, chosen: tuple[str, ...], before: str | None, site: str) -> Iterator[list[str]]:
        """What to try where `site` is the first that differs, `before` the last that does not.

        Mistakes made everywhere; then those of one kind of norm, and of one block. None in a piece
        that is wrong already: it would take that mistake's place.
        """
        if self.latest[0] == chosen:
            self.known = self.latest
        yield self.free(self.everywhere, chosen)
        few = []
        for name in self.everywhere:
            changes = self.recipes[name][1]
            if set(changes) == {"norm"}:
                # Behind the blocks stands a norm, too; most often all of a block are of one make.
                places = {norm: (norm,) for norm in self.lore.norms} | {"blocks": ("ln_1", "ln_2")}
                for place, norms in places.items():
                    wrong = {"norms": dict.fromkeys(norms, changes["norm"])}
                    self.recipes[f"{name}@{place}"] = (None, wrong)
                    few.append(f"{name}@{place}")
            if set(changes) <= set(self.lore.of_a_block):
                for block in self.blocks(before, site):
                    self.recipes[f"{name}@{block}"] = (block, changes)
                    few.append(f"{name}@{block}")
        yield self.free(few, chosen)

    def free(self, names: list[str], chosen: tuple[str, ...]) -> list[str]:
        """Those that change no piece which one of the chosen changes in the same place."""

        def pieces(changes: Changes) -> set[str]:
            norms = set(self.lore.norms) if "norm" in changes else set(changes.get("norms", ()))
            return (set(changes) - {"norm", "norms"}) | norms

        def clash(one: tuple[int | None, Changes], other: tuple[int | None, Changes]) -> bool:
            apart = None not in (one[0], other[0]) and one[0] != other[0]
            return not apart and bool(pieces(one[1]) & pieces(other[1]))

        taken = [self.recipes[name] for name in chosen]
        return [n for n in names if not any(clash(self.recipes[n], other) for other in taken)]

    def blocks(self, before: str | None, site: str) -> range:
        """The blocks that lie between these two sites, unless to search them takes too long."""
        layers, numbers, tokens = self.exact.size
        blocks = range(self.reached(before)[1] if before else 0, self.reached(site)[0])
        last = blocks.stop if site.startswith(("layer", "hidden")) else layers
        work = numbers * tokens * sum(last - block for block in blocks)
        if len(blocks) < 2 or work <= MOST:
            return blocks
        self.left_out = True
        return range(0)

    def reached(self, site: str) -> tuple[int, int]:
        """How many blocks have begun where this site comes about, and how many are done."""
        if site in self.lore.before_blocks:
            return 0, 0
        if found := re.match(r"layer(\d+)\.(.*)", site):
            block = int(found[1])
            return block + 1, block + (found[2] == "resid")
        if found := re.match(r"hidden_states_(\d+)", site):
            return int(found[1]), int(found[1])
        return self.exact.size[0], self.exact.size[0]

    def made(self, chosen: tuple[str, ...]) -> tuple[Any, dict[int, Any], int | None]:
        """The recipe with these mistakes, those of single blocks, the block of the last alone."""
        changes: dict[str, Any] = {}
        alone: dict[int, dict[str, Any]] = {}
        last = None
        for name in chosen:
            last, more = self.recipes[name]
            if last is None:
                norms = {"norms": changes.get("norms", {}) | more.get("norms", {})}
                changes |= {**more, **(norms if norms["norms"] else {})}
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
        start, known = None, self.known[1] if self.known[0] == chosen[:-1] else {}
        if last in known:
            start = (last, known[last])
        mine: dict[int, Array] = {}
        self.latest = (chosen, mine)
        for site, array in self.rough.walk(recipe, own, start):
            yield site, array
            if site.endswith(".resid"):
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
    if not (got[first] < np.inf).all():  # -inf stands in masked scores
        return Explanation((), first, overflow(first, got[first]))
    right = next(array for site, array in exact.walk() if site == first)
    if np.isnan(right).any():
        return Explanation((), first, f"The checkpoint here gives NaN at {first}: what is right?")
    doctor = Doctor(lore, exact, rough, got)
    steps: tuple[tuple[str, ...], ...] = ()
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
            return Explanation((names,), note=SIZE_ALONE + ONE_SITE * (len(got) == 1))
    steps = (*steps, *map(plain, found.steps))
    return Explanation(steps, found.until, NOT_LOOKED if doctor.left_out and not steps else "")


def overflow(site: str, array: Array) -> str:
    """What is said of a site with NaN or infinity: no known mistake gives them."""
    kind, found = "NaN", np.isnan(array)
    if not found.any():
        kind, found = "infinity", np.isinf(array)
    return (
        f"{site} holds {kind}, {found.sum():,} of {array.size:,} numbers: a parameter that is NaN,"
        " infinite or huge, inf - inf, 0 / 0, or a softmax over nothing but -inf."
    )


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
