"""LevelDB's table of sorted keys and their values, which a checkpoint's `.index` file is.

    block, block, ..., a block of metadata, a block of handles (one a block), 48 bytes of footer

A block is entries, each of which shares the beginning of its key with the one before; the places
where that starts anew, which a search needs and we don't; one byte that says how it is compressed,
and a checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from weights.contents import HEAD, impostor
from weights.crc32c import crc32c, mask
from weights.snappy import decompress
from weights.tf_wire import CheckpointError, read_varint

FOOTER = 48
MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
PLAIN, SNAPPY = 0, 1
# GPT-2 XL has 580 keys in 24 kB. Beyond these a small file could take any memory and time: keys
# that share their beginnings, and compressed blocks, are larger than what they take in the file.
LIMIT = 4 << 20  # bytes of the file, and of the keys and blocks in it
KEYS = 10_000


def read_table(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Every key with its value, in order; CheckpointError says what is wrong with the file."""
    with path.open("rb") as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise CheckpointError(f"is larger than an index gets, wanted at most {LIMIT} bytes")
    if page := impostor(data[:HEAD]):
        raise CheckpointError(f"is {page}, wanted a TensorFlow index")
    if len(data) < FOOTER or not data.endswith(MAGIC):
        raise CheckpointError(
            f"is no TensorFlow index, or not whole: {len(data)} bytes that begin {data[:16]!r}"
            f" and end {data[-8:]!r}, wanted {MAGIC!r} at the end"
        )
    footer = len(data) - FOOTER
    _, at = _read_handle(data, footer)  # of the metadata, of which TensorFlow writes none
    (offset, size), _ = _read_handle(data, at)
    end, spent, count, last = 0, 0, 0, None
    for separator, handle in _entries(_read_block(data, offset, size)):
        (offset, size), _ = _read_handle(handle, 0)
        if offset < end:
            raise CheckpointError(f"has a block at byte {offset}, within the one before it")
        end = offset + size
        block = _read_block(data, offset, size)
        spent += len(separator) + len(block)
        for key, value in _entries(block):
            spent += len(key)
            count += 1
            if spent > LIMIT or count > KEYS:
                raise CheckpointError(
                    f"has over {KEYS} tensors, or over {LIMIT} bytes of names and records"
                )
            if last is not None and key <= last:
                raise CheckpointError(f"has {key[:80]!r} behind {last[:80]!r}, wanted them sorted")
            last = key
            yield key, value


def _read_handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where they end."""
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


def _read_block(data: bytes, offset: int, size: int) -> memoryview:
    """The content of a block whose checksum is right, unpacked."""
    end = offset + size
    if end + 5 > len(data) - FOOTER:
        raise CheckpointError(f"has a block of {size} bytes at byte {offset}, past its end")
    content = memoryview(data)[offset : end + 1]
    stored, found = int.from_bytes(data[end + 1 : end + 5], "little"), mask(crc32c(content))
    if stored != found:
        raise CheckpointError(
            f"is damaged: the block at byte {offset} has checksum {found:08x}, wanted {stored:08x}"
        )
    if content[-1] == SNAPPY:
        return memoryview(decompress(content[:-1], limit=LIMIT))
    if content[-1] != PLAIN:
        raise CheckpointError(f"has a block compressed in way {content[-1]}, wanted none or Snappy")
    return content[:-1]


def _entries(block: memoryview) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; CheckpointError where there are none."""
    starts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (starts + 1)
    at, key = 0, b""
    while at < end or at == 0:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        size, at = read_varint(block, at)
        if shared > len(key) or fresh + size > end - at:
            raise CheckpointError("has a block whose entries do not fit into it")
        key = key[:shared] + bytes(block[at : at + fresh])
        at += fresh + size
        yield key, bytes(block[at - size : at])
