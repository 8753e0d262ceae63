"""What every metric returns: numbers for each image that add up, and the formula for their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Tokens = Sequence[str]


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(..., 2), a sum and what it is divided by -> (...); 0 where there is nothing to divide by."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


@dataclass(frozen=True)
class Measure:
    """One metric of N images: parts (N, K), and a formula (..., K) -> (...) for sums of them.

    The corpus value is the formula of all parts added up, an image's that of its own row. So any
    sample of the images, drawn with or without replacement, is scored by adding rows.
    """

    parts: np.ndarray
    formula: Callable[[np.ndarray], np.ndarray] = _ratio

    @property
    def value(self) -> float:
        """Of the corpus."""
        return float(self.formula(self.parts.sum(0)))

    @property
    def items(self) -> list[float]:
        """Of each image alone, in order."""
        return self.formula(self.parts).tolist()


def mean(values: Sequence[float]) -> Measure:
    """A metric that is the mean of its images' values."""
    return Measure(np.stack([np.asarray(values, float), np.ones(len(values))], 1))


def check_strings(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """ValueError unless there is one string for each image, and one or more references, strings."""
    _check_lists(candidates, references)
    for i, (candidate, several) in enumerate(zip(candidates, references, strict=True)):
        for where, text in _named(i, candidate, several):
            if not isinstance(text, str):
                raise ValueError(
                    f"{where} is {_short(text)}, wanted a string, for this metric splits it itself;"
                    " join tokens with spaces."
                )


def check_tokens(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    """ValueError unless there is one token list for each image, and one or more as references.

    A string is refused: its characters would be taken for words, and no error would ever tell.
    """
    _check_lists(candidates, references)
    for i, (candidate, several) in enumerate(zip(candidates, references, strict=True)):
        for where, tokens in _named(i, candidate, several):
            if isinstance(tokens, str) or not (
                isinstance(tokens, Sequence) and all(isinstance(token, str) for token in tokens)
            ):
                raise ValueError(
                    f"{where} is {_short(tokens)}, wanted a list of tokens (of a string, each"
                    " character would count as a word); call tokenize on it."
                )


def _named(i: int, candidate: object, several: Sequence[object]) -> list[tuple[str, object]]:
    """What there is of image i, each with its name."""
    return [
        (f"candidates[{i}]", candidate),
        *((f"references[{i}][{j}]", reference) for j, reference in enumerate(several)),
    ]


def _check_lists(candidates: object, references: object) -> None:
    for name, what in (("candidates", candidates), ("references", references)):
        if isinstance(what, str) or not isinstance(what, Sequence):
            raise ValueError(
                f"{name} is {_short(what)}, wanted a list with an entry for each image; wrap it in"
                " [ ]."
            )
    assert isinstance(candidates, Sequence) and isinstance(references, Sequence)
    if len(candidates) != len(references):
        raise ValueError(
            f"got {len(candidates)} candidates and {len(references)} lists of references, wanted"
            " one of each for every image; leave out what has no partner."
        )
    if not candidates:
        raise ValueError("got no captions, wanted those of one image or more; check the input.")
    for i, several in enumerate(references):
        if isinstance(several, str) or not isinstance(several, Sequence) or not several:
            raise ValueError(
                f"references[{i}] is {_short(several)}, wanted a list of one reference or more for"
                " that image; wrap it in [ ]."
            )


def _short(what: object) -> str:
    return f"{type(what).__name__} {what!r:.60}"
