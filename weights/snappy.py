"""Undoes Snappy, the compression that a LevelDB table may have: literals, and copies of them."""

from __future__ import annotations

from weights.tf_wire import CheckpointError, read_varint


def decompress(data: bytes | memoryview, *, limit: int) -> bytes:
    """What `data` was; CheckpointError where it is broken or was more than `limit` bytes."""
    size, at = read_varint(data, 0)
    if size > limit:
        raise CheckpointError(f"has a compressed block of {size} bytes, wanted at most {limit}")
    out = bytearray()
    while at < len(data):
        kind, rest = data[at] & 3, data[at] >> 2
        # Behind the tag: the length of a literal over 60 bytes, or how far back a copy begins.
        wide = (max(0, rest - 59), 1, 2, 4)[kind]
        operand = int.from_bytes(data[at + 1 : at + 1 + wide], "little")
        at += 1 + wide
        if kind == 0:
            length = (operand if wide else rest) + 1
            out += data[at : at + length]
            at += length
        else:
            length, distance = rest + 1, operand
            if kind == 1:
                length, distance = rest % 8 + 4, rest // 8 << 8 | operand
            start = len(out) - distance
            if distance == 0 or start < 0:
                raise CheckpointError(f"has a compressed block with a copy from {start}")
            piece = out[start : start + length]
            out += (piece * (length // distance + 1))[:length]  # it may overlap what it writes
        if at > len(data) or len(out) > size:
            break
    if at != len(data) or len(out) != size:
        raise CheckpointError(f"has a compressed block that does not give its {size} bytes")
    return bytes(out)
