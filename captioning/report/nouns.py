"""Which things a caption names, by a list of words: no network, no model, no tagger.

The list (`nouns.txt`) was written for this. A word that is not on it is not seen, one that is, is
taken for the thing whatever the sentence means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from captioning.metrics.ptb import tokenize


class Nouns(NamedTuple):
    """What one caption leaves out and adds: things most of its references name, and none does."""

    missing: list[str]
    invented: list[str]


class Count(NamedTuple):
    """A thing over all images: how often it was wrong, of how often it was wanted or said."""

    noun: str
    wrong: int
    of: int


@cache
def _things() -> dict[str, str]:
    """Each word of the list, and its plural, -> the name of its thing; _ stands between words."""
    things: dict[str, str] = {}
    for line in files("captioning.report").joinpath("nouns.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, *others = line.split()
            for word in (name, *others):
                things[word] = name
    for word, name in list(things.items()):
        for plural in _plurals(word):
            things.setdefault(plural, name)  # "glasses" is a line of its own
    return things


def _plurals(word: str) -> list[str]:
    plurals = [word + "s"]
    if word.endswith(("s", "x", "ch", "sh", "o")):
        plurals.append(word + "es")
    if word.endswith("y") and word[-2] not in "aeiou":
        plurals.append(word[:-1] + "ies")
    if word.endswith("f"):
        plurals.append(word[:-1] + "ves")
    if word.endswith("fe"):
        plurals.append(word[:-2] + "ves")
    return plurals


def nouns(text: str) -> set[str]:
    """The things that a caption names; of "hot dog" the pair counts, and not the dog."""
    things, tokens = _things(), tokenize(text)
    found = set()
    at = 0
    while at < len(tokens):
        for length in (3, 2, 1):
            word = "_".join(tokens[at : at + length])
            if len(tokens) - at >= length and word in things:
                found.add(things[word])
                at += length - 1
                break
        at += 1
    return found


def compare_nouns(said: str, references: Sequence[str]) -> Nouns:
    """A thing is missing where half of the references or more name it, invented where none does."""
    wanted = Counter(noun for reference in references for noun in nouns(reference))
    mine = nouns(said)
    agreed = {noun for noun, times in wanted.items() if 2 * times >= len(references)}
    return Nouns(sorted(agreed - mine), sorted(mine - wanted.keys()))


def count_nouns(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[Count], list[Count]]:
    """Things most often missing and most often invented, over all images."""
    missing: Counter[str] = Counter()
    invented: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for candidate, several in zip(candidates, references, strict=True):
        wrong = compare_nouns(candidate, several)
        missing.update(wrong.missing)
        invented.update(wrong.invented)
        said.update(nouns(candidate))
        wanted.update(compare_nouns("", several).missing)
    return (
        [Count(noun, n, wanted[noun]) for noun, n in _most(missing)],
        [Count(noun, n, said[noun]) for noun, n in _most(invented)],
    )


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """Most frequent first, in alphabetical order where they are equal."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
