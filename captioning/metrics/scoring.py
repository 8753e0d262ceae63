"""Every metric of a set of captions, from plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from captioning.metrics.bleu import bleu, char_bleu_m7, sentence_bleu_m7
from captioning.metrics.cider import cider, cider_d
from captioning.metrics.measure import Measure, check_strings
from captioning.metrics.ptb import tokenize
from captioning.metrics.rouge import rouge_l
from captioning.metrics.wer import wer, wer_macro


def measures(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Measure]:
    """All metrics of one caption and one or more references an image, by name.

    BLEU-1 to -4, ROUGE-L (fractions), CIDEr-D and CIDEr (times 10) see `tokenize`'s tokens; WER,
    WER-macro and BLEU-sentence-m7 (percent) words as they stand, split on white space, case kept;
    BLEU-char-m7 (percent) the characters. ValueError where strings are missing or something else.
    """
    check_strings(candidates, references)
    tokens = [tokenize(text) for text in candidates]
    wanted = [[tokenize(text) for text in several] for several in references]
    words = [text.split() for text in candidates]
    wanted_words = [[text.split() for text in several] for several in references]
    return {
        **{f"BLEU-{n}": measure for n, measure in enumerate(bleu(tokens, wanted), 1)},
        "ROUGE-L": rouge_l(tokens, wanted),
        "CIDEr-D": cider_d(tokens, wanted),
        "CIDEr": cider(tokens, wanted),
        "WER": wer(words, wanted_words),
        "WER-macro": wer_macro(words, wanted_words),
        "BLEU-sentence-m7": sentence_bleu_m7(words, wanted_words),
        "BLEU-char-m7": char_bleu_m7(candidates, references),
    }


@overload
def score(
    candidates: list[str], references: list[list[str]], per_item: Literal[False] = False
) -> dict[str, float]: ...
@overload
def score(
    candidates: list[str], references: list[list[str]], per_item: Literal[True]
) -> dict[str, list[float]]: ...
def score(
    candidates: list[str], references: list[list[str]], per_item: bool = False
) -> dict[str, float] | dict[str, list[float]]:
    """`measures` as numbers: of the corpus, or with `per_item` a list with each image's own.

    Tokenises itself; text that is tokenised already gives the same values.
    """
    found = measures(candidates, references)
    if per_item:
        return {name: measure.items for name, measure in found.items()}
    return {name: measure.value for name, measure in found.items()}
