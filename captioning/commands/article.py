"""`article`: the figures that the article prints, recomputed from the captions that it prints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from weights.console import one_line


@dataclass(frozen=True)
class Article:
    """Recompute the article's WER, BLEU and CIDEr, and say why they differ, or that it is unknown.

    PAIRS is JSON with the 21 pairs of either run, as the article prints them:
    {"run1": [{"reference": "...", "hypothesis": "..."}, ...], "run2": [...]}.
    """

    pairs: Annotated[
        Path,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PAIRS", help_behavior_hint="(required)"),
    ]
    """The article's captions; they are not this project's to hand on, so they are typed in."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PAGE.html")] = None
    """Where to write the comparison as one page of HTML."""

    def run(self) -> int:
        from captioning.report.article import as_page, as_text, compare_with_article

        try:
            runs = json.loads(self.pairs.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.pairs} is no JSON ({error}); correct it.") from None
        if not isinstance(runs, dict):
            raise ValueError(f'{self.pairs} is no {{"run1": ..., "run2": ...}}; see --help.')
        rows = compare_with_article(runs)
        print(as_text(rows))
        if self.out is not None:
            self.out.write_text(as_page(rows), "utf-8")
            print(f"\nTo look at: {one_line(self.out)}")
        return 0
