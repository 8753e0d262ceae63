"""Mistakes planted on purpose: for the length of a `with`, a name means something else.

A check that lets one of them pass proves little, so whatever judges a model is judged by them. Each
package with a model keeps its list, `mistakes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

Rebinding = tuple[object, str, Any]  # an owner, the name of an attribute, what it becomes
Plant = Callable[[], list[Rebinding]]


@contextmanager
def rebound(owner: object, attribute: str, value: Any) -> Iterator[None]:
    """`owner.attribute` is `value` inside the block, and what it was after it."""
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@dataclass(frozen=True)
class Mistake:
    """One mistake: its name, the fact it gets wrong, and how it is planted."""

    name: str
    says: str
    plant: Plant

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Models have the mistake inside the block, those too that exist already, and not after."""
        with ExitStack() as stack:
            for rebinding in self.plant():
                stack.enter_context(rebound(*rebinding))
            yield


def during(owner: type, method: str, meddle: Callable[..., AbstractContextManager[Any]]) -> Plant:
    """A method as it is, but run inside the context that `meddle` makes of its arguments."""

    def rebindings() -> list[Rebinding]:
        right = getattr(owner, method)

        def wrong(self: object, *args: Any, **kwargs: Any) -> Any:
            with meddle(self, *args, **kwargs):
                return right(self, *args, **kwargs)

        return [(owner, method, wrong)]

    return rebindings
