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
    """Follows the functions of one file."""

    path: str
    changes: list[Change] = field(default_factory=list)
    _before: dict[int, tuple[int, dict[str, str]]] = field(default_factory=dict)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != self.path or len(self.changes) > MOST:
            return None
        line, seen = self._before.get(id(frame), (frame.f_lineno, {}))
        if event == "call":
            line, seen = frame.f_lineno, {}
        if event in ("line", "return", "exception"):
            for name, value in frame.f_locals.items():
                shown = _shown(value)
                if seen.get(name) != shown:
                    seen[name] = shown
                    if event != "call" and small(value):
                        self.changes.append(Change(line, name, _copy(value), id(frame)))
        if event == "return" and small(argument):
            self.changes.append(Change(frame.f_lineno, "", _copy(argument), id(frame)))
        self._before[id(frame)] = (frame.f_lineno, seen)
        return self


def watch(use: Callable[[], Any], path: str) -> list[Change]:
    """What `use()` did to the names of `path`, in order; what it raises is let go."""
    watcher = Watch(path)
    before = sys.gettrace()
    sys.settrace(watcher)
    try:
        use()
    except Exception:
        return watcher.changes
    finally:
        sys.settrace(before)
    return watcher.changes


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
    ends = [c.name for c in changes if c.name and _equal(c.value, got)]
    after = max((i for i in right if changes[i].name in ends), default=-1)
    for i, change in enumerate(changes):
        same_name = change.name in ends or (not change.name and not last)
        if i > after and same_name and _has(change.value, where, mine):
            says = f"puts {_short(mine)} {_at(where, got)}, where {_short(belongs)} belongs"
            return change, says + _around(changes, i, mine)
    return first_wrong(changes, mine, belongs, right)


def _around(changes: Sequence[Change], i: int, item: Any) -> str:
    """What else was in names when a wrong item came, since the item before it."""
    found: dict[str, Change] = {}
    for change in reversed(changes[:i]):
        if change.frame == changes[i].frame:
            if change.name in ("", changes[i].name):
                break
            found.setdefault(change.name, change)
    made = next((c for c in found.values() if _equal(c.value, item)), None)
    if made and made.line != changes[i].line:
        return f"; line {made.line} left it in `{made.name}`"
    few = [c for c in found.values() if len(repr(c.value)) <= 40 and c.name.strip("_.")]
    told = ", ".join(f"{c.name} is {c.value!r}" for c in few[:3])
    return f" ({told})" if told else ""


def difference(got: Any, wanted: Any) -> tuple[Any, Any, Any] | None:
    """(index or key, what is there, what belongs there) of the first difference, if it has one."""
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        for key in wanted:
            if key in got and not _equal(got[key], wanted[key]):
                return key, got[key], wanted[key]
        extra = [key for key in got if key not in wanted]
        return (extra[0], got[extra[0]], NOTHING) if extra else None
    for kind in (str, bytes, (list, tuple)):
        if isinstance(got, kind) and isinstance(wanted, kind):
            for i, mine in enumerate(got):
                if i >= len(wanted):
                    return i, mine, NOTHING
                if not _equal(mine, wanted[i]):
                    return i, mine, wanted[i]
    return None


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()


def _has(value: Any, where: Any, item: Any) -> bool:
    try:
        return _equal(value[where], item)
    except (TypeError, KeyError, IndexError):
        return False


def _equal(a: Any, b: Any) -> bool:
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
