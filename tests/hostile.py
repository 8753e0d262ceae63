"""Indexes that no program writes: each is wrong in one way, or asks for more than it should get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from benchmarks.openai_format import (
    block,
    entry,
    field,
    finish_table,
    header,
    put_block,
    table,
    varint,
)
from weights.crc32c import crc32c, mask

DATA = bytes(64)  # what the one data file holds

HUGE = 1 << 62


def record(shape: Iterable[int] = (2,), dtype: str | int = "float32", **changes: int) -> bytes:
    return entry(dtype, shape, **({"shard": 0, "offset": 0, "size": 8, "checksum": 0} | changes))


def index(*records: bytes, head: bytes = header(1)) -> bytes:
    """A sound table with these records, called a, b, and so on."""
    names = (bytes([ord("a") + number]) for number in range(len(records)))
    return table([(b"", head), *zip(names, records, strict=True)])


def of_block(content: bytes, compress: Callable[[bytes], bytes] | None = None) -> bytes:
    """A table whose one block is this, with the checksum that it should have."""
    out = bytearray()
    handle = put_block(out, content, compress)
    return finish_table(out, put_block(out, block([])), put_block(out, block([(b"z", handle)])))


def of_handles(*handles: bytes, first: bytes | None = None) -> bytes:
    """A table with a sound block at byte 0, and these for where its blocks are."""
    out = bytearray()
    put_block(out, first or block([(b"", header(1)), (b"a", record())]))
    items = [(f"z{number:07}".encode(), handle) for number, handle in enumerate(handles)]
    return finish_table(out, put_block(out, block([])), put_block(out, block(items)))


def of_kind(number: int) -> bytes:
    """A table whose one block says that it is compressed in this way."""
    content = SOUND + bytes([number])
    out = bytearray(content + mask(crc32c(content)).to_bytes(4, "little"))
    handles = block([(b"z", varint(0) + varint(len(SOUND)))])
    return finish_table(out, put_block(out, block([])), put_block(out, handles))


def damaged() -> bytes:
    """A sound table but for one bit."""
    content = bytearray(index(record()))
    content[20] ^= 1
    return bytes(content)


SOUND = block([(b"", header(1)), (b"a", record())])

# Each with a piece of what is said of it.
FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "a greeting": (b"hello", "no TensorFlow index"),
    "a page": (b"<!DOCTYPE html><title>Sign in</title>" * 9, "an HTML page titled 'Sign in'"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "a footer alone": (finish_table(bytearray(), b"", b""), "past its end"),
    "a footer of nothing": (b"\xff" * 40 + index()[-8:], "does not end within 64 bits"),
    # numbers
    "a number of 11 bytes": (index(b"\x08" + b"\xff" * 10 + b"\0"), "within 64 bits"),
    "a number of 11 bytes that are 0": (index(b"\x08" + b"\x80" * 10 + b"\0"), "within 64 bits"),
    "a number of 70 bits": (index(b"\x08" + b"\xff" * 9 + b"\x7f"), "within 64 bits"),
    "a number that stops": (index(b"\x08\xff"), "within 64 bits"),
    "a field of no kind": (index(b"\x0b\x08\x01"), "a field of kind 3"),
    "a field past the record": (index(b"\x12\x7f\x01"), "longer than the record"),
    "a fixed field past the record": (index(record() + b"\x35\x01"), "longer than the record"),
    # the header
    "no header": (table([(b"a", record())]), "no header"),
    "nothing": (table([(b"\0", record())]), "no header"),
    "no data files": (index(head=field(1, 0)), "0 data files"),
    "a billion data files": (index(head=header(1 << 30)), "1073741824 data files"),
    "minus one data file": (index(head=header(-1)), "18446744073709551615 data files"),
    "big-endian": (index(head=field(1, 1) + field(2, 1)), "big-endian"),
    # tensors
    "a shard too many": (index(record(shard=1)), "wanted one below 1"),
    "a negative shard": (index(record(shard=-1)), "wanted one below 1"),
    "past the end": (index(record(offset=60)), "has 64 bytes, wanted 68 to hold all of 'a'"),
    "an offset that overflows": (index(record(offset=-4)), "wanted 18446744073709551620"),
    "a size that overflows": (index(record(dtype="string", size=-1)), "to hold all of 'a'"),
    "another size": (index(record(size=12)), "'a' in 12 bytes, wanted 8 for float32"),
    "a negative axis": (index(record((-2,))), "no file can hold"),
    "huge axes": (index(record((HUGE, HUGE, HUGE, HUGE))), "no file can hold"),
    "axes that overflow to 2": (index(record((1 << 32, (1 << 32) + 2))), "no file can hold"),
    "huge axes of nothing": (index(record((0, HUGE), size=0)), "no file can hold"),
    "nine axes": (index(record((1,) * 9, size=4)), "more than 8 axes"),
    "unknown axes": (index(field(1, 1) + field(2, field(3, 1))), "axes is unknown"),
    "one in another": (index(record(), record(offset=4)), "within another tensor"),
    "the same place": (index(record(), record()), "within another tensor"),
    "a name that is no text": (table([(b"", header(1)), (b"\xff", record())]), "can't decode"),
    "text": (index(record(dtype="string", size=4)), "has 'a' as string"),
    "a variant": (index(record(dtype=21)), "has 'a' as variant"),
    "an unheard-of type": (index(record(dtype=99)), "has 'a' as unknown"),
    "slices": (index(record(size=0) + field(7, field(1, b""))), "has 'a' in slices"),
    "another checksum": (index(record(checksum=1)), "the checksum of 'a' is"),
    # blocks
    "not sorted": (table([(b"", header(1)), (b"b", b""), (b"a", b"")]), "wanted them sorted"),
    "twice": (table([(b"", header(1)), (b"b", b""), (b"b", b"")]), "wanted them sorted"),
    "no entries": (of_block(block([])), "do not fit"),
    "nothing in a block": (of_block(b""), "64 bits"),
    "a block of two bytes": (of_block(b"\0\0"), "64 bits"),
    "restarts out of range": (of_block(SOUND[:-4] + b"\xff" * 4), "do not fit"),
    "more shared than there is": (of_block(b"\x05\0\0" + SOUND), "do not fit"),
    "a key past the block": (of_block(b"\0\x7f\0" + SOUND), "do not fit"),
    "a huge key": (of_block(b"\0" + varint(HUGE) + b"\0" + SOUND), "do not fit"),
    "a huge value": (of_block(b"\0\0" + varint((1 << 64) - 1) + SOUND), "do not fit"),
    "a block past the end": (of_handles(varint(0) + varint(1000)), "past its end"),
    "a block far past the end": (of_handles(varint(HUGE) + varint(HUGE)), "past its end"),
    "half a handle": (of_handles(varint(0)), "64 bits"),
    "the same block twice": (of_handles(*[varint(0) + varint(len(SOUND))] * 2), "one before it"),
    "damaged": (damaged(), "is damaged: the block at byte 0"),
    "a way of compressing": (of_kind(2), "compressed in way 2"),
    # Snappy
    "compressed, but not": (of_block(SOUND, lambda content: content), "past|compressed block"),
    "compressed from too much": (of_block(SOUND, lambda _: varint(1 << 40)), "at most 4194304"),
    "compressed to less": (of_block(SOUND, lambda _: b"\x08\x04ab"), "does not give its 8"),
    "compressed to more": (of_block(SOUND, lambda _: b"\x01\x04ab"), "does not give its 1"),
    "a literal that stops": (of_block(SOUND, lambda _: b"\x08\x1cab"), "does not give its 8"),
    "a literal of 4 GB": (of_block(SOUND, lambda _: b"\x08\xfc" + b"\xff" * 4), "give its 8"),
    "a copy of what is not there": (of_block(SOUND, lambda _: b"\x08\x00a\x11\x02"), "a copy from"),
    "a copy of no distance": (of_block(SOUND, lambda _: b"\x08\x00a\x11\x00"), "a copy from 1"),
}


def squeeze(content: bytes) -> bytes:
    """Snappy that is good at one thing, a byte again and again: a copy of up to 64 takes three."""
    out = bytearray(varint(len(content)))
    for byte, run in groupby(content):
        out += bytes([0, byte])
        copies, rest = divmod(len(list(run)) - 1, 64)
        out += b"\xfe\x01\x00" * copies
        if rest:
            out += bytes([rest - 1 << 2 | 2, 1, 0])
    return bytes(out)


def entries(*parts: tuple[int, bytes, bytes]) -> bytes:
    """A block of entries that say themselves how much they share."""
    out = b"".join(
        varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        for shared, fresh, value in parts
    )
    return out + bytes(4) + b"\1\0\0\0"


def long_keys() -> bytes:
    """Each key is as long as a name may be, and takes a few bytes."""
    keys = [b"k" * 996 + b"%04d" % n for n in range(5000)]
    parts = [(996 if n else 0, key[996 if n else 0 :], record()) for n, key in enumerate(keys)]
    return of_block(entries((0, b"", header(1)), *parts))


def long_name() -> bytes:
    r"""A name of 2 MB that Snappy makes small, and an error could make large: \x01\x01..."""
    return of_block(block([(b"", header(1)), (b"\1" * 2_000_000, record(shard=1))]), squeeze)


def long_handle_keys() -> bytes:
    """Keys of a megabyte in the block that says where the blocks are."""
    out = bytearray()
    names = [b"", *(b"%05d" % n for n in range(5000))]
    handles = [put_block(out, block([(n, record() if n else header(1))])) for n in names]
    parts = [
        (2**20 + n - 1 if n else 0, b"k" * (1 if n else 2**20), h) for n, h in enumerate(handles)
    ]
    return finish_table(out, put_block(out, block([])), put_block(out, entries(*parts)))


def many_blocks(blocks: Iterable[bytes], compress: Callable[[bytes], bytes] | None) -> bytes:
    out = bytearray()
    handles = [put_block(out, content, compress) for content in blocks]
    named = [(b"%07d" % n, handle) for n, handle in enumerate(handles)]
    return finish_table(out, put_block(out, block([])), put_block(out, block(named)))


def blocks_of_zeros() -> Iterator[bytes]:
    """Sound blocks, in each a record of a megabyte that is all fields of the value 0."""
    yield block([(b"", header(1))])
    for n in range(17):
        yield block([(b"%02d" % n, bytes(1 << 20))])


def most_tensors(count: int = 9_999) -> bytes:
    """As many as are read, of long names and the largest shapes, each of them of no bytes."""
    empty = record((0, 300, 300, 300, 300, 300, 1, 1), size=0, checksum=mask(crc32c(b"")))
    return table([(b"", header(1)), *((b"%0200d" % n, empty) for n in range(count))])


TOO_MUCH = "over 10000 tensors, or over 4194304 bytes"

# Small for what they make of themselves, and what is said of them; nothing of the last, which is
# read. None may take much memory or time.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "keys of a kilobyte": (long_keys, TOO_MUCH),
    "a name of 2 MB": (long_name, "has a name of 2000000 bytes, wanted at most 1000"),
    "handles of a megabyte": (long_handle_keys, TOO_MUCH),
    "a block of 4 MB of zeros": (lambda: of_block(bytes(4 << 20), squeeze), TOO_MUCH),
    "17 MB of zeros in records": (lambda: many_blocks(blocks_of_zeros(), squeeze), TOO_MUCH),
    "a million literals": (
        lambda: of_block(b"", lambda _: varint(1 << 20) + b"\0\0" * (1 << 20)),
        "0 data files",
    ),
    "more than it says": (
        lambda: of_block(b"", lambda _: b"\1\0\0" + b"\xfe\1\0" * 1_000_000),
        "does not give its 1",
    ),
    "20,000 empty blocks": (lambda: many_blocks([block([])] * 20_000, None), "do not fit"),
    "200,000 times one block": (
        lambda: of_handles(*[varint(0) + varint(len(SOUND))] * 200_000),
        "within the one before it",
    ),
    "a block of itself": (lambda: of_block(varint(0) + varint(0)), "within 64 bits"),
    "a million fields": (lambda: index(b"\x50\x01" * 1_000_000 + record()), "checksum of 'a'"),
    "a million axes": (
        lambda: index(field(1, 1) + field(2, b"\x12\0" * 1_000_000)),
        "more than 8 axes",
    ),
    "5 MB": (lambda: bytes(5 << 20) + index(), "larger than an index gets"),
    "10,001 tensors": (lambda: most_tensors(10_001), TOO_MUCH),
    "all the tensors there may be": (most_tensors, ""),
}
