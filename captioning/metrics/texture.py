"""What captions are like, whatever their references say: varied, repetitive, long, finished.

All but `end_rate` take lists of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from captioning.metrics.measure import Measure, Tokens, check_strings, check_tokens, mean
from captioning.metrics.ngrams import Ngrams, ngrams

_ENDED = re.compile(r"""[.!?…。][\"')\]}”\u2019»]*\s*$""")


def distinct(candidates: Sequence[Tokens], n: int) -> float:
    """distinct-n (Li et al. 2016): different n-grams over all n-grams of all captions.

    Falls as captions become more: compare it between equal numbers only. Resampling would count
    captions twice, so there is no interval.
    """
    check_tokens(candidates, [[()]] * len(candidates))
    found: Ngrams = Ngrams()
    for tokens in candidates:
        found += ngrams(tokens, n)
    return len(found) / max(found.total(), 1)


def repetition(candidates: Sequence[Tokens], n: int) -> Measure:
    """repetition-n: share of a caption's n-grams that it has said before (Welleck et al. 2020)."""
    check_tokens(candidates, [[()]] * len(candidates))
    counts = [ngrams(tokens, n) for tokens in candidates]
    return Measure(np.array([(c.total() - len(c), c.total()) for c in counts], float))


def length_ratio(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """Tokens said over tokens of the references closest in length: BLEU is brief below 1."""
    check_tokens(candidates, references)
    parts = []
    for candidate, several in zip(candidates, references, strict=True):
        lengths = map(len, several)
        parts.append((len(candidate), min(lengths, key=lambda n: (abs(n - len(candidate)), n))))
    return Measure(np.array(parts, float))


def end_rate(candidates: Sequence[str]) -> Measure:
    """Share of captions with . ! or ? at the end: the others were cut off, or never have one."""
    check_strings(candidates, [[""]] * len(candidates))
    return mean([bool(_ENDED.search(text)) for text in candidates])
