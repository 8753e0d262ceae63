"""Package exports that load on first use, so that importing a package costs nothing (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def lazy_exports(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names live in the modules `exports`.

    Nothing is cached: a class that a chapter swaps in its module is seen here at once.
    Where a name is also its module's (`generate` of `generate.py`), the package has the name.
    """

    class LazyPackage(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            # The import system binds every submodule on its package; that would hide the export.
            if not (name in exports and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    module = sys.modules[package]
    module.__class__ = LazyPackage

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(exports[name]), name)

    def __dir__() -> list[str]:
        return sorted({*vars(module), *exports})

    return __getattr__, __dir__
