"""What learners' code may not put its own in the place of: torch, Python, and the course itself.

The judge computes with them in the same process. So they are noted before that code runs, and put
back before anything is compared.
"""

from __future__ import annotations

import ast
import builtins
import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chapters.runner.source import OURS

OWNERS = (torch, torch.nn.functional, torch.linalg, torch.special, Tensor, nn.Module)
PYTHON = (builtins, copy, json, math)
TORCH = Path(torch.__file__).parent


class Intact:
    """Everything callable in those modules and classes, as it is when this is made."""

    def __init__(self, *, ours: bool = False) -> None:
        mine = [m for name, m in sys.modules.items() if ours and name.partition(".")[0] in OURS]
        owners: list[Any] = [*OWNERS, *PYTHON, *mine]
        self.kept = {owner: dict(vars(owner)) for owner in owners}

    def restore(self) -> list[str]:
        """Put back what has been replaced; returns the names of it, such as "torch.isclose"."""
        replaced = []
        for owner, before in self.kept.items():
            for name, value in before.items():
                now = vars(owner).get(name)
                if now is not value and callable(value) and not _by_torch(owner, now, name):
                    setattr(owner, name, value)
                    replaced.append(f"{owner.__name__}.{name}")
        for name in set(vars(Tensor)) - set(self.kept[Tensor]):
            if any(name in vars(base) for base in Tensor.__mro__[1:]):  # it hides what is inherited
                delattr(Tensor, name)
                replaced.append(f"Tensor.{name}")
        return sorted(replaced)


def _by_torch(owner: object, now: object, name: str) -> bool:
    """Whether torch did it itself, as when its compiler is loaded or a default dtype is set."""
    if owner is torch and name == "Storage":
        return True
    code = getattr(now, "__code__", None)
    own = code is not None and TORCH in Path(code.co_filename).parents
    return own and getattr(now, "__name__", "") == name


def line_of(tree: ast.Module, name: str) -> int:
    """Where a file gives an attribute of this name a value; 0 if that can't be seen."""
    last = name.rpartition(".")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names: list[object] = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        else:
            continue
        if last in names:
            return node.lineno
    return 0
