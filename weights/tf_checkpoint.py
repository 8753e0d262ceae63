"""Reads OpenAI's TensorFlow checkpoints, memory-mapped and without TensorFlow.

`model.ckpt.index` says of each tensor where in `model.ckpt.data-00000-of-00001`, or in which of
several such files, its numbers lie.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from weights.crc32c import crc32c, mask
from weights.tf_index import DTYPES, Entry, read_index
from weights.tf_wire import CheckpointError, CheckpointNotFoundError

__all__ = ["Checkpoint", "CheckpointError", "CheckpointNotFoundError", "read_checkpoint"]


def read_checkpoint(prefix_or_folder: str | Path, *, verify: bool = True) -> Checkpoint:
    """A checkpoint, by its folder or by what its files begin with: FOLDER/model.ckpt.

    The index is read and checked at once, the numbers when asked for. Whatever is wrong raises
    CheckpointError; a file that isn't there, CheckpointNotFoundError.
    """
    path = Path(prefix_or_folder)
    with _naming(path):
        prefix = _prefix(path)
    index = prefix.with_name(f"{prefix.name}.index")
    with _naming(index):
        _must_be_file(index)
        entries, count = read_index(index)
    held: dict[int, dict[str, Entry]] = {}
    for name, entry in entries.items():
        held.setdefault(entry.shard, {})[name] = entry
    shards = {
        shard: prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{count:05}") for shard in held
    }
    for shard, path in shards.items():
        with _naming(path):
            _must_be_file(path)
            _check_places(held[shard], path.stat().st_size)
    return Checkpoint(entries, shards, verify=verify)


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name, each mapped from its file when asked for, not copied.

    bfloat16, which numpy lacks, comes as uint16, its bits. Writing to an array changes this
    process's memory and never the file. With `verify`, checksums are checked on first access.
    """

    def __init__(self, entries: dict[str, Entry], shards: dict[int, Path], *, verify: bool) -> None:
        self._entries, self._shards = entries, shards
        self._unverified = set(entries) if verify else set()
        self._maps: dict[int, mmap.mmap] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all tensors, sorted as bytes are: h10 comes before h2."""
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the index."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """The type of a tensor in words, from the index: "float32", "bfloat16", "string"."""
        return self._entries[name].dtype

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        with _naming(self._shards[entry.shard]):
            if not entry.readable:
                stored = "in slices" if entry.sliced else f"as {entry.dtype}"
                raise CheckpointError(
                    f"has {name!r} {stored}, wanted numbers in one piece. Save it again so, or"
                    " leave this tensor alone."
                )
            data = self._mapped(entry)
            if name in self._unverified:
                found = mask(crc32c(data))
                if found != entry.checksum:
                    raise CheckpointError(
                        f"is damaged: the checksum of {name!r} is {found:08x}, wanted"
                        f" {entry.checksum:08x}"
                    )
                self._unverified.discard(name)
            array = data.view(DTYPES[entry.code][1]).reshape(entry.shape)
            # Behind a tensor of single bytes, one may lie where processors read none: copied.
            return np.require(array, requirements="A")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def release(self, name: str) -> None:
        """Free the memory of a tensor that was copied; what was written to its array is undone.

        Its array stays valid, and is read from the file again when touched.
        """
        entry = self._entries[name]
        if entry.shard in self._maps and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            # Only pages that are wholly its own: neighbours may have been written to.
            first = -(-entry.offset // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (entry.offset + entry.size) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                self._maps[entry.shard].madvise(mmap.MADV_DONTNEED, first, last - first)

    def _mapped(self, entry: Entry) -> np.ndarray:
        """The bytes of a tensor, in a file that is mapped once."""
        if not entry.size:  # and a file without a byte not at all
            return np.empty(0, np.uint8)
        if entry.shard not in self._maps:
            with self._shards[entry.shard].open("rb") as file:
                self._maps[entry.shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return np.frombuffer(self._maps[entry.shard], np.uint8, entry.size, entry.offset)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes every error about a file name it and say what to do."""
    try:
        yield
    except CheckpointNotFoundError:
        raise
    except CheckpointError as error:
        advice = "" if str(error).endswith(".") else ". Copy or fetch it again."
        raise CheckpointError(f"{path} {error}{advice}") from None
    except (OSError, ValueError) as error:  # of the system, and of a file that just got shorter
        raise CheckpointError(f"{path} can't be read: {error}.") from None


def _prefix(path: Path) -> Path:
    """What the files begin with, of the one checkpoint in a folder or of the one meant."""
    if not path.is_dir():
        return path.with_name(path.name.removesuffix(".index"))
    names = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    found = [name.removesuffix(".index") for name in names if name.endswith(".index")]
    if not found:
        raise CheckpointNotFoundError(
            f"{path} holds {', '.join(names[:8]) or 'nothing'} but no .index; needed: one .index"
            " and its .data-*. Name a folder with both, or: python -m weights fetch NAME"
        )
    if len(found) > 1:
        raise CheckpointError(
            f"holds {len(found)} checkpoints, wanted one. Name which, such as {path / found[-1]}."
        )
    return path / found[0]


def _must_be_file(path: Path) -> None:
    if not path.exists():
        raise CheckpointNotFoundError(
            f"{path} does not exist; needed: one .index and its .data-*. Copy it too, or name"
            " another folder."
        )
    if not path.is_file():
        raise CheckpointError("is not a file")


def _check_places(entries: dict[str, Entry], held: int) -> None:
    """CheckpointError where tensors lie one in another or beyond the `held` bytes of their file."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.offset + entry.size > held:
            raise CheckpointError(
                f"has {held} bytes, wanted {entry.offset + entry.size} to hold all of {name!r}"
            )
        if entry.size and entry.offset < end:
            raise CheckpointError(f"has {name!r} at byte {entry.offset}, within another tensor")
        end = max(end, entry.offset + entry.size)
