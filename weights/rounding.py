"""Numbers of fewer bits: how they come about, and how one sees that they did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from weights.compare import Array, Walk, errors

KEPT = {"bfloat16": 7, "float16": 10}  # bits after the leading one


def rounded(x: Array, kept: int) -> Array:
    """To so many bits after the leading one, halves to even."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2.0 ** (kept + 1)), exponent - kept - 1).astype(x.dtype)


def to_float16(x: Array) -> Array:
    """To the numbers that float16 has, the smallest too."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


def stored_as(tensors: Iterable[Array]) -> str | None:
    """The 16-bit type that all of these went through, if one is that coarse."""
    tensors = list(tensors)
    for name, kept in KEPT.items():
        if all(np.array_equal(rounded(tensor, kept), tensor) for tensor in tensors):
            return name
    return None


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
    got: Mapping[str, Array], exact: Callable[[], Walk], walks: Mapping[str, Walk]
) -> tuple[str, ...]:
    """Those of some roundings, each a walk, that make errors of this size at every site.

    Which of two neighbours a sum is rounded to depends on its order: only the size comes again.
    """

    def size(array: Array, right: Array) -> float:
        if array.shape != right.shape:
            return np.inf
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.nan_to_num(array - right)
            return float(np.sqrt(np.square(far).mean()))

    sizes = {site: size(got[site], right) for site, right in exact() if site in got}

    def alike(walk: Walk) -> bool:
        for (site, array), (_, right) in zip(walk, exact(), strict=True):
            known = size(array, right) if site in sizes else 0.0
            if known and not known / 2 <= sizes[site] <= 2 * known:
                return False
        return True

    return tuple(name for name, walk in walks.items() if alike(walk))
