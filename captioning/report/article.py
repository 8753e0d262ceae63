"""The article's printed figures beside what its printed captions give.

The article prints three metrics and 21 pairs of reference and hypothesis, of two runs each. Here
they are scored: its way, as far as that is known, and the way others score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from captioning.metrics.bleu import bleu
from captioning.metrics.cider import cider_d
from captioning.metrics.scoring import score

# Its test figures: WER and BLEU in percent.
PRINTED = {
    "run1": {"WER": 97.3, "BLEU": 45.9, "CIDEr": 1.38},
    "run2": {"WER": 87.6, "BLEU": 43.5, "CIDEr": 2.10},
}
RUNS = {"run1": "GPT-2 by hand", "run2": "Hugging Face's GPT-2, inference2"}
WHY = {
    "WER": (
        "Printed is a mean of 21 ratios, in which a short reference weighs as much as a long one;"
        " usual is errors over words. Why the printed pairs give neither is unknown: lower case,"
        " punctuation as words and 20 of the 21 pairs were tried."
    ),
    "BLEU": (
        "Printed is BLEU over characters: nltk's sentence_bleu was given strings, and takes each"
        " character for a word. It can't be compared with the BLEU of anyone. Why the printed pairs"
        " give another value even so is unknown."
    ),
    "CIDEr": (
        "Unknown: neither CIDEr nor CIDEr-D gives the printed figure under any tokenisation tried."
        " Of 21 pictures no value of CIDEr says much, since it learns from their references which"
        " words are rare."
    ),
}


class Value(NamedTuple):
    """A number and what it is."""

    name: str
    value: float


@dataclass(frozen=True)
class Row:
    """One metric of one run: as printed, as recomputed in the article's way, and as usual."""

    run: str
    metric: str
    printed: float
    recomputed: Value
    usual: tuple[Value, ...]
    why: str

    @property
    def as_printed(self) -> str:
        """With the article's digits."""
        return f"{self.printed:.{2 if self.metric == 'CIDEr' else 1}f}"


def compare_with_article(runs: Mapping[str, Sequence[Mapping[str, str]]]) -> list[Row]:
    """{"run1": [{"reference": ..., "hypothesis": ...}, ...], "run2": ...} -> a row a figure.

    ValueError where a run or a text is missing.
    """
    rows = []
    for run, printed in PRINTED.items():
        said, wanted = _texts(runs, run)
        ours = score(said, [[text] for text in wanted])
        words, wanted_words = [t.split() for t in said], [[t.split()] for t in wanted]
        values = {
            "WER": (
                Value("mean of the pictures' WER", ours["WER-macro"]),
                (Value("WER: errors over words", ours["WER"]),),
            ),
            "BLEU": (
                Value("BLEU-char-m7", ours["BLEU-char-m7"]),
                (
                    Value("BLEU-sentence-m7, on words", ours["BLEU-sentence-m7"]),
                    Value("BLEU-4, split at spaces", 100 * bleu(words, wanted_words)[3].value),
                    Value("BLEU-4, PTB tokens", 100 * ours["BLEU-4"]),
                ),
            ),
            "CIDEr": (
                Value("CIDEr-D, split at spaces", cider_d(words, wanted_words).value),
                (Value("CIDEr-D, PTB tokens", ours["CIDEr-D"]), Value("CIDEr", ours["CIDEr"])),
            ),
        }
        for metric, (recomputed, usual) in values.items():
            rows.append(Row(run, metric, printed[metric], recomputed, usual, WHY[metric]))
    return rows


def _texts(
    runs: Mapping[str, Sequence[Mapping[str, str]]], run: str
) -> tuple[list[str], list[str]]:
    try:
        pairs = [(pair["hypothesis"], pair["reference"]) for pair in runs[run]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{run!r} lacks {error}, wanted run1 and run2, each a list of records with reference"
            " and hypothesis; type in the article's pairs."
        ) from None
    return [said for said, _ in pairs], [wanted for _, wanted in pairs]


def as_text(rows: Sequence[Row]) -> str:
    """A table for the terminal, then why."""
    lines = [f"{'':<8}{'printed':>8}{'recomputed':>12}   {'as usual'}"]
    for run, what in RUNS.items():
        lines += ["", f"{run}: {what}"]
        for row in (row for row in rows if row.run == run):
            usual = "; ".join(f"{value.value:.3f} {value.name}" for value in row.usual)
            recomputed = f"{row.recomputed.value:>12.3f}"
            lines.append(f"  {row.metric:<6}{row.as_printed:>8}{recomputed}   {usual}")
    return "\n".join([*lines, "", *(f"{metric}: {why}" for metric, why in WHY.items())])


def as_page(rows: Sequence[Row]) -> str:
    """One HTML file that needs no other."""
    from captioning.report.templates import render

    return render("article.html", rows=rows, runs=RUNS, why=WHY)
