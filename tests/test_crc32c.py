"""The checksum of TensorFlow's files, against published vectors and a byte at a time."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weights.crc32c import FOLD, STRIDES, crc32c, mask

PUBLISHED = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),  # the check value of the catalogues
    # RFC 3720, B.4, whose table has the bytes of each checksum in the order they are sent
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000000000000000000000000000140000000000040000000014"
            "0000001828000000000000000200000000000000"
        ),
        0xD9963A56,
    ),
]


def table() -> list[int]:
    rows = []
    for register in range(256):
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        rows.append(register)
    return rows


TABLE = table()


def by_the_byte(data: bytes, crc: int = 0) -> int:
    """The textbook's way."""
    register = ~crc & 0xFFFFFFFF
    for byte in data:
        register = register >> 8 ^ TABLE[(register ^ byte) & 0xFF]
    return ~register & 0xFFFFFFFF


@pytest.mark.parametrize(("data", "wanted"), PUBLISHED)
def test_published_vectors(data: bytes, wanted: int) -> None:
    assert by_the_byte(data) == wanted
    assert crc32c(data) == wanted


FOLDED = 8 * FOLD[-1]  # bytes, beyond which a message is folded
LOADED = 8 * STRIDES * FOLD[0]  # bytes that are folded between two loads
EDGES = [0, 8, 64, FOLDED - 4, FOLDED, LOADED - 4, LOADED, 2 * LOADED]


@pytest.mark.parametrize(
    "length", sorted({e + d for e in EDGES for d in (-1, 0, 1, 4) if e + d >= 0})
)
def test_every_way_through_agrees_with_the_byte_at_a_time(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == by_the_byte(data)
    assert crc32c(data, 0x12345678) == by_the_byte(data, 0x12345678)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_it_goes_on_from_the_checksum_of_what_came_before(head: bytes, tail: bytes) -> None:
    assert crc32c(tail, crc32c(head)) == crc32c(head + tail)


LONG = np.random.default_rng(0).integers(0, 256, 3 * LOADED + 11, np.uint8)


@given(st.integers(0, len(LONG) - 1), st.integers(1, 255))
def test_one_changed_byte_shows_wherever_it_is(place: int, change: int) -> None:
    data = LONG.copy()
    data[place] ^= change
    assert crc32c(data) != crc32c(LONG)


def test_arrays_are_taken_as_their_bytes() -> None:
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    assert (
        crc32c(numbers) == crc32c(memoryview(numbers.tobytes())) == by_the_byte(numbers.tobytes())
    )


def test_the_masked_form_is_a_rotation_and_a_sum() -> None:
    # Bits 15 to 31 go to the low end, 0 to 14 to the high end, and the constant is added.
    assert mask(0) == 0xA282EAD8
    assert mask(1 << 15) == 0xA282EAD9
    assert mask(1) == (0xA282EAD8 + (1 << 17)) & 0xFFFFFFFF
    assert mask(0xFFFFFFFF) == 0xA282EAD7


def test_gigabytes_take_seconds() -> None:
    data = np.random.default_rng(0).integers(0, 256, 1 << 26, np.uint8)
    started = time.process_time()
    crc32c(data)
    # 0.012 s on one core here; a gather per word instead of the folding takes 0.15 s and more,
    # and GPT-2 Large has 46 times as many bytes.
    assert time.process_time() - started < 0.5
