"""ROUGE-L (Lin 2004): the longest run of words, gaps allowed, that caption and reference share."""

from __future__ import annotations

from collections.abc import Sequence

from captioning.metrics.measure import Measure, Tokens, check_tokens, mean

BETA = 1.2  # coco-caption's: recall counts a little more than precision


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Measure:
    """Mean of the images' F-measure, in [0, 1]; best precision and best recall over references.

    The two may come from different references, as in coco-caption.
    """
    check_tokens(candidates, references)
    return mean([_item(*pair) for pair in zip(candidates, references, strict=True)])


def _item(candidate: Tokens, references: Sequence[Tokens]) -> float:
    # To coco-caption a caption without tokens is one empty token, which only another such matches.
    said, wanted = candidate or [""], [reference or [""] for reference in references]
    common = [longest_common_subsequence(said, reference) for reference in wanted]
    precision = max(common) / len(said)
    recall = max(c / len(reference) for c, reference in zip(common, wanted, strict=True))
    if not max(common):
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common_subsequence(a: Tokens, b: Tokens) -> int:
    """Its length. One row of the table is kept: row[j] is the answer for a so far and b[:j]."""
    row = [0] * (len(b) + 1)
    for token in a:
        corner = 0  # the value above and to the left
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = corner + 1 if token == other else max(above, row[j - 1])
            corner = above
    return row[-1]
