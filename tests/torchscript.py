"""TorchScript archives to read in tests: small ones of torch's own making, and altered ones."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn


def save_script(module: nn.Module, path: Path) -> None:
    """As OpenAI saved CLIP: torch.jit.save, which torch has given up but still can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)


def rewrite(source: Path, target: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """Copy an archive with one of its entries changed, or left out for None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content: bytes | None = old.read(info)
            if info.filename.partition("/")[2] == name:
                content = change(old.read(info))
            if content is not None:
                new.writestr(info, content, info.compress_type)


class Node(nn.Module):
    """Parameters and parts by name: a module of nothing but a state dict."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            first, dot, rest = name.partition(".")
            if dot:
                parts.setdefault(first, {})[rest] = tensor
            else:
                self.register_parameter(first, nn.Parameter(tensor))
        for name, part in parts.items():
            self.add_module(name, Node(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
