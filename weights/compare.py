"""Arrays by name, in the order in which they are computed: where do two models part, and why?

Knows numbers and names, no model. An error is told twice: as the largest difference of two numbers,
and relative to the largest number of its row (the last axis), so that no huge row hides another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Walk = Iterator[tuple[str, Array]]  # sites of one computation, in its order

JUMP = 30.0  # times the error of the site before: no rounding grows so from one site to the next
# Largest relative error of one rounding to nearest: half the gap between two neighbours.
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# Two right computations sum in another order, which gives each its own rounding. In 16 bits most of
# the error is the storing itself, whatever the order.
SLACK = {"float64": 32.0, "float32": 32.0, "float16": 8.0, "bfloat16": 8.0}


@dataclass(frozen=True)
class Difference:
    """How far one site is from what was wanted; `times` is its error over the site before's."""

    site: str
    maximum: float
    relative: float
    allowed: float  # of `relative`
    times: float

    @classmethod
    def after(
        cls, before: Sequence[Difference], site: str, far: tuple[float, float], allowed: float
    ) -> Difference:
        """The one that follows those `before`; `far` is what `errors` gives."""
        # What is below one rounding of float32 is no error to take multiples of.
        last = max(before[-1].relative if before else 0.0, ROUNDING["float32"])
        times = math.inf if math.isinf(far[1]) else far[1] / last
        return cls(site, *far, allowed, times)

    @property
    def passed(self) -> bool:
        # Where the right numbers overflow, rounding may do anything; NaN is wrong nonetheless.
        return self.relative <= self.allowed and not math.isinf(self.relative)

    @property
    def jumped(self) -> bool:
        """Whether it fails, and its error is 30 times that of the site before."""
        return not self.passed and self.times >= JUMP


@dataclass(frozen=True)
class Comparison:
    """Every site that both sides have, in order, and the names that only one of them has."""

    differences: tuple[Difference, ...]
    missing: tuple[str, ...] = ()  # wanted, not got
    unknown: tuple[str, ...] = ()  # got, not wanted

    @property
    def passed(self) -> bool:
        return bool(self.differences) and all(d.passed for d in self.differences)

    @property
    def first_failed(self) -> Difference | None:
        return next((d for d in self.differences if not d.passed), None)

    @property
    def first_jump(self) -> Difference | None:
        return next((d for d in self.differences if d.jumped), None)

    def __str__(self) -> str:
        """A line a site; an arrow at the first jump."""
        width = max((len(d.site) for d in self.differences), default=4)
        jump = self.first_jump
        lines = [f"{'site':{width}}  max error  relative   allowed"]
        for d in self.differences:
            line = f"{d.site:{width}}    {d.maximum:7.1e}   {d.relative:7.1e}   {d.allowed:7.1e}"
            line += "" if d.passed else "  FAIL"
            if d is jump:
                told = d is not self.differences[0] and not math.isinf(d.times)
                grown = f": {d.times:,.0f} x the site before" if told else ""
                line = "\n".join(["", f"{line}  <-- FIRST JUMP{grown}", ""])
            lines.append(line)
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """What `json.dumps` takes; infinite errors are null, as JSON has no word for them."""
        rows = [asdict(d) | {"passed": d.passed} for d in self.differences]
        jump, failed = self.first_jump, self.first_failed
        return {
            "passed": self.passed,
            "first_jump": jump and jump.site,
            "first_failed": failed and failed.site,
            "sites": [
                {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()}
                for row in rows
            ],
            "missing": list(self.missing),
            "unknown": list(self.unknown),
        }


def errors(
    got: npt.ArrayLike, wanted: npt.ArrayLike, site: str = "the array"
) -> tuple[float, float]:
    """The largest difference, and the largest relative to the largest number of its row.

    Of four axes or more, the last two are one row. Equal infinities are no difference, a NaN is an
    infinite one. ValueError where shapes differ.
    """
    a, b = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{site} is {a.shape}, wanted {b.shape}. Give it in the wanted shape.")
    if a.size == 0:
        return 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        far, size = np.abs(a - b), np.abs(b)
    if not np.isfinite(far.max()):  # slower, and hardly ever needed
        far = np.where(a == b, 0.0, np.nan_to_num(far, nan=np.inf, posinf=np.inf))
        size = np.where(np.isfinite(b), size, 0.0)
    # Of scores (B, H, T, T) a whole head: a row of theirs can be one number, and that nearly 0.
    axes = (-2, -1) if b.ndim > 3 else -1
    rows, worst = (x.max(axis=axes) if b.ndim else x for x in (size, far))
    # A row that is next to nothing (all of it cancelled) is measured by the whole array.
    rows = np.maximum(rows, 1e-3 * rows.max())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = np.where(worst == 0.0, 0.0, worst / rows)
    return float(worst.max()), float(relative.max())


def compare(
    got: Mapping[str, npt.ArrayLike],
    wanted: Mapping[str, npt.ArrayLike],
    allowed: float | Mapping[str, float],
    order: Sequence[str] | None = None,
) -> Comparison:
    """Compare what both have. `order` (the names of `wanted`, unless given) is that of computation.

    `allowed` is the relative error that rounding may make, at each site or at all of them.
    """
    order = list(wanted) if order is None else order
    differences: list[Difference] = []
    for site in order:
        if site in got and site in wanted:
            limit = allowed[site] if isinstance(allowed, Mapping) else allowed
            far = errors(got[site], wanted[site], site)
            differences.append(Difference.after(differences, site, far, limit))
    return Comparison(
        tuple(differences),
        missing=tuple(site for site in order if site in wanted and site not in got),
        unknown=tuple(site for site in got if site not in wanted),
    )


def limits(exact: Walk, rounded: Walk, dtype: str) -> Iterator[tuple[str, Array, float]]:
    """Each site, its exact array, and what rounding may do there: SLACK times what it does.

    Both are one and the same computation, in float64 and in `dtype`. So the limit grows with depth,
    and where large scores make a softmax sensitive, as rounding itself does, and is no looser.
    """
    before = 0.0
    for (site, right), (_, array) in zip(exact, rounded, strict=True):
        here = errors(array, right, site)[1]
        yield site, right, SLACK[dtype] * max(here, before, ROUNDING[dtype])
        before = here


def allowances(exact: Walk, rounded: Walk, dtype: str) -> dict[str, float]:
    """The `limits` of every site."""
    return {site: limit for site, _, limit in limits(exact, rounded, dtype)}


def only(walk: Walk, sites: Container[str]) -> Walk:
    """A walk without the sites that are not among these."""
    return ((site, array) for site, array in walk if site in sites)


# --- why ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """How far one computation goes along with what was got."""

    until: str | None  # the first site that differs; None: the whole way
    reach: int  # how many sites there are before it
    mean: float  # relative error of those that agree


@dataclass(frozen=True)
class Explanation:
    """Mistakes that, made together, give the numbers that were got.

    Each step holds the names that do equally well; `until` is the first site that they all leave
    unexplained, None when there is none. `steps` is empty where nothing was found. `note`: what
    else is to be said, in words.
    """

    steps: tuple[tuple[str, ...], ...] = ()
    until: str | None = None
    note: str = ""


def follow(got: Mapping[str, Array], walk: Walk, allowed: Mapping[str, float]) -> Match:
    """Go along a computation for as long as its sites agree with what was got.

    `allowed` names the sites in order; a walk may begin in the middle, and take them in another.
    """
    order = [site for site in allowed if site in got]
    agreed: set[str] | None = None
    total, count = 0.0, 0
    for site, array in walk:
        if site not in allowed or site not in got:
            continue
        if agreed is None:
            agreed = set(order[: order.index(site)])
        fits = got[site].shape == array.shape
        relative = errors(got[site], array, site)[1] if fits else math.inf
        if relative > allowed[site] or math.isinf(relative):
            break
        agreed.add(site)
        total, count = total + relative, count + 1
    left = [number for number, site in enumerate(order) if site not in (agreed or ())]
    mean = total / max(count, 1)
    return Match(order[left[0]], left[0], mean) if left else Match(None, len(order), mean)


def explain(
    got: Mapping[str, Array],
    walk: Callable[[tuple[str, ...]], Walk],
    names: Callable[[tuple[str, ...], str | None, str], Iterable[Iterable[str]]],
    allowed: Mapping[str, float],
    allowed_with: Callable[[tuple[str, ...]], Mapping[str, float]] | None = None,
    most: int = 3,
) -> Explanation:
    """The mistakes, at most so many, under which a reference gives what was got.

    `walk(chosen)` runs the reference with these; `names(chosen, before, site)` are worth trying as
    well where `before` is the last that agrees, `site` the next: in groups, until one explains all.
    Each step leads furthest. `allowed_with(chosen)`: what rounding may do with these, maybe more.
    """
    chosen: tuple[str, ...] = ()
    steps: list[tuple[str, ...]] = []
    now = follow(got, walk(()), allowed)
    order = [site for site in allowed if site in got]
    while now.until is not None and len(steps) < most:
        found: dict[str, Match] = {}
        before = order[now.reach - 1] if now.reach else None
        for group in names(chosen, before, now.until):
            found |= {
                name: follow(got, walk((*chosen, name)), allowed)
                for name in group
                if name not in chosen
            }
            if any(match.until is None for match in found.values()):
                break
        furthest = max((match.reach for match in found.values()), default=0)
        if furthest <= now.reach:
            break
        winners = {name: match for name, match in found.items() if match.reach == furthest}
        # Of those that agree, the one that agrees better than the rest is meant: another order of
        # the same sums changes the mean error by half, eps 1e-12 for 1e-6 tenfold.
        near = 2 * max(min(m.mean for m in winners.values()), ROUNDING["float32"])
        steps.append(tuple(name for name, match in winners.items() if match.mean <= near))
        chosen = (*chosen, steps[-1][0])
        now = found[steps[-1][0]]
        if now.until is not None and allowed_with is not None:
            more = allowed_with(chosen)
            allowed = {site: max(limit, more.get(site, 0.0)) for site, limit in allowed.items()}
            now = follow(got, walk(chosen), allowed)
    return Explanation(tuple(steps), now.until)
