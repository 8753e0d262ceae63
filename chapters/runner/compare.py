"""Is this output what was wanted, and if not, in what does it differ? Tensors, text, lists, dicts.

A difference has a kind, in the order in which they are looked for: none, type, shape, nan, wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# Bound here, before any learner's code runs: it may put anything in torch's place.
allclose, isclose = torch.allclose, torch.isclose
COARSE = 1e-5  # for an answer that computes in float32 whatever comes in; its roundings reach 1e-6


@dataclass
class Difference:
    """What is wrong with an output; `at` is the index of the worst, or of the first, place."""

    kind: str
    says: list[str]
    error: float = math.inf
    at: tuple[Any, ...] = ()
    place: str = ""  # which part of a tuple or dict
    near: list[str] = field(default_factory=list)


def close(got: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Equal numbers, NaN and infinities included."""
    if got.shape != wanted.shape:
        return False
    if not (got.is_floating_point() or wanted.is_floating_point()):
        return bool((got == wanted).all())
    got, wanted = got.detach().double(), wanted.detach().double()
    return allclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def same(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two outputs are equal, whatever they are made of."""
    return compare(got, wanted, tolerance, (), strict=False) is None


def compare(
    got: Any,
    wanted: Any,
    tolerance: float,
    axes: Sequence[str],
    place: str = "",
    *,
    strict: bool = True,
) -> Difference | None:
    """None where they are equal. `axes` names the axes of each tensor, in order of appearance.

    Not `strict`: dtypes may differ and a NaN equals a NaN, as when looking for a known mistake.
    """
    names = axes[0] if axes else ""
    if got is None and wanted is not None:
        return Difference("none", [f"{place or 'your answer'} is None: is a `return` missing?"])
    if isinstance(wanted, Tensor):
        return _tensors(got, wanted, tolerance, names.split(), place, strict)
    if isinstance(wanted, Mapping):
        return _mappings(got, wanted, tolerance, axes, place, strict)
    if isinstance(wanted, list | tuple):
        return _sequences(got, wanted, tolerance, axes, place, strict)
    if isinstance(wanted, float) and isinstance(got, int | float | Tensor):
        if isinstance(got, Tensor) and got.numel() != 1:
            return Difference("type", [f"{_it(place)} {_kind(got)}, wanted one number"])
        number = float(got)
        if math.isclose(number, wanted, rel_tol=tolerance, abs_tol=tolerance):
            return None
        if math.isnan(number):
            return None if math.isnan(wanted) and not strict else Difference("nan", ["it is NaN"])
        error = abs(number - wanted)
        return Difference("wrong", [f"{place} {number!r}, wanted {wanted!r}".strip()], error)
    if isinstance(got, Tensor) and got.numel() == 1 and isinstance(wanted, int):
        got = got.item()
    if type(got) is not type(wanted):
        return Difference("type", [f"{_it(place)} {_kind(got)}, wanted {_kind(wanted)}"])
    try:
        if bool(got == wanted):
            return None
    except Exception:  # of a learner's object, such as an array
        return Difference("type", [f"{_it(place)} {_kind(got)}, which can't be compared"])
    return Difference("wrong", [f"{place} {_short(got)}, wanted {_short(wanted)}".strip()])


def _tensors(
    got: Any, wanted: Tensor, tolerance: float, axes: Sequence[str], place: str, strict: bool
) -> Difference | None:
    if not isinstance(got, Tensor) or not ordinary(got):
        return Difference("type", [f"{_it(place)} {_kind(got)}, wanted a tensor"], place=place)
    if got.shape != wanted.shape:
        return Difference("shape", [shape_message(got.shape, wanted.shape, axes)], place=place)
    if strict and (got.dtype == torch.bool) != (wanted.dtype == torch.bool):
        says = f"{_it(place)} {got.dtype}, wanted {wanted.dtype}".replace("torch.", "")
        return Difference("type", [says], place=place)
    if strict and wanted.is_floating_point() != got.is_floating_point():
        says = f"{_it(place)} {got.dtype}, wanted {wanted.dtype}".replace("torch.", "")
        return Difference("type", [says], place=place)
    coarse = narrow(got, wanted)
    tolerance = max(tolerance, COARSE) if coarse else tolerance
    a, b = got.detach().double(), wanted.detach().double()
    bad = ~isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not bad.any():
        if strict and coarse:
            says = (
                f"the numbers are right, but {_it(place)} {got.dtype} where {wanted.dtype} came in:"
                " something in it has a dtype of its own"
            )
            return Difference("type", [says.replace("torch.", "")], place=place)
        return None
    odd = a.isnan() & ~b.isnan() | a.isinf() & ~b.isinf()
    if odd.any():
        return _not_a_number(a, odd, axes, place)
    errors = torch.where(bad, (a - b).abs().nan_to_num(nan=math.inf), 0.0)
    at = _unravel(int(errors.argmax()), wanted.shape)
    error = errors.max().item()
    says = f"max error {error:.2g} at {_index(at)}{f' of {place}' if place else ''}"
    return Difference("wrong", [says], error, at, place)


def narrow(got: Any, wanted: Any) -> bool:
    """Whether an answer computed in fewer bits than it was given."""
    return (
        isinstance(got, Tensor)
        and isinstance(wanted, Tensor)
        and wanted.dtype == torch.float64
        and got.is_floating_point()
        and got.dtype != torch.float64
    )


def _not_a_number(a: Tensor, odd: Tensor, axes: Sequence[str], place: str) -> Difference:
    what = "NaN" if a[odd].isnan().any() else "infinite"
    first = _unravel(int(odd.flatten().int().argmax()), odd.shape)
    says = f"{int(odd.sum())} of {odd.numel()} numbers are {what}, the first at {_index(first)}"
    for axis in range(odd.dim() - 1):
        other = [each for each in range(odd.dim()) if each != axis]
        rows = odd.amax(other).tolist() if other else odd.tolist()
        if 0 < sum(rows) < len(rows):
            name = axes[axis] if axis < len(axes) else f"axis {axis}"
            says += f"; only in {name} {_list([i for i, row in enumerate(rows) if row])}"
    return Difference("nan", [says], at=first, place=place)


def _mappings(
    got: Any,
    wanted: Mapping[Any, Any],
    tolerance: float,
    axes: Sequence[str],
    place: str,
    strict: bool,
) -> Difference | None:
    if not isinstance(got, Mapping):
        return Difference("type", [f"{_it(place)} {_kind(got)}, wanted a dict"])
    missing = [key for key in wanted if key not in got]
    extra = [key for key in got if key not in wanted]
    if missing or extra:
        says = [f"missing: {_list(missing)}"] if missing else []
        says += [f"not asked for: {_list(extra)}"] if extra else []
        return Difference("wrong", [f"{place} {'; '.join(says)}".strip()])
    return _parts(
        [(_join(place, key), got[key], wanted[key]) for key in wanted], tolerance, axes, strict
    )


def _sequences(
    got: Any, wanted: Sequence[Any], tolerance: float, axes: Sequence[str], place: str, strict: bool
) -> Difference | None:
    if not isinstance(got, list | tuple):
        return Difference("type", [f"{_it(place)} {_kind(got)}, wanted {_kind(wanted)}"])
    pairs = itertools.zip_longest(got, wanted, fillvalue=_ABSENT)
    for i, (g, w) in enumerate(pairs):
        if g is _ABSENT or w is _ABSENT:
            says = f"{_it(place)} {len(got)} long, wanted {len(wanted)}"
            if g is _ABSENT:
                says += f"; what should follow is {_short(w)}"
            else:
                says += f"; item {i} and on is not asked for: {_short(g)}"
            return Difference("wrong", [says], at=(i,))
        found = compare(
            g, w, tolerance, axes[:1] and [_axes(axes, i)], _join(place, i), strict=strict
        )
        if found:
            if not found.at and found.kind == "wrong":
                found.at = (i,)
            return found
    return None


def _parts(
    parts: Sequence[tuple[str, Any, Any]], tolerance: float, axes: Sequence[str], strict: bool
) -> Difference | None:
    for i, (place, got, wanted) in enumerate(parts):
        found = compare(got, wanted, tolerance, axes[:1] and [_axes(axes, i)], place, strict=strict)
        if found:
            return found
    return None


_ABSENT = object()


def _axes(axes: Sequence[str], i: int) -> str:
    return axes[min(i, len(axes) - 1)]


def shape_message(got: Sequence[int], wanted: Sequence[int], axes: Sequence[str]) -> str:
    """Both shapes, the axes by name, and what was done to them where that can be seen."""
    names = [axes[i] if i < len(axes) else f"axis {i}" for i in range(len(wanted))]
    named = ", ".join(f"{name} {size}" for name, size in zip(names, wanted, strict=True))
    says = f"expected ({named}), yours {_shape(got)}"
    cause = _reshaped(tuple(got), tuple(wanted), names)
    return f"{says}: {cause}" if cause else says


def _reshaped(got: tuple[int, ...], wanted: tuple[int, ...], names: Sequence[str]) -> str:
    distinct = len(set(wanted)) == len(wanted)
    if sorted(got) == sorted(wanted) and distinct:
        moved = [i for i in range(len(wanted)) if got[i] != wanted[i]]
        if len(moved) == 2:
            return f"{names[moved[0]]} and {names[moved[1]]} are swapped"
        return "the axes come as " + ", ".join(names[wanted.index(size)] for size in got)
    if len(got) == len(wanted):
        off = [i for i in range(len(wanted)) if got[i] != wanted[i]]
        known = dict(zip(wanted, names, strict=True))
        if len(off) == 1:
            i = off[0]
            if got[i] == 1:
                return f"{names[i]} is 1: it was summed away or never spread out"
            if got[i] in known:
                return f"where {names[i]} belongs there is {known[got[i]]}"
            if got[i] % wanted[i] == 0:
                return f"{names[i]} is {got[i] // wanted[i]} times too long"
            if wanted[i] % got[i] == 0:
                return f"{names[i]} is {wanted[i] // got[i]} times too short"
            return f"{names[i]} is {got[i]} long"
        return ""
    if len(got) == len(wanted) - 1:
        for i in range(len(wanted)):
            if got == wanted[:i] + wanted[i + 1 :]:
                return f"{names[i]} is missing"
        for i in range(len(wanted) - 1):
            if got == (*wanted[:i], wanted[i] * wanted[i + 1], *wanted[i + 2 :]):
                return f"{names[i]} and {names[i + 1]} are still one axis"
    if len(got) == len(wanted) + 1:
        for i in range(len(got)):
            if got[:i] + got[i + 1 :] == wanted:
                return f"there is an axis of {got[i]} too many, at place {i}"
        for i in range(len(wanted)):
            if got[:i] == wanted[:i] and got[i] * got[i + 1] == wanted[i]:
                return f"{names[i]} is still split into {got[i]} and {got[i + 1]}"
    return ""


def ordinary(tensor: Tensor) -> bool:
    """Whether it holds numbers that can be compared: none is sparse, on no device, or complex."""
    odd = tensor.is_quantized or tensor.is_nested or tensor.is_complex()
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not odd


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside nested lists, tuples and dicts, with its name."""
    if isinstance(value, Tensor):
        if ordinary(value):
            yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from tensors_in(each, _join(name, key))
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from tensors_in(each, _join(name, i))


def _join(place: str, key: object) -> str:
    return f"{place}[{key!r}]" if place else (key if isinstance(key, str) else f"item {key!r}")


def _it(place: str) -> str:
    return f"{place} is" if place else "it is"


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        kind = ""
        if not ordinary(value):
            kind = f" of {value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
        return f"a tensor {_shape(value.shape)}{kind}"
    name = type(value).__name__
    if name == "ndarray":
        return f"a NumPy array {_shape(getattr(value, 'shape', ()))}"
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _shape(sizes: Sequence[int]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _index(at: Sequence[Any]) -> str:
    return f"[{','.join(map(str, at))}]"


def _unravel(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    at = []
    for size in reversed(shape):
        at.append(flat % size)
        flat //= size
    return tuple(reversed(at))


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _list(items: Sequence[object], limit: int = 6) -> str:
    shown = ", ".join(_short(item, 30) for item in items[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")
