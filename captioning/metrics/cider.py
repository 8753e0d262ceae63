"""CIDEr (Vedantam et al. 2015): do caption and references share the n-grams that few images have?

No stemming, as in coco-caption, whose "CIDEr" is the paper's CIDEr-D.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from captioning.metrics.measure import Measure, Tokens, check_tokens, mean
from captioning.metrics.ngrams import Ngrams, ngrams

N = 4
SIGMA = 6.0  # of the length penalty, in tokens

Weights = dict[tuple[str, ...], float]


def cider(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """The paper's first form, times 10: the cosine of TF-IDF vectors, averaged over n = 1 to 4."""
    return _score(candidates, references, _cosine, lambda said, wanted: 1.0)


def cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """CIDEr with clipped counts and a Gaussian penalty for length: not won by repeating. Up to 10.

    An n-gram's weight comes from how many of these images' references have it: values of different
    sets of images don't compare, and of a single image it is 0.
    """
    return _score(candidates, references, _clipped_cosine, _length_penalty)


def _score(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    similarity: Callable[[Weights, Weights], float],
    penalty: Callable[[Tokens, Tokens], float],
) -> Measure:
    check_tokens(candidates, references)
    idf = [_inverse_document_frequency(references, n) for n in range(1, N + 1)]
    rarest = math.log(len(references))  # of an n-gram that no reference has
    values = []
    for candidate, several in zip(candidates, references, strict=True):
        said = _vectors(candidate, idf, rarest)
        total = 0.0
        for reference in several:
            wanted = _vectors(reference, idf, rarest)
            alike = sum(map(similarity, said, wanted)) / N
            total += alike * penalty(candidate, reference)
        values.append(10 * total / len(several))
    return mean(values)


def _inverse_document_frequency(references: Sequence[Sequence[Tokens]], n: int) -> Weights:
    """n-gram -> log of images over images that have it in a reference."""
    seen: Ngrams = Counter()
    for several in references:
        seen.update({ngram for reference in several for ngram in ngrams(reference, n)})
    return {ngram: math.log(len(references) / images) for ngram, images in seen.items()}


def _vectors(tokens: Tokens, idf: Sequence[Weights], rarest: float) -> list[Weights]:
    """TF-IDF vectors for n = 1 to 4; TF is the plain count, since the cosine takes lengths out."""
    return [
        {ngram: count * known.get(ngram, rarest) for ngram, count in ngrams(tokens, n).items()}
        for n, known in enumerate(idf, 1)
    ]


def _cosine(said: Weights, wanted: Weights) -> float:
    return _over_lengths(sum(said[g] * wanted[g] for g in said.keys() & wanted), said, wanted)


def _clipped_cosine(said: Weights, wanted: Weights) -> float:
    """What is said more often than wanted counts as often as wanted, above the line only."""
    clipped = sum(min(said[g], wanted[g]) * wanted[g] for g in said.keys() & wanted)
    return _over_lengths(clipped, said, wanted)


def _over_lengths(product: float, said: Weights, wanted: Weights) -> float:
    lengths = math.hypot(*said.values()) * math.hypot(*wanted.values())
    return product / lengths if lengths else 0.0


def _length_penalty(said: Tokens, wanted: Tokens) -> float:
    return math.exp(-((len(said) - len(wanted)) ** 2) / (2 * SIGMA**2))
