"""Numbers of fewer bits: how they come about, and how one sees that they did."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from weights.compare import Array, Walk, errors

KEPT = {"bfloat16": 7, "float16": 10}  # bits after the leading one


def rounded(x: Array, kept: int) -> Array:
    """To so many bits after the leading one, halves to even."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2.0 ** (kept + 1)), exponent - kept - 1).astype(x.dtype)


def coarseness(got: Array, exact: Array) -> str | None:
    """The type whose numbers these all are, and the right ones are not: what they came through."""
    if got.shape != exact.shape or errors(got, exact)[1] > 2.0**-4:
        return None  # something else is wrong, too, or first
    finite = got[np.isfinite(got)]
    for name, kept in KEPT.items():
        if np.array_equal(rounded(finite, kept), finite):
            return name
    return None


def same_size(
    got: Mapping[str, Array], exact: Mapping[str, Array], walks: Mapping[str, Walk]
) -> tuple[str, ...]:
    """Those of some roundings, each a walk, that make errors of this size at every site.

    Which of two neighbours a sum is rounded to depends on its order: only the size comes again.
    """

    def size(site: str, array: Array) -> float:
        with np.errstate(invalid="ignore"):
            far = np.nan_to_num(array - exact[site])
        return float(np.sqrt(np.square(far).mean()))

    found = []
    sizes = {site: size(site, array) for site, array in got.items() if site in exact}
    for name, walk in walks.items():
        known = {site: size(site, array) for site, array in walk if site in sizes}
        if all(known[site] / 2 <= sizes[site] <= 2 * known[site] for site in known if known[site]):
            found.append(name)
    return tuple(found)
