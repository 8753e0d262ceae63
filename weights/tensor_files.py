"""The tensors of a folder by name, in whichever files: safetensors, PyTorch's or TensorFlow's.

Files are mapped, not read: memory is taken only where numbers change their type or their device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from weights.store import TENSORS, read_json, read_tensors
from weights.tf_checkpoint import read_checkpoint
from weights.torch_file import is_archive, read_torch

TORCH = "pytorch_model.bin"
CHUNKS = 32  # as many times a file is mapped while its numbers change: 3 % of it at a time

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TensorFiles:
    """Tensors by name. `kinds`: their shapes and types, as tensors on the device `meta`.

    `read(names)` maps the files anew, so that memory is given back with the tensors it returns.
    """

    kinds: Mapping[str, torch.Tensor]
    read: Callable[[Collection[str]], Tensors]

    def each(
        self,
        names: Iterable[str],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """These tensors, with the file's own dtype for None; nothing is copied that need not be.

        Otherwise the largest first, while little else is held, and of the file hardly more in
        memory than the tensor at hand.
        """
        kinds = {name: self.kinds[name] for name in names}
        same = all(dtype in (None, kind.dtype) for kind in kinds.values())
        stays = same and torch.device(device).type == "cpu"
        for chunk in [list(kinds)] if stays else _chunks(kinds):
            tensors = self.read(chunk)
            for name in chunk:  # popped and not named, so that nothing here keeps the file mapped
                yield name, tensors.pop(name).to(device=device, dtype=dtype or kinds[name].dtype)


def _chunks(kinds: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    limit = sum(kind.nbytes for kind in kinds.values()) // CHUNKS
    chunk: list[str] = []
    size = 0
    for name in sorted(kinds, key=lambda name: kinds[name].nbytes, reverse=True):
        if chunk and size + kinds[name].nbytes > limit:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += kinds[name].nbytes
    if chunk:
        yield chunk


def find_safetensors(folder: Path, name: str = TENSORS) -> TensorFiles | None:
    """`name` in this folder, or its shards; None if there is neither."""
    paths = _whole_or_shards(folder / name)
    return _open(paths, read_tensors) if paths else None


def find_torch(folder: Path, name: str = TORCH) -> TensorFiles | None:
    """`name` in this folder, or its shards; None if there is neither."""
    paths = _whole_or_shards(folder / name)
    return torch_files(paths) if paths else None


def only_safetensors(folder: Path) -> TensorFiles | None:
    """The safetensors in this folder, whatever its name, or None; ValueError if there are more."""
    paths = sorted(folder.glob("*.safetensors"))
    if len(paths) > 1:
        raise ValueError(
            f"{folder} holds {', '.join(path.name for path in paths)}, and neither {TENSORS} nor"
            f" {TENSORS}.index.json. Call the model's file {TENSORS}, or copy the index too."
        )
    return _open(paths, read_tensors) if paths else None


def find_tensorflow(folder: Path) -> TensorFiles | None:
    """The TensorFlow checkpoint in this folder; None if there is none."""
    if not any(folder.glob("*.index")):
        return None
    checkpoint = read_checkpoint(folder)
    kinds = {
        name: torch.empty(
            checkpoint.shape(name),
            dtype=getattr(torch, checkpoint.dtype(name), torch.uint8),
            device="meta",
        )
        for name in checkpoint
    }

    def read(names: Collection[str]) -> Tensors:
        opened = read_checkpoint(folder)
        # numpy has no bfloat16, which comes as its bits
        return {name: torch.from_numpy(opened[name]).view(kinds[name].dtype) for name in names}

    return TensorFiles(kinds, read)


def torch_files(paths: list[Path]) -> TensorFiles:
    """The tensors of PyTorch's own files; see `read_torch`."""
    if all(is_archive(path) for path in paths):
        return _open(paths, read_torch)
    held = {path: read_torch(path) for path in paths}  # can't be mapped, so they are read once only
    return _open(paths, held.__getitem__)


def _open(paths: list[Path], read: Callable[[Path], Tensors]) -> TensorFiles:
    kinds: Tensors = {}
    where: dict[str, Path] = {}
    for path in paths:
        for name, tensor in read(path).items():
            if name in where:
                raise ValueError(
                    f"{name} is in {where[name]} and in {path}. Copy the folder again."
                )
            where[name], kinds[name] = path, tensor.to("meta")

    def read_names(names: Collection[str]) -> Tensors:
        opened = {path: read(path) for path in {where[name] for name in names}}
        return {name: opened[where[name]][name] for name in names}

    return TensorFiles(kinds, read_names)


def _whole_or_shards(path: Path) -> list[Path]:
    """The file itself, or the files that `path.index.json` names, or none."""
    index = path.with_name(f"{path.name}.index.json")
    if path.is_file() or not index.is_file():
        return [path] if path.is_file() else []
    held = read_json(index)
    places = held.get("weight_map") if isinstance(held, dict) else None
    names = list(places.values()) if isinstance(places, dict) else []
    # Beside the index only: a folder from elsewhere must not name other files of this machine.
    if not names or not all(isinstance(n, str) and n and n == Path(n).name for n in names):
        raise ValueError(
            f"{index} has no weight_map from tensors to files beside it. Copy it again."
        )
    shards = [path.with_name(name) for name in sorted(set(names))]
    if lost := [shard.name for shard in shards if not shard.is_file()]:
        raise FileNotFoundError(
            f"{path.parent} lacks {', '.join(lost)}, which {index.name} names. Copy them too."
        )
    return shards
