"""Word error rate, by jiwer: how many words to change, add and take away, over the words wanted.

Made for transcripts, where one text is right; the article uses it on captions, so it is here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioning.metrics.measure import Measure, Tokens, check_tokens, mean


def wer(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """Errors of all images over words of all references, in percent; can exceed 100.

    Of several references the one with the lowest rate stands for its image, the first of equals.
    Where it has no words, each word said is an error out of one.
    """
    check_tokens(candidates, references)
    parts = [
        min((_errors(candidate, reference) for reference in several), key=_rate)
        for candidate, several in zip(candidates, references, strict=True)
    ]
    return Measure(np.array(parts, float), _percent)


def wer_macro(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """Mean of the images' own rates, in percent: a short reference weighs as much as a long one."""
    return mean(wer(candidates, references).items)


def _percent(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)


def _rate(errors_and_words: tuple[int, int]) -> float:
    errors, words = errors_and_words
    return errors / max(words, 1)


def _errors(candidate: Tokens, reference: Tokens) -> tuple[int, int]:
    """Words wrong, missing or too many, and the words of the reference."""
    import jiwer

    if not reference:  # jiwer 3 refuses those
        return len(candidate), 0
    found = jiwer.process_words(" ".join(reference), " ".join(candidate))
    return found.substitutions + found.deletions + found.insertions, len(reference)
