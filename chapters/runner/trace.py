"""Which line went wrong? Every tensor that an answer makes, with the line that made it.

A step is right when some right way makes it too: the reference, the solution, an alternative. From
the wrong output one goes back through what is not right, to the lines that read only right things.
Only explains; it never judges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from chapters.runner.compare import close, tensors_in

MOST = 4000  # operations, then it is a loop whose steps tell nothing
LARGE = 100_000  # numbers in a tensor
BLANK = ("zeros_like", "ones_like", "full_like")


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
        if line is None or len(self.made) >= MOST:
            return func(*args, **kwargs)
        given = [t for _, t in tensors_in([*args, *kwargs.values()])]
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
                and torch.is_grad_enabled()
                and any(t.requires_grad for t in given)
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

    def maker(self, tensor: Tensor) -> Made | None:
        return self._maker.get(id(tensor))


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


def culprits(recorder: Recorder, output: Any, rights: Sequence[Tensor]) -> list[Made]:
    """The operations behind a wrong output that read only right things and made a wrong one."""
    known = _Known(rights)
    for each in recorder.made:
        each.right = _is_right(each, known)
    waiting: list[Made | None] = [recorder.maker(t) for _, t in tensors_in(output)]
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
    if not found:  # right numbers, put together wrongly in the end
        found = [made for _, t in tensors_in(output) if (made := recorder.maker(t))]
    return sorted(found, key=recorder.made.index)


def _is_right(made: Made, known: _Known) -> bool:
    """What is made of nothing is; of what is filled piece by piece, each piece must be."""
    if not made.reads or made.name.startswith(("new_", "empty")) or made.name in BLANK:
        return True
    if made.name != "__setitem__":
        return all(known.has(tensor) for tensor in made.makes)
    written = made.reads[1:]
    before = made.sources[:1]
    return all(source is None or source.right for source in before) and all(
        known.has(tensor) for _, tensor in written
    )


class _Known:
    """Right tensors, asked whether they have one like this: the same numbers in any layout."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.by_size: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel() <= LARGE:
                self.by_size.setdefault(tensor.numel(), []).append(tensor.detach())

    def has(self, tensor: Tensor) -> bool:
        size = tensor.numel()
        if any(alike(tensor, right) for right in self.by_size.get(size, ())):
            return True
        return any(
            _part_of(tensor, right)
            for other, group in self.by_size.items()
            if other > size > 0
            for right in group
        )


def alike(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> bool:
    """The same numbers, in whatever places, if there are enough different ones to tell."""
    if a.numel() != b.numel() or (a.dtype == torch.bool) != (b.dtype == torch.bool):
        return False
    if _squeezed(a) == _squeezed(b) and close(a.reshape(-1), b.reshape(-1), tolerance):
        return True
    if a.dtype == torch.bool or not a.is_floating_point():
        return False
    values = a.double().reshape(-1).sort().values
    if values.unique().numel() < max(3, a.numel() // 2):
        return False
    return close(values, b.double().reshape(-1).sort().values, tolerance)


def _part_of(part: Tensor, whole: Tensor) -> bool:
    """Whether every number of `part` is one of `whole`; 0, 1 and what isn't finite say nothing."""
    if not (part.is_floating_point() and whole.is_floating_point()):
        return False
    values = part.double().reshape(-1)
    values = values[values.isfinite() & (values != 0) & (values != 1)]
    if not values.numel():
        return False
    among = whole.double().reshape(-1).sort().values
    above = torch.searchsorted(among, values).clamp(max=among.numel() - 1)
    near = torch.minimum(
        (among[above] - values).abs(), (among[(above - 1).clamp(min=0)] - values).abs()
    )
    return bool((near <= 1e-9 * (1 + values.abs())).all())


def _squeezed(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


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
