"""What merges learned from one half of a story do for its other half."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chapters.ch01_bytes_to_tokens.judges import published
from chapters.ch01_bytes_to_tokens.verdict import TEXT
from chapters.runner.exercise import Experiment

GERMAN = (
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und"
    " Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen."
)
MERGES = 300


def halves() -> tuple[str, str]:
    """The story up to the middle one of its paragraphs, and from there on."""
    paragraphs = TEXT.split("\n\n")
    middle = len(paragraphs) // 2
    return "\n\n".join(paragraphs[:middle]), "\n\n".join(paragraphs[middle:])


def bytes_a_token(codec: Any, text: str) -> float:
    return len(text.encode()) / len(codec.encode(text))


def measure(piece: Callable[[str], Any]) -> tuple[float, list[str]]:
    """Bytes a token of the half that nothing was learned from, and how it came to that."""
    first, second = halves()
    merges = piece("train_bpe")([first], MERGES)
    lines = ["merges   first half   second half   German"]
    found = {}
    for n in (0, 30, 100, MERGES, 50_000):
        learned = merges[:n] if n <= MERGES else published()
        if len(learned) < n:
            continue  # GPT-2's merges are not on this machine
        codec = piece("Codec")(learned)
        rates = [bytes_a_token(codec, text) for text in (first, second, GERMAN)]
        found[n] = rates[1]
        lines.append(f"{n:>6}   {rates[0]:>10.2f}   {rates[1]:>11.2f}   {rates[2]:>6.2f}")
    return found[MERGES], lines


EXPERIMENT = Experiment(
    asks="bytes a token in the second half of a story, with 300 merges learned from the first half",
    # 9,100 bytes in 4,238 tokens on every machine; as wide as one token more or less
    band=(2.1467, 2.1478),
    means=(
        "300 merges, learned in a moment from 1,957 words, halve English that they have never seen."
        " German gains less: its own frequent pairs were never counted. GPT-2's 50,000 merges come"
        " to 3.98 bytes a token in this story."
    ),
    measure=measure,
)
