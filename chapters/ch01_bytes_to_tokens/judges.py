"""Other judges of chapter 1 than its references: OpenAI's own program, and published merges."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from weights.store import embedded

END = "<|endoftext|>"
# As OpenAI's first release has it: seven alternatives.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
Pair = tuple[bytes, bytes]


def byte_order() -> list[int]:
    """The bytes in the order of their ids."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return visible + [byte for byte in range(256) if byte not in visible]


def read_merges(lines: list[str]) -> list[Pair]:
    """Pairs of tokens, from lines of visible letters such as "Ġ t"."""
    order = byte_order()
    byte = {chr(b) if i < 188 else chr(256 + i - 188): b for i, b in enumerate(order)}
    halves = [line.split(" ") for line in lines]
    return [(bytes(byte[c] for c in a), bytes(byte[c] for c in b)) for a, b in halves]


@cache
def scenes() -> list[Pair]:
    """The merges of the model that ships with this project: 127, learned from captions."""
    path = embedded("scenes") / "language-model" / "tokenizer.json"
    return read_merges(json.loads(path.read_text("utf-8"))["merges"])


@cache
def published() -> list[Pair]:
    """GPT-2's 50,000 merges, or none where they are not on this machine."""
    file = merges_file()
    lines = file.read_text("utf-8").rstrip("\n").split("\n") if file else []
    return read_merges([line for line in lines if not line.startswith("#version")])


def merges_file() -> Path | None:
    from gpt2_scratch.tokenizer import _find_gpt2_files

    try:
        return _find_gpt2_files(None)[1]
    except FileNotFoundError:
        return None


def tiktoken_with(merges: list[Pair]) -> Any:
    """OpenAI's own tokenizer with these merges; it needs no file and no network for that."""
    import tiktoken

    tokens = [bytes([byte]) for byte in byte_order()] + [a + b for a, b in merges]
    return tiktoken.Encoding(
        "merges",
        pat_str=PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={END: len(tokens)},
    )
