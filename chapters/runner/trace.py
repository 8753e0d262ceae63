"""Which line went wrong? Every tensor that an answer makes, with the line that made it.

A step is right when some right way makes it too: the reference, the solution, an alternative. From
the wrong output one goes back through what is not right, to the lines that read only right things.
Only explains; it never judges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, dropwhile, pairwise, permutations
from operator import mul
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from chapters.runner.compare import close, tensors_in

MOST = 4000  # operations, then it is a loop whose steps tell nothing
LARGE = 100_000  # numbers in a tensor
LOOK_UPS = ("__getitem__", "embedding", "index_select", "gather", "take_along_dim", "take")
BLANK = ("zeros_like", "ones_like", "full_like")
DRAWN = ("normal_", "uniform_", "trunc_normal_", "fill_", "zero_")  # first weights, which go


@dataclass(eq=False)
class Made:
    """One operation: where it was called, what it read, what it made (copies of both)."""

    line: int
    name: str
    reads: list[tuple[int, Tensor]]
    makes: list[Tensor]
    sources: list[Made | None] = field(default_factory=list)
    right: bool = False
    cuts: bool = False  # what it reads has a gradient, what it makes has none


class Recorder(TorchFunctionMode):
    """Keeps what the lines of `path` make; without a path, what anything makes."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path
        self.made: list[Made] = []
        self.changes: list[Made] = []  # in place, on something that nothing here made
        self._maker: dict[int, Made] = {}
        self._alive: list[Tensor] = []  # so that no id is given twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        line = _line(self.path) if self.path else 0
        given = [t for _, t in tensors_in([*args, *kwargs.values()])]
        if line is None or len(self.made) >= MOST:
            result = func(*args, **kwargs)
            self._hand_on(given, [t for _, t in tensors_in(result)])
            return result
        reads = [(id(t), _copy(t)) for t in given]
        result = func(*args, **kwargs)
        name = (resolve_name(func) or getattr(func, "__name__", "?")).split(".")[-1]
        outputs = [t for _, t in tensors_in(result)]
        if name in ("__setitem__", "copy_") and given:
            outputs = [given[0]]
        if outputs:
            made = Made(line, name, reads, [_copy(t) for t in outputs])
            floats = [t for t in outputs if t.is_floating_point()]
            made.cuts = bool(
                floats
                and any(t.requires_grad for t in given)
                and not _blank(name)
                and not any(t.requires_grad for t in floats)
            )
            made.sources = [self._maker.get(key) for key, _ in reads]
            for tensor in outputs:
                if any(tensor is t for t in given) and id(tensor) not in self._maker:
                    self.changes.append(made)
                self._maker[id(tensor)] = made
            self._alive += [*given, *outputs]
            self.made.append(made)
        return result

    def _hand_on(self, given: list[Tensor], outputs: list[Tensor]) -> None:
        """What `use` makes of an answer's output is still that line's."""
        makers = [made for t in given if (made := self._maker.get(id(t)))]
        for tensor in outputs if makers else []:
            self._maker.setdefault(id(tensor), makers[0])
            self._alive.append(tensor)

    def maker(self, tensor: Tensor) -> Made | None:
        """What made it, if it is still as it was made."""
        made = self._maker.get(id(tensor))
        same = made and any(m.shape == tensor.shape and torch.equal(m, tensor) for m in made.makes)
        return made if same else None


def record(
    use: Callable[[], Any], path: str | None = None, *, gradients: bool = False
) -> tuple[Recorder, Any]:
    """What `use()` made on the way, and what it returned, None where it raised."""
    recorder = Recorder(path)
    try:
        with recorder, torch.set_grad_enabled(gradients):
            return recorder, use()
    except BaseException:
        return recorder, None


def culprits(recorder: Recorder, output: Any, known: Known) -> list[Made]:
    """The operations behind a wrong output that read only right things and made a wrong one.

    None for an output: the answer raised an error, before which something may have been wrong.
    """
    for each in recorder.made:
        each.right = _is_right(each, known)
    waiting = [recorder.maker(t) for _, t in tensors_in(output)]
    if output is None or None in waiting:  # begin with what no line read any more: `use` may have
        read = {source for made in recorder.made for source in made.sources}
        waiting += [m for m in recorder.made if m not in read and m.name not in DRAWN]
    found: list[Made] = []
    seen: set[Made] = set()
    while waiting:
        made = waiting.pop()
        if made is None or made.right or made in seen:
            continue
        seen.add(made)
        wrong = [source for source in made.sources if source is not None and not source.right]
        waiting += wrong
        if not wrong:
            found.append(made)
    if not found and output is not None:  # right numbers, put together wrongly in the end
        found = [made for _, t in tensors_in(output) if (made := recorder.maker(t))]
    return sorted(found, key=recorder.made.index)


def _is_right(made: Made, known: Known) -> bool:
    """What is made of nothing is; of what is filled piece by piece, each piece must be."""
    if not made.reads or _blank(made.name):
        return True
    if made.name != "__setitem__" or not _fresh(made):
        table = _table(made)
        return all(known.has(tensor, table) for tensor in made.makes)
    written = made.reads[1:]
    before = made.sources[:1]
    return all(source is None or source.right for source in before) and all(
        known.has(tensor) for _, tensor in written
    )


def _fresh(made: Made) -> bool:
    """Whether what is written into began as memory of one's own, and not as a copy of numbers."""
    source = made.sources[0] if made.sources else None
    while source is not None and source.name in ("__setitem__", "__getitem__"):
        source = source.sources[0]
    return source is not None and (not source.reads or _blank(source.name))


def _table(made: Made) -> Tensor | None:
    """What rows are looked up in by number: that they are in there makes them no right rows."""
    read = [tensor for _, tensor in made.reads]
    numbers = [t for t in read if not t.is_floating_point() and t.dtype != torch.bool]
    tables = [t for t in read if t.is_floating_point()]
    return tables[0] if made.name in LOOK_UPS and numbers and len(tables) == 1 else None


def _blank(name: str) -> bool:
    """Whether an operation takes no more than a shape and a dtype from what it reads."""
    return name.startswith(("new_", "empty")) or name in BLANK


def unwritten(name: str) -> bool:
    """Whether an operation only takes memory: its numbers are what lay there, wrong ones even."""
    return name.startswith(("empty", "new_empty"))


class _Numbers:
    """A tensor's numbers, with what comparing it with many others asks for again and again."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self.size = tensor.numel()
        self.floating = tensor.is_floating_point()

    @cached_property
    def ordered(self) -> Tensor:
        return self.tensor.double().reshape(-1).sort().values

    @cached_property
    def telling(self) -> bool:
        """Whether there are enough different ones to know them by."""
        return self.ordered.unique().numel() >= max(3, self.size // 2)

    @cached_property
    def special(self) -> Tensor:
        """Those that say something: 0, 1 and what isn't finite are everywhere."""
        values = self.ordered
        return values[values.isfinite() & (values != 0) & (values != 1)]

    @cached_property
    def sums(self) -> tuple[float, float]:
        """One that any order of the numbers has, and one that this order has."""
        flat = self.tensor.double().reshape(-1).nan_to_num(nan=0.5, posinf=2.0, neginf=3.0)
        return flat.sum().item(), (flat * torch.cos(torch.arange(self.size))).sum().item()

    @cached_property
    def slack(self) -> float:
        return 1e-6 * (1 + self.tensor.double().abs().nan_to_num(posinf=2.0).sum().item())

    def alike(self, other: _Numbers, tolerance: float = 1e-9) -> bool:
        a, b = self.tensor, other.tensor
        if self.size != other.size or (a.dtype == torch.bool) != (b.dtype == torch.bool):
            return False
        if abs(self.sums[0] - other.sums[0]) > self.slack:
            return False
        # Of masks there are many with few numbers: the axis on which they lie tells them apart.
        sizes = _squeezed if self.floating else _led
        if sizes(a) == sizes(b) and close(a.reshape(-1), b.reshape(-1), tolerance):
            return True
        return self.reordered(other) and (
            self.moved(other, tolerance) or other.moved(self, tolerance)
        )

    def reordered(self, other: _Numbers) -> bool:
        """Whether these are the other's numbers in any order at all."""
        if not (self.floating and other.floating and self.telling):
            return False
        if self.size != other.size or abs(self.sums[0] - other.sums[0]) > self.slack:
            return False
        return close(self.ordered, other.ordered, 1e-9)

    def twin(self, other: _Numbers) -> bool:
        """Whether these are the other's numbers in any order, on axes of the same sizes."""
        a, b = _squeezed(self.tensor), _squeezed(other.tensor)
        return 1 < len(a) <= 5 and sorted(a) == sorted(b) and self.reordered(other)

    def turned(self, other: _Numbers) -> bool:
        """Whether a twin has the other's axes in another order, and nothing else."""
        mine, theirs = self.tensor.squeeze(), other.tensor.squeeze()
        return any(
            close(mine, theirs.permute(order), 1e-9)
            for order in permutations(range(theirs.dim()))
            if theirs.permute(order).shape == mine.shape
        )

    def moved(self, other: _Numbers, tolerance: float) -> bool:
        """Whether these are the other's numbers with its axes exchanged, split or joined.

        A reshape that cuts anew what lies across two axes is none of these.
        """
        tensor, flat = other.tensor.squeeze(), self.tensor.double().reshape(-1)
        if tensor.dim() > 5:
            return True  # too many orders to try
        for order in permutations(range(tensor.dim())):
            turned = tensor.permute(order)
            if _fit(self.tensor.shape, turned.shape) and close(
                turned.double().reshape(-1), flat, tolerance
            ):
                return True
        return False

    def among(self, ordered: Tensor) -> bool:
        """Whether each of these numbers is one of those."""
        values = self.special
        if not values.numel():
            return False
        above = torch.searchsorted(ordered, values).clamp(max=ordered.numel() - 1)
        near = torch.minimum(
            (ordered[above] - values).abs(), (ordered[(above - 1).clamp(min=0)] - values).abs()
        )
        return bool((near <= 1e-9 * (1 + values.abs())).all())


class Known:
    """Right tensors, asked whether they have one like this: the same numbers, axes in any order."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.by_size: dict[int, list[_Numbers]] = {}
        seen: set[object] = set()
        for tensor in tensors:
            if tensor.numel() <= LARGE:
                each = _Numbers(tensor)
                key = (tensor.dtype, *_led(tensor), *(round(s, 8) for s in each.sums))
                if key not in seen:  # most are made by every right way
                    seen.add(key)
                    self.by_size.setdefault(each.size, []).append(each)
        held = [each.ordered for group in self.by_size.values() for each in group if each.floating]
        self.every = torch.cat(held).sort().values if held else torch.empty(0)

    def has(self, tensor: Tensor, table: Tensor | None = None) -> bool:
        """To be a part of `table` doesn't count."""
        mine = _Numbers(tensor)
        near = self.by_size.get(mine.size, ())
        twins = [right for right in near if mine.twin(right)]
        if twins:  # heads cut the wrong way round have each axis, too, but other numbers on it
            return any(mine.turned(right) for right in twins)
        if any(mine.alike(right) for right in near):
            return True
        if any(mine.reordered(right) for right in near):  # cut anew: no part of a larger one
            return False
        if not mine.floating or not self.every.numel() or not mine.among(self.every):
            return False
        return any(
            right.floating and mine.among(right.ordered)
            for other, group in self.by_size.items()
            if other > mine.size > 0
            for right in group
            if table is None or not close(right.tensor, table, 0.0)
        )


def alike(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    """The same numbers, axes in any order, if there are enough different ones to tell."""
    return a.numel() == b.numel() and _Numbers(a).alike(_Numbers(b), tolerance)


def _fit(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether both shapes come of one by joining axes: (6, 5) and (2, 15) do, of (2, 3, 5)."""
    steps = sorted({1, *accumulate(reversed(a), mul), *accumulate(reversed(b), mul)})
    return all(large % small == 0 for small, large in pairwise(steps))


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _led(tensor: Tensor) -> list[int]:
    """Its sizes without the axes of 1 in front."""
    return list(dropwhile(lambda size: size == 1, tensor.shape))


def _copy(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return tensor.detach().clone() if tensor.numel() <= LARGE else tensor.detach()


def _line(path: str | None) -> int | None:
    """The line of `path` that is being run, however deep below it torch is."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == path:
            return frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None
