"""read_entries: names that share their beginnings, and what stands beside each."""

from __future__ import annotations

import struct

from chapters.runner.exercise import Diagnosis, Exercise, Probe
from weights.tf_wire import read_varint


def read_entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values of a table's block, in order.

    An entry is three varints, then bytes: how much of the key before is kept, how many bytes of
    the key follow, how many of the value follow; those of the key; those of the value. The last
    four bytes of the block, little-endian, say how many more at its end are no entries, in fours.
    """
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    at, key, found = 0, b"", []
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        size, at = read_varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        found.append((key, block[at : at + size]))
        at += size
    return found


# --- the oracle -------------------------------------------------------------------------------


def number(block, at):
    value = place = 0
    while block[at] > 127:
        value += (block[at] - 128) << place
        place, at = place + 7, at + 1
    return value + (block[at] << place), at + 1


def reference(block, *, knobs, steps):
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * restarts
    if "trailer_kept" in knobs:
        end = len(block) - 4
    at, found = 0, []
    before = first = None
    while at < end:
        sizes = []
        for _ in range(3):
            if "bytes_for_numbers" in knobs:
                value, at = block[at], at + 1
            else:
                value, at = number(block, at)
            sizes.append(value)
        shared, fresh, size = sizes
        if "counts_swapped" in knobs:
            shared, fresh = fresh, shared
        if "value_first" in knobs:
            value, key = block[at : at + size], block[at + size : at + size + fresh]
        else:
            key, value = block[at : at + fresh], block[at + fresh : at + fresh + size]
        at += fresh + size
        if "no_shared" not in knobs and before is not None:
            whose = first if "shared_of_first" in knobs else before
            key = whose[: None if "key_grows" in knobs else shared] + key
        first = key if first is None else first
        before = key
        found.append((key, value))
    steps["the keys"] = [key for key, _ in found]
    if "drops_header" in knobs:
        found = [pair for pair in found if pair[0]]
    if "drops_last" in knobs:
        found = found[:-1]
    if "as_text" in knobs:
        return [(key.decode("latin-1"), value) for key, value in found]
    return found


# --- the probes -------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def packed(entries, restarts=(0,)) -> bytes:
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        fresh = key[shared:]
        out += varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        before = key
    return out + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


SHORT = (
    (b"", b"\x08\x01"),
    (b"model/h0/b", b"\x01"),
    (b"model/h0/w", b"\x02\x03"),
    (b"model/h0/w2", b""),  # shares more with the last one than that with the one before it
)


def long():
    """A value of 300 bytes and a key of 130, whose lengths take two bytes each."""
    name = b"model/" + b"x" * 124
    return (packed([(b"a", b"v" * 300), (name, b"1"), (name + b"/w", b"22")], restarts=(0, 9)),)


# --- right in other ways ----------------------------------------------------------------------


def by_slices(block):
    rest, key, pairs = block[: -4 * (1 + int.from_bytes(block[-4:], "little"))], b"", []
    while rest:
        header = []
        for _ in range(3):
            value, end = read_varint(rest, 0)
            header.append(value)
            rest = rest[end:]
        key = key[: header[0]] + rest[: header[1]]
        rest = rest[header[1] :]
        pairs.append((key, rest[: header[2]]))
        rest = rest[header[2] :]
    return pairs


def by_generator(block):
    def entries():
        (count,) = struct.unpack_from("<I", block, len(block) - 4)
        at, key = 0, bytearray()
        while at < len(block) - 4 * count - 4:
            kept, at = number(block, at)
            added, at = number(block, at)
            length, at = number(block, at)
            del key[kept:]
            key += block[at : at + added]
            yield bytes(key), bytes(block[at + added : at + added + length])
            at += added + length

    return list(entries())


def by_recursion(block):
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")

    def rest(at, before):
        if at >= end:
            return []
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        size, at = read_varint(block, at)
        key = before[:shared] + block[at : at + fresh]
        middle = at + fresh
        return [(key, block[middle : middle + size]), *rest(middle + size, key)]

    return rest(0, b"")


EXERCISE = Exercise(
    name="read_entries",
    target="chapters.ch07_openai_weights.exercises.read_entries:read_entries",
    minutes=20,
    axes="",
    reference=reference,
    probes=(
        Probe("four entries", lambda: (packed(SHORT),)),
        Probe(
            "two entries, nine restart points",
            lambda: (packed([(b"h1/w", b"q"), (b"h10/w", b"rs")], (0,) * 9),),
        ),
        Probe("lengths above 127", long),
        Probe("no entries", lambda: (packed([]),)),
    ),
    knobs={
        "no_shared": Diagnosis(
            says="keys begin where their own bytes begin, without what they keep of the one before",
            think="what does the first of the three numbers count?",
            hint="A key is put together of two pieces.",
            text="ch07#table",
        ),
        "key_grows": Diagnosis(
            says="the whole key before was kept, however little of it should be",
            think="how much of the key before does an entry keep?",
            hint="The first number says where to cut the old key off.",
            text="ch07#table",
        ),
        "shared_of_first": Diagnosis(
            says="what is kept was taken of the block's first key, not of the one just before",
            think="with which key does an entry share its beginning?",
            hint="The key that you have just put together is the next one's `before`.",
            text="ch07#table",
        ),
        "counts_swapped": Diagnosis(
            says="how much is kept and how much follows were taken for each other",
            think="in which order do the three numbers of an entry come?",
            hint="Kept, following, value.",
            text="ch07#table",
        ),
        "value_first": Diagnosis(
            says="the value was read before the bytes of the key",
            think="what comes first behind the three numbers?",
            hint="Key, then value, as in the pair that you return.",
            text="ch07#table",
        ),
        "bytes_for_numbers": Diagnosis(
            says="each of the three numbers was read as one byte",
            think="what of a value that is 300 bytes long?",
            hint="You have a function for such numbers: the exercise before.",
            text="ch07#varint",
        ),
        "drops_header": Diagnosis(
            says="the entry with the empty key is missing",
            think="is an empty key none?",
            hint="A checkpoint's first key is empty; its value speaks of all files.",
            text="ch07#table",
        ),
        "drops_last": Diagnosis(
            says="the last entry is missing",
            think="at which place does your loop stop, and where does the last entry end?",
            hint="Go on while anything is left before the restart points.",
            text="ch07#table",
        ),
        "as_text": Diagnosis(
            says="keys are text where bytes are asked for",
            think="does the docstring speak of str or of bytes?",
            hint="Leave them as they are; decoding comes later.",
            text="ch07#table",
        ),
    },
    exclusive=(("no_shared", "key_grows"), ("no_shared", "shared_of_first")),
    hidden={"counts_swapped+*": "then reading runs off the end, whatever else is wrong"},
    needs=("read_varint",),
    hints=(
        "If `model/h0/w` follows `model/h0/b`, what must be stored of it at least?",
        "Keys are sorted, so each repeats the beginning of the one before: only its length is"
        " stored. Three varints, the new part of the key, the value, and so on, until the restart"
        " points at the end, which are for searching and of no use here.",
        "where do the entries end? count back from the end\n"
        "three numbers, each beginning where the one before ended\n"
        "put the key together of the kept part and the fresh bytes\n"
        "the value is what comes next\nremember the key, and go on",
    ),
    alternatives=(by_slices, by_generator, by_recursion),
)
