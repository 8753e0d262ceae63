"""read_varint: a whole number in as few bytes as it takes."""

from __future__ import annotations

import io

from chapters.runner.exercise import Diagnosis, Exercise, Probe

# --- the oracle -------------------------------------------------------------------------------


def reference(data, at, *, knobs, steps):
    start = 0 if "ignores_at" in knobs else at
    digits = []
    for byte in bytes(data[start:]):
        digits.append(byte if "keeps_flag" in knobs else byte % 128)
        more = byte >= 128
        if "flag_inverted" in knobs:
            more = not more
        if not more or "one_byte" in knobs:
            break
    steps["the seven bits of each byte"] = list(digits)
    if "high_first" in knobs:
        digits.reverse()
    base = 256 if "eight_bits" in knobs else 128
    value = sum(digit * base**place for place, digit in enumerate(digits))
    if "zigzag" in knobs:
        value = (value >> 1) ^ -(value & 1)
    steps["the number"] = value
    end = start + len(digits)
    if "end_is_length" in knobs:
        end -= start
    if "end_is_last" in knobs:
        end -= 1
    return value, end


# --- right in other ways ----------------------------------------------------------------------


def by_while(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def by_recursion(data, at):
    low, more = data[at] % 128, data[at] > 127
    if not more:
        return low, at + 1
    high, end = by_recursion(data, at + 1)
    return low + 128 * high, end


def by_stream(data, at):
    stream, bits = io.BytesIO(bytes(data)), ""
    stream.seek(at)
    while True:
        byte = stream.read(1)[0]
        bits = f"{byte & 127:07b}" + bits
        if byte < 128:
            return int(bits, 2), stream.tell()


EXERCISE = Exercise(
    name="read_varint",
    target="weights.tf_wire:read_varint",
    minutes=15,
    axes="",
    reference=reference,
    probes=(
        Probe("5, in one byte", lambda: (b"\x05\x07", 0)),
        Probe("300, in two bytes", lambda: (b"\xac\x02\x63", 0)),
        Probe("16,512 between others", lambda: (b"\x81\x80\x01\x80\x81\x01\x03", 3)),
        Probe(
            "the largest of 64 bits", lambda: (b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1)
        ),
        Probe("0", lambda: (b"\x09\x00\x80", 1)),
    ),
    knobs={
        "high_first": Diagnosis(
            says="the first byte was taken for the highest digits",
            think="of 0xAC 0x02, which byte holds the lowest seven bits?",
            hint="Each further byte is worth 128 times as much as the one before.",
            text="ch07#varint",
        ),
        "eight_bits": Diagnosis(
            says="each byte was moved up by eight places, and only seven of its bits are digits",
            think="how many bits of a byte say something about the number?",
            hint="What the eighth bit says is something else.",
            text="ch07#varint",
        ),
        "keeps_flag": Diagnosis(
            says="the top bit of each byte was counted as part of the number",
            think="what is a byte's top bit there for?",
            hint="Take it off before the byte is used: 0xAC is 0x2C and a flag.",
            text="ch07#varint",
        ),
        "one_byte": Diagnosis(
            says="reading stopped after one byte",
            think="how does a byte say that the number goes on?",
            hint="Numbers above 127 take more than one.",
            text="ch07#varint",
        ),
        "flag_inverted": Diagnosis(
            says="reading went on where the top bit is 0 and stopped where it is 1",
            think="which of the two, 0 or 1, do the bytes before the last one have on top?",
            hint="5 is the single byte 0x05.",
            text="ch07#varint",
        ),
        "ignores_at": Diagnosis(
            says="reading began at the first byte of the data and not at `at`",
            think="where does the number begin?",
            hint="The second argument says where.",
            text="ch07#varint",
        ),
        "end_is_length": Diagnosis(
            says="the second value is how many bytes were read, not where the next thing begins",
            think="from where will whoever called you go on reading?",
            hint="It is a place in the data, as `at` is.",
            text="ch07#varint",
        ),
        "end_is_last": Diagnosis(
            says="the second value is the place of the last byte and not the one behind it",
            think="from where will whoever called you go on reading?",
            hint="The end of a thing is where the next one begins, as in a slice.",
            text="ch07#varint",
        ),
        "zigzag": Diagnosis(
            says="the number was unfolded once more, as protobuf's signed `sint` are",
            think="can the lengths and offsets of a file be below 0?",
            hint="Plain numbers are stored as they are.",
            text="ch07#varint",
        ),
    },
    exclusive=(
        ("one_byte", "flag_inverted"),
        ("one_byte", "high_first"),
        ("one_byte", "eight_bits"),
    ),
    hidden={"ignores_at+end_is_length": "from the first byte on, the length is where it ends"},
    hints=(
        "Seven bits of each byte are digits. What does the eighth one say?",
        "A number to the base 128, lowest digit first. A byte with its top bit set is followed by"
        " another one. Two things come back: the number, and the place behind its last byte.",
        "from the given place on, byte after byte\n"
        "its lower seven bits count 128 to the power of how many came before\n"
        "a byte below 128 is the last: hand back the sum, and the place behind it",
    ),
    survivors={
        "10 -> 11": "when a number without an end is refused, which the stub leaves open",
        "64 -> 65": "which numbers are refused as too large, which the stub leaves open",
    },
    alternatives=(by_while, by_recursion, by_stream),
)
