"""`report.html`: captions, judged and looked at, in one file that opens from the disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from captioning.data.opening import open_place
from captioning.data.rows import Place
from captioning.metrics.intervals import RESAMPLES
from captioning.metrics.ptb import tokenize
from captioning.metrics.scoring import score
from captioning.metrics.summary import Row, summarise
from captioning.pictures import open_picture
from captioning.report.nouns import Nouns, compare_nouns, count_nouns
from captioning.report.phrases import shared_phrases, stutters
from captioning.report.templates import render

SIDE = 448  # pixels of a picture in the page, at most
GALLERY, EXTREMES, WORDS = 12, 6, 12

MEANINGS = {
    "BLEU-1": "words that are in a reference",
    "BLEU-2": "pairs of words, too",
    "BLEU-3": "runs of three, too",
    "BLEU-4": "runs of four, too",
    "ROUGE-L": "longest run of words in common, gaps allowed",
    "CIDEr-D": "n-grams in common, the rarer the better, times 10; COCO's CIDEr",
    "CIDEr": "the same in its first form: no penalty for length or for repeating",
    "WER": "words to change, over words of the closest reference, in percent; less is better",
    "WER-macro": "mean of the pictures' WER; less is better",
    "BLEU-sentence-m7": "mean of the pictures' BLEU-4 with nltk's smoothing 7, in percent",
    "BLEU-char-m7": "the same on characters: the article's BLEU, comparable with no other",
    "length-ratio": "words said over words of the reference closest in length",
    "end-rate": "captions that end in . ! or ?",
    "repetition-1": "words that their caption has said before",
    "repetition-2": "pairs of words that their caption has said before",
    "repetition-3": "runs of three",
    "repetition-4": "runs of four",
    "distinct-1": "different words, over all words of all captions",
    "distinct-2": "different pairs, over all pairs",
}


@dataclass(frozen=True)
class Shown:
    """A picture, what people said of it, and what the model did; `picture` may be missing."""

    name: str
    caption: str
    references: Sequence[str]
    picture: Path | Place | Image.Image | None = None

    @cached_property
    def data(self) -> str | None:
        """The picture in the page, as a JPEG in base64; None where there is none to open."""
        if self.picture is None:
            return None
        try:
            image = _opened(self.picture)
        except (ValueError, OSError):
            return None
        image.thumbnail((SIDE, SIDE))
        held = io.BytesIO()
        image.save(held, "JPEG", quality=85)
        return base64.b64encode(held.getvalue()).decode()

    @cached_property
    def nouns(self) -> Nouns:
        return compare_nouns(self.caption, self.references)


def _opened(picture: Path | Place | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    return open_picture(picture) if isinstance(picture, Path) else open_place(picture)


@dataclass(frozen=True)
class Report:
    """All that the page shows, worked out; no picture is opened but those that it shows."""

    shown: Sequence[Shown]
    title: str = "Captions"
    about: Mapping[str, str] = field(default_factory=dict)
    curves: Sequence[Path] = ()
    resamples: int = RESAMPLES
    seed: int = 0

    @cached_property
    def candidates(self) -> list[str]:
        return [one.caption for one in self.shown]

    @cached_property
    def references(self) -> list[list[str]]:
        return [list(one.references) for one in self.shown]

    @cached_property
    def rows(self) -> list[Row]:
        return summarise(self.candidates, self.references, resamples=self.resamples, seed=self.seed)

    @cached_property
    def ranked(self) -> list[tuple[Shown, float]]:
        """From best to worst, each with its CIDEr-D; ROUGE-L decides between equals."""
        each = score(self.candidates, self.references, per_item=True)
        order = sorted(
            range(len(self.shown)), key=lambda i: (-each["CIDEr-D"][i], -each["ROUGE-L"][i], i)
        )
        return [(self.shown[i], each["CIDEr-D"][i]) for i in order]

    @property
    def gallery(self) -> list[Shown]:
        """Pictures at even distances: nobody picked them."""
        n = len(self.shown)
        return [self.shown[i * n // min(n, GALLERY)] for i in range(min(n, GALLERY))]

    def render(self) -> str:
        """The page."""
        tokens = [tokenize(text) for text in self.candidates]
        missing, invented = count_nouns(self.candidates, self.references)
        half = len(self.shown) // 2  # no picture is among the best and the worst
        return render(
            "page.html",
            report=self,
            meanings=MEANINGS,
            best=self.ranked[: min(EXTREMES, len(self.shown) - half)],
            worst=self.ranked[::-1][: min(EXTREMES, half)],
            stutters=stutters(tokens, WORDS),
            phrases=shared_phrases(tokens, WORDS),
            missing=missing[:WORDS],
            invented=invented[:WORDS],
            curves=[
                (path.stem, base64.b64encode(path.read_bytes()).decode()) for path in self.curves
            ],
        )


def write_report(path: Path, report: Report) -> Path:
    """Writes the page, its folder too; returns where it lies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name that is no UTF-8 comes with surrogates, which no page can hold.
    path.write_text(report.render(), encoding="utf-8", errors="replace")
    return path
