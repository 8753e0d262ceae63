"""The tensors of a folder as its files hold them, for what judges a loader: no line is shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weights.compare import Array
from weights.torch_file import read_torch


def whole_or_shards(folder: Path, stem: str, ending: str) -> list[Path]:
    """The one file of that name, or its shards."""
    whole = folder / f"{stem}{ending}"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*{ending}"))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    held = json.loads(path.read_text("utf-8"))
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__}, wanted an object. Copy it again.")
    return held


def open_files(files: list[Path]) -> tuple[list[str], Callable[[str], Array]]:
    """The names in safetensors or PyTorch's files, and how to read one as float32.

    Safetensors are mapped anew each time, so that what was read is free again.
    """
    if files[0].suffix != ".safetensors":
        tensors = {name: t for path in files for name, t in read_torch(path).items()}
        return list(tensors), lambda name: held(tensors, name, files[0]).float().numpy()

    from safetensors import SafetensorError, safe_open

    where: dict[str, Path] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                where |= dict.fromkeys(file.keys(), path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not whole ({error}). Copy it again.") from None

    def read(name: str) -> Array:
        path = held(where, name, files[0].parent)
        with safe_open(path, framework="pt") as file:  # torch's, since numpy has no bfloat16
            return file.get_tensor(name).float().numpy()

    return list(where), read


def held(tensors: Mapping[str, Any], name: str, source: Path) -> Any:
    """What goes by that name; ValueError where nothing does."""
    if name not in tensors:
        raise ValueError(f"{source} holds no {name}. Copy the checkpoint again.")
    return tensors[name]
