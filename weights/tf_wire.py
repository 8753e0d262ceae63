"""The smallest parts of TensorFlow's files, and the error for whatever is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator


class CheckpointError(ValueError):
    """A checkpoint that can't be read: broken, not one at all, or of a kind not read here."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A file of the checkpoint is not there."""


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The integer that begins at `at`, seven bits a byte and the low ones first, and its end."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + place + 1
    raise CheckpointError(f"has a number at byte {at} that does not end within 64 bits")


def read_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer; numbers stay as they are stored."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = read_varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = read_varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise CheckpointError(f"has a record with a field of kind {kind}, wanted 0, 1, 2 or 5")
        if size > len(message) - at:
            raise CheckpointError(f"has a record whose field {number} is longer than the record")
        content = message[at : at + size]
        yield number, content if kind == 2 else int.from_bytes(content, "little")
        at += size
