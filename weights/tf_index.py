"""What the `.index` file of a TensorFlow checkpoint says: each tensor's type, shape and place.

The table's values are protocol buffers, the first (its key is empty) about the whole checkpoint:
BundleHeaderProto and BundleEntryProto of TensorFlow's tensor_bundle.proto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from weights.tf_table import read_table
from weights.tf_wire import CheckpointError, read_fields

# TensorFlow's number of a type, its name and how numpy reads it.
DTYPES = {
    1: ("float32", "<f4"),
    2: ("float64", "<f8"),
    3: ("int32", "<i4"),
    4: ("uint8", "|u1"),
    5: ("int16", "<i2"),
    6: ("int8", "|i1"),
    9: ("int64", "<i8"),
    10: ("bool", "|b1"),
    14: ("bfloat16", "<u2"),  # numpy has none, so its bits
    17: ("uint16", "<u2"),
    19: ("float16", "<f2"),
    22: ("uint32", "<u4"),
    23: ("uint64", "<u8"),
}
REFUSED = {7: "string", 8: "complex64", 18: "complex128", 20: "resource", 21: "variant"}
AXES = 8  # more than any tensor of a network has
NAME = 1000  # bytes; in an error, a name of megabytes would take many times that


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one tensor."""

    code: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool

    @property
    def dtype(self) -> str:
        """The type in words."""
        return DTYPES[self.code][0] if self.code in DTYPES else REFUSED.get(self.code, "unknown")

    @property
    def readable(self) -> bool:
        """Whether it is stored in one piece, and as numbers."""
        return self.code in DTYPES and not self.sliced


def read_index(path: Path) -> tuple[dict[str, Entry], int]:
    """Every tensor by name, and in how many data files they lie."""
    entries: dict[str, Entry] = {}
    shards = 0
    for key, record in read_table(path):
        if len(key) > NAME:
            raise CheckpointError(f"has a name of {len(key)} bytes, wanted at most {NAME}")
        if not key:
            shards = _read_header(record)
        elif not shards:
            raise CheckpointError("has no header: its first key is not empty")
        elif key[0]:  # a zero begins the key of one slice of a tensor
            name = key.decode()
            entries[name] = _read_entry(name, record)
            if entries[name].shard >= shards:
                raise CheckpointError(
                    f"has {name!r} in data file {entries[name].shard}, wanted one below {shards}"
                )
    if not shards:
        raise CheckpointError("has no header, which says how many data files there are")
    return entries, shards


def _read_header(record: bytes) -> int:
    shards = 0
    for number, value in read_fields(record):
        match number, value:
            case 1, int():
                shards = value
            case 2, int() if value:
                raise CheckpointError("says that its numbers are big-endian, wanted little-endian")
    if not 0 < shards < 100_000:  # five digits of the data files' names
        raise CheckpointError(f"says that there are {shards} data files, wanted 1 to 99999")
    return shards


def _read_entry(name: str, record: bytes) -> Entry:
    code = shard = offset = size = checksum = 0
    shape: list[int] = []
    sliced = False
    for number, value in read_fields(record):
        match number, value:
            case 1, int():
                code = value
            case 2, bytes():
                shape = _read_shape(value)
            case 3, int():
                shard = value
            case 4, int():
                offset = value
            case 5, int():
                size = value
            case 6, int():
                checksum = value
            case 7, bytes():
                sliced = True
    entry = Entry(code, tuple(shape), shard, offset, size, checksum, sliced)
    # Even where an axis of 0 makes any others possible, numpy can't hold them.
    if math.prod(axis or 1 for axis in shape) > 1 << 48:
        raise CheckpointError(f"has {name!r} of shape {entry.shape}, which no file can hold")
    if entry.readable:
        wanted = math.prod(shape) * int(DTYPES[code][1][2:])
        if size != wanted:
            raise CheckpointError(
                f"has {name!r} in {size} bytes, wanted {wanted} for {entry.dtype} {entry.shape}"
            )
    return entry


def _read_shape(record: bytes) -> list[int]:
    """The axes; one below 0 reads as a huge one, for numbers stay as they are stored."""
    shape: list[int] = []
    for number, value in read_fields(record):
        match number, value:
            case 2, bytes():
                axis = 0  # which protocol buffers leave out
                for place, size in read_fields(value):
                    if place == 1 and isinstance(size, int):
                        axis = size
                shape.append(axis)
                if len(shape) > AXES:
                    raise CheckpointError(f"has a tensor of more than {AXES} axes")
            case 3, int() if value:
                raise CheckpointError("has a tensor whose number of axes is unknown")
    return shape
