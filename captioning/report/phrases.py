"""What captions say over and over: at once, and from picture to picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from captioning.metrics.measure import Tokens
from captioning.metrics.ngrams import ngrams

LONGEST = 6  # words of a phrase


class Stutter(NamedTuple):
    """A phrase that follows itself: in how many captions, and how many times too often in all."""

    phrase: str
    captions: int
    times: int


class Shared(NamedTuple):
    """A phrase, and in how many captions it stands."""

    phrase: str
    captions: int


def stutters(candidates: Sequence[Tokens], most: int = 12) -> list[Stutter]:
    """Phrases said again at once, as in "poles, poles, poles", worst first."""
    captions: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for tokens in candidates:
        here: Counter[str] = Counter()
        for phrase, again in _runs(tokens):
            here[phrase] += again
        captions.update(here.keys())
        times.update(here)
    worst = sorted(times, key=lambda phrase: (-captions[phrase], -times[phrase], phrase))
    return [Stutter(phrase, captions[phrase], times[phrase]) for phrase in worst[:most]]


def _runs(tokens: Tokens) -> Iterator[tuple[str, int]]:
    """Each phrase that follows itself and how often, the shortest that explains what comes."""
    at = 0
    while at < len(tokens):
        for n in range(1, LONGEST + 1):
            phrase, again = tokens[at : at + n], 0
            while tokens[at + n * (again + 1) : at + n * (again + 2)] == phrase:
                again += 1
            if again:
                yield " ".join(phrase), again
                at += n * again  # the last of the run may begin another
                break
        at += 1


def shared_phrases(candidates: Sequence[Tokens], most: int = 12) -> list[Shared]:
    """Phrases of three to six words in three captions or more, most words saved first.

    Each has no three words in a row with one before it, so that none is a part of another.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for tokens in candidates:
        for n in range(3, LONGEST + 1):
            found.update(ngrams(tokens, n).keys())
    chosen: list[Shared] = []
    taken: set[tuple[str, ...]] = set()
    for words, captions in sorted(found.items(), key=lambda p: (-p[1] * len(p[0]), p[0])):
        threes = ngrams(words, 3).keys()
        if captions >= 3 and not taken & threes:
            chosen.append(Shared(" ".join(words), captions))
            taken |= threes
            if len(chosen) == most:
                break
    return chosen
