"""The tensors of a model's folder as its files hold them, under OpenAI's names.

For what judges the loader: it shares no line with it. Every published layout, read lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from weights.compare import Array
from weights.raw import held, open_files, read_object, whole_or_shards

SMALL = 2**24  # bytes of wte: of models below this, every tensor stays in memory


@dataclass(frozen=True)
class RawCheckpoint:
    """Sizes and tensors of one folder. `read("h0/attn/c_attn/w")` is (in, out), as OpenAI's."""

    folder: Path
    layout: str
    n_layer: int
    n_head: int
    n_embd: int
    n_ctx: int
    n_vocab: int
    read: Callable[[str], Array]  # large files are mapped anew each time, so that memory is free


def open_raw(folder: str | Path) -> RawCheckpoint:
    """A folder's checkpoint: config.json with .safetensors or .bin, or OpenAI's files."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        sizes = read_object(folder / "config.json")
        files = whole_or_shards(folder, "model", ".safetensors")
        if files := files or sorted(folder.glob("*.safetensors")):
            return _raw(folder, "safetensors", sizes, _tensors(files))
        if files := whole_or_shards(folder, "pytorch_model", ".bin"):
            return _raw(folder, "bin", sizes, _tensors(files))
    if (folder / "hparams.json").is_file() and sorted(folder.glob("*.index")):
        return _raw(folder, "openai", read_object(folder / "hparams.json"), _tensorflow(folder))
    raise FileNotFoundError(
        f"{folder} holds no GPT-2 that can be read; needed: hparams.json, one .index and its"
        " .data-*, or config.json and .safetensors. Name such a folder, or a model that was"
        " fetched: python -m weights list"
    )


def _raw(
    folder: Path, layout: str, sizes: dict[str, Any], read: Callable[[str], Array]
) -> RawCheckpoint:
    wte, wpe = read("wte"), read("wpe")
    if wte.nbytes < SMALL:
        read = cache(read)
    try:
        layers, heads = int(sizes["n_layer"]), int(sizes["n_head"])
    except KeyError as error:
        raise ValueError(f"The config of {folder} lacks {error}. Is it a GPT-2's?") from None
    if wte.shape[1] % heads:
        raise ValueError(
            f"{folder} has {heads} heads for a width of {wte.shape[1]}, wanted a divisor of it."
            " Check that the config belongs to the weights."
        )
    return RawCheckpoint(
        folder, layout, layers, heads, wte.shape[1], wpe.shape[0], wte.shape[0], read
    )


def hugging_face(name: str) -> str:
    """`h0/attn/c_attn/w` -> `h.0.attn.c_attn.weight`: their name, without the prefix."""
    if name in ("wte", "wpe"):
        return f"{name}.weight"
    path, leaf = name.rsplit("/", 1)
    path = path.replace("/", ".")
    if path[0] == "h":
        path = f"h.{path[1:]}"
    return f"{path}.{'bias' if leaf == 'b' else 'weight'}"


def _tensors(files: list[Path]) -> Callable[[str], Array]:
    names, read = open_files(files)
    where = {name.removeprefix("transformer."): name for name in names}
    return lambda name: read(held(where, hugging_face(name), files[0].parent))


def _tensorflow(folder: Path) -> Callable[[str], Array]:
    from weights.tf_checkpoint import read_checkpoint

    def read(name: str) -> Array:
        # The loader checks every sum when it reads the same file.
        checkpoint = read_checkpoint(folder, verify=False)
        array = held(checkpoint, f"model/{name}", folder)
        if checkpoint.dtype(f"model/{name}") == "bfloat16":  # numpy has none: these are its bits
            array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        array = array.astype(np.float32, copy=False)
        return array[0] if name.endswith("/w") else array  # (1, in, out)

    return read
