"""Which line went wrong, where no tensors are made: what each line of an answer left in its names.

The answer is run once more under `sys.settrace`. Only explains; it never judges.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor

from chapters.runner.compare import ordinary

MOST = 5000  # changes, then it is a loop whose steps tell nothing
LARGE = 2000  # items, characters or bytes in one value


@dataclass(frozen=True)
class Change:
    """After this line, a name had this value; the name is "" for what was returned."""

    line: int
    name: str
    value: Any
    frame: int = 0  # which call it was in


@dataclass
class Watch:
    """Follows the functions of one file. Arrays are lists here; `tensors`: they are, too."""

    path: str
    tensors: bool = False
    changes: list[Change] = field(default_factory=list)
    _calls: int = 0
    _before: dict[int, tuple[int, dict[str, str], int]] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != self.path or len(self.changes) > MOST:
            return None
        if event == "call" or id(frame) not in self._before:
            self._calls += 1
            self._before[id(frame)] = frame.f_lineno, {}, self._calls
        line, seen, call = self._before[id(frame)]
        if event in ("line", "return", "exception"):
            for name, value in frame.f_locals.items():
                value = plain(value, self.tensors)
                shown = _shown(value)
                if seen.get(name) != shown:
                    seen[name] = shown
                    if small(value):
                        self.changes.append(Change(line, name, _copy(value), call))
        if event == "return":
            value = plain(argument, True)
            if small(value):
                self.changes.append(Change(frame.f_lineno, "", _copy(value), call))
        self._before[id(frame)] = frame.f_lineno, seen, call
        return self


def plain(value: Any, tensors: bool) -> Any:
    """An array as nested lists, so that one place of it can be looked at; also in a tuple."""
    if isinstance(value, tuple):
        return tuple(plain(each, tensors) for each in value) if len(value) <= LARGE else value
    array = type(value).__module__ == "numpy" and hasattr(value, "tolist")
    if array or (tensors and isinstance(value, Tensor) and ordinary(value)):
        size = getattr(value, "size", 0) if array else value.numel()
        return value.tolist() if size <= LARGE else value
    return value


def follow(use: Callable[[], Any], trace: Callable[..., Any]) -> None:
    """Call `use()` with each line told to `trace`; what it raises is let go."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        use()
    except BaseException:
        return
    finally:
        sys.settrace(before)


def watch(use: Callable[[], Any], path: str, *, tensors: bool = False) -> list[Change]:
    """What `use()` did to the names of `path`, in order."""
    watcher = Watch(path, tensors)
    follow(use, watcher)
    return watcher.changes


def first_line(use: Callable[[], Any], path: str, happened: Callable[[], bool]) -> int:
    """The line of `path` during which something happened that is not undone; 0 if none."""
    found, last, steps = 0, 0, 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal found, last, steps
        if found or steps > MOST or frame.f_code.co_filename != path:
            return None
        steps += 1
        if last and happened():
            found = last
        back = frame.f_back if event == "return" else frame  # the caller's line goes on
        last = back.f_lineno if back and back.f_code.co_filename == path else frame.f_lineno
        return trace

    follow(use, trace)
    return found or (last if happened() else 0)


def last_line(use: Callable[[], Any], path: str) -> int:
    """The line of `path` that ran last, from where an answer was handed back."""
    last = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal last
        if frame.f_code.co_filename != path:
            return None
        last = frame.f_lineno
        return trace

    follow(use, trace)
    return last


def first_wrong(
    changes: Sequence[Change], got: Any, wanted: Any, right: Collection[int] = ()
) -> tuple[Change, str] | None:
    """The change that brought the first wrong item of the output, and what it is in words.

    For text, bytes and lists the first place in which they differ, for dicts the first key; where
    `use` put an output together out of several, the first wrong one of them. `right` are changes
    that made a right step: what such a step holds was no mistake at that time.
    """
    place = difference(got, wanted)
    if place is None:
        return None
    where, mine, belongs = place
    last = changes[-1].name if changes else ""
    given = changes[-1].value if changes and not last else got  # before `use` did more with it
    ends = [c.name for c in changes if c.name and (equal(c.value, got) or equal(c.value, given))]
    after = max((i for i in right if changes[i].name in ends), default=-1)
    for i, change in enumerate(changes):
        same_name = change.name in ends or (not change.name and not last)
        if i > after and same_name and _on_the_way(change, got) and _has(change.value, where, mine):
            says = f"puts {_short(mine)} {_at(where, got)}, where {_short(belongs)} belongs"
            return change, says + _around(changes, i, mine)
    return first_wrong(changes, mine, belongs, right)


def _on_the_way(change: Change, got: Any) -> bool:
    """Whether it can have grown to `got`: a text by its beginning, what is returned not at all."""
    if isinstance(change.value, str | bytes) and isinstance(got, type(change.value)):
        return got.startswith(change.value)  # type: ignore[arg-type]
    return bool(change.name) or equal(change.value, got)


def _around(changes: Sequence[Change], i: int, item: Any) -> str:
    """What else was in names when a wrong item came, since the item before it."""
    found: dict[str, Change] = {}
    for change in reversed(changes[:i]):
        if change.frame == changes[i].frame:
            if change.name in ("", changes[i].name):
                break
            found.setdefault(change.name, change)
    made = next((c for c in found.values() if equal(c.value, item)), None)
    if made and made.line != changes[i].line:
        return f"; line {made.line} left it in `{made.name}`"
    few = [c for c in found.values() if len(repr(c.value)) <= 40 and c.name.strip("_.")]
    told = ", ".join(f"{c.name} is {c.value!r}" for c in few[:3])
    return f" ({told})" if told else ""


def difference(got: Any, wanted: Any) -> tuple[Any, Any, Any] | None:
    """(index or key, what is there, what belongs there) of the first difference, if it has one."""
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        for key in wanted:
            if key in got and not equal(got[key], wanted[key]):
                return key, got[key], wanted[key]
        extra = [key for key in got if key not in wanted]
        return (extra[0], got[extra[0]], NOTHING) if extra else None
    for kind in (str, bytes, (list, tuple)):
        if isinstance(got, kind) and isinstance(wanted, kind):
            for i, mine in enumerate(got):
                if i >= len(wanted):
                    return i, mine, NOTHING
                if not equal(mine, wanted[i]):
                    return i, mine, wanted[i]
    return None


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def _has(value: Any, where: Any, item: Any) -> bool:
    try:
        return equal(value[where], item)
    except (TypeError, KeyError, IndexError):
        return False


def equal(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except (RuntimeError, ValueError):
        return False


def _at(where: Any, whole: Any) -> str:
    return f"under {_short(where)}" if isinstance(whole, Mapping) else f"at place {where}"


def small(value: Any) -> bool:
    if isinstance(value, str | bytes | bytearray | list | tuple | dict | set | frozenset):
        return len(value) <= LARGE
    return value is None or isinstance(value, int | float)


def _shown(value: Any) -> str:
    try:
        whole = repr(value) if small(value) else f"{id(value)}"
    except Exception:
        return f"{id(value)}"
    return whole if len(whole) < LARGE else f"{len(whole)} {hash(whole)}"


def _copy(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
