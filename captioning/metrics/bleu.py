"""BLEU (Papineni et al. 2002): how many of the caption's n-grams are in its references.

The corpus BLEU is written out, as coco-caption computes it. Sentence BLEU is nltk's with smoothing
method 7; on characters instead of words it is what the article calls BLEU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from captioning.metrics.measure import Measure, Tokens, check_strings, check_tokens, mean
from captioning.metrics.ngrams import Ngrams, ngrams

N = 4
# coco-caption's: no matches make BLEU nearly 0, not 0, and no n-grams divide by nearly 0.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[Measure]:
    """BLEU-1 to BLEU-4, in [0, 1]; an image's as if it were the corpus.

    The length that brevity is measured by is each image's closest reference's, the shorter of two.
    """
    check_tokens(candidates, references)
    parts = np.array([_count(*pair) for pair in zip(candidates, references, strict=True)], float)
    return [Measure(parts, partial(_formula, n=n)) for n in range(1, N + 1)]


def _count(candidate: Tokens, references: Sequence[Tokens]) -> list[int]:
    """Matches of 1 to 4 tokens, n-grams of 1 to 4 tokens, length, closest reference's length."""
    matches, guesses = [], []
    for n in range(1, N + 1):
        allowed: Ngrams = ngrams((), n)
        for reference in references:
            allowed |= ngrams(reference, n)  # the most that any one reference has
        matches.append((ngrams(candidate, n) & allowed).total())  # clipped
        guesses.append(max(len(candidate) - n + 1, 0))
    closest = min(map(len, references), key=lambda length: (abs(length - len(candidate)), length))
    return [*matches, *guesses, len(candidate), closest]


def _formula(sums: np.ndarray, n: int) -> np.ndarray:
    """(..., 10) -> (...): geometric mean of n precisions, times the brevity penalty."""
    matches, guesses = sums[..., :n], sums[..., N : N + n]
    precision = np.prod((matches + _TINY) / (guesses + _SMALL), -1) ** (1 / n)
    ratio = (sums[..., -2] + _TINY) / (sums[..., -1] + _SMALL)
    return precision * np.exp(np.minimum(1 - 1 / ratio, 0))


def sentence_bleu_m7(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]
) -> Measure:
    """Mean of the images' BLEU-4 with nltk's smoothing method 7, in percent.

    The method lifts short captions: a perfect one of 6 words gets 110.
    """
    check_tokens(candidates, references)
    return _mean_m7(candidates, references)


def char_bleu_m7(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Measure:
    """The article's BLEU, in percent: `sentence_bleu` on strings, whose characters become words.

    Far higher than BLEU on words, and to be compared with nobody's.
    """
    check_strings(candidates, references)
    return _mean_m7([list(text) for text in candidates], [list(map(list, r)) for r in references])


def _mean_m7(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    method = SmoothingFunction().method7
    return mean(
        [
            100 * sentence_bleu(several, candidate, smoothing_function=method)
            for candidate, several in zip(candidates, references, strict=True)
        ]
    )
