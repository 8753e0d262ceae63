"""n-grams: the runs of n tokens that captions are compared by."""

from __future__ import annotations

from collections import Counter

from captioning.metrics.measure import Tokens

Ngrams = Counter[tuple[str, ...]]


def ngrams(tokens: Tokens, n: int) -> Ngrams:
    """How often each run of n tokens occurs."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
