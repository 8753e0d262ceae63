"""CRC-32C, the checksum in TensorFlow's files (RFC 3720, appendix B), at the speed of memory.

To a checksum a message is one polynomial over GF(2), and it keeps the remainder modulo P(x). A long
message is folded until few words with the same remainder are left, which are then joined in pairs.
"""

from __future__ import annotations

from functools import cache

import numpy as np

Buffer = bytes | bytearray | memoryview | np.ndarray

POLYNOMIAL = 0x82F63B78  # P(x) without its x^32, the highest power in the lowest bit
# With y = x^64, P divides y^6777 + y^484 + y^100 + 1 (found by search). So a 64-bit word may leave
# its place for these three places further on, and the remainder stays what it was.
FOLD = (6777 - 484, 6777 - 100, 6777)
STRIDES = 4  # of FOLD[0] words between two loads: all of it fits into a processor's second cache


def crc32c(data: Buffer, crc: int = 0) -> int:
    """The CRC-32C of `data`, or of all up to its end where `crc` is that of what came before."""
    words = _folded(_word_before(crc ^ 0xFFFFFFFF), np.frombuffer(data, np.uint8))
    return _remainder(words) ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """A checksum as it is stored: rotated and moved, for data may hold those of its own parts."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _word_before(register: int) -> int:
    """The 32-bit word that a message can begin with instead of starting from `register`."""
    for _ in range(32):
        carry = register >> 31
        register = (register ^ carry * POLYNOMIAL) << 1 | carry
    return register


def _folded(opening: int, message: np.ndarray) -> np.ndarray:
    """At most FOLD[-1] 64-bit words with the remainder of `opening` and `message` behind it."""
    kept = FOLD[-1]
    block = STRIDES * FOLD[0] if 4 + len(message) > 8 * kept else 0
    window = np.zeros(kept + block, np.uint64)
    raw = window.view(np.uint8)
    # Zeros in front change no remainder, so the block that is not full comes first.
    first = len(message) % (8 * block) if block else len(message)
    start = len(raw) - first
    raw[start:] = message[:first]
    raw[start - 4 : start] = np.frombuffer(opening.to_bytes(4, "little"), np.uint8)
    if not block:
        return window[(start - 4) // 8 :]
    _advance(window, kept)
    for at in range(first, len(message), 8 * block):
        raw[8 * kept :] = message[at : at + 8 * block]
        _advance(window, kept)
    return window[:kept]


def _advance(window: np.ndarray, kept: int) -> None:
    """Fold all but the last `kept` words into those, and make them the first."""
    block = len(window) - kept
    for at in range(0, block, FOLD[0]):  # so short a stride never reaches into itself
        moved = window[at : at + FOLD[0]]
        for distance in FOLD:
            window[at + distance : at + distance + FOLD[0]] ^= moved
    window[:kept] = window[block:]


def _remainder(words: np.ndarray) -> int:
    """The register after these words, when it was 0 before them."""
    level, words = 0, words.view("<u4")
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, "<u4"), words])
        words = _times(words[0::2], level) ^ words[1::2]
        level += 1
    return int(_times(words, 0)[0])


def _times(words: np.ndarray, level: int) -> np.ndarray:
    """Each word times x^(32 * 2^level), modulo P."""
    low, *higher = _tables(level)
    digits = words.astype("<u4").view(np.uint8).reshape(-1, 4)
    product = low[digits[:, 0]]
    for place, table in enumerate(higher, 1):
        product ^= table[digits[:, place]]
    return product


@cache
def _tables(level: int) -> np.ndarray:
    """(4, 256): the product of each value of each byte of a word with x^(32 * 2^level)."""
    bits: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if level:  # squared: the step of the level below, twice
        bits = _times(_times(bits, level - 1), level - 1)
    else:
        for _ in range(32):
            bits = bits >> 1 ^ (bits & 1) * np.uint32(POLYNOMIAL)
    tables = np.zeros((4, 256), np.uint32)
    for bit, product in enumerate(bits.reshape(4, 8).T):
        tables[:, 1 << bit : 2 << bit] = tables[:, : 1 << bit] ^ product[:, None]
    return tables
