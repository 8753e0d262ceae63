"""`score`: captions in a file, against references in another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from captioning.commands.shared import at_least
from weights.console import complain

if TYPE_CHECKING:
    from captioning.metrics.files import Matched
    from captioning.metrics.summary import Row

FEW = 100  # images below which CIDEr's idea of a rare word is mostly chance
File = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Score:
    """Score captions against references: BLEU, ROUGE-L, CIDEr, WER, with 95 % intervals.

    JSON or JSON lines: what `caption --json` writes, COCO's results and annotations, records with
    image_id, path or file_name, or {image: [captions]}. Exit code: 0; 1 where some image has
    no caption, two, or no references, and the others were scored; 2 where nothing could be.
    """

    predictions: Annotated[File, tyro.conf.arg(metavar="PREDICTIONS", help_behavior_hint="")]
    """One caption an image."""
    references: Annotated[File, tyro.conf.arg(metavar="REFERENCES", help_behavior_hint="")]
    """One caption or more an image, made by people."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="PREDICTIONS")] = None
    """Another system's captions of the same images: differences, and whether they are chance."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="PAGE.html")] = None
    """Writes a page with metrics, pictures, best and worst captions, repeated and wrong words."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the page's pictures are, if not at the paths that PREDICTIONS names."""
    json: bool = False
    """One line of JSON instead of a table."""
    resamples: int = 2000
    """How many times images are drawn anew for the intervals."""
    seed: int = 0
    """Of those draws."""

    def __post_init__(self) -> None:
        at_least(1, resamples=self.resamples)
        at_least(0, seed=self.seed)

    def run(self) -> int:
        from captioning.metrics.files import match
        from captioning.metrics.summary import differences, summarise

        matched = match(self.predictions, self.references)
        _complain(matched, self.predictions)
        note_few(len(matched.images))
        said, wanted = matched.candidates, matched.references
        rows = summarise(said, wanted, resamples=self.resamples, seed=self.seed)
        result: dict[str, Any] = {
            **as_result(len(matched.images), rows),
            "missing": matched.missing,
            "unknown": matched.unknown,
            "repeated": matched.repeated,
        }
        complete = matched.complete
        if self.against is not None:
            other = match(self.against, self.references)
            _complain(other, self.against)
            if other.images != matched.images:
                raise ValueError(
                    f"{self.predictions} and {self.against} have captions of"
                    f" {len(matched.images)} and {len(other.images)} images, wanted the same ones"
                    " in both; leave out those that only one has."
                )
            complete = complete and other.complete
            compared = differences(
                said, other.candidates, wanted, resamples=self.resamples, seed=self.seed
            )
            result["against"] = {name: asdict(one) for name, one in compared.items()}
        print(json.dumps(result) if self.json else as_table(result))
        if self.report is not None:
            self._write_report(self.report, matched)
        return 0 if complete else 1

    def _write_report(self, path: Path, matched: Matched) -> None:
        from captioning.metrics.files import find_files
        from captioning.pictures import list_pictures
        from captioning.report.page import Report, Shown, write_report

        if self.pictures is not None:
            found = find_files(matched.names, list_pictures([self.pictures]))
        else:
            found = [
                next((p for p in map(Path, names) if p.is_file()), None) for names in matched.names
            ]
        if None in found:
            complain(
                "note",
                f"no picture found for {found.count(None)} of {len(found)} images, which the page"
                " shows without; name their folder with --pictures.",
            )
        shown = map(Shown, matched.images, matched.candidates, matched.references, found)
        about = {"captions": self.predictions.name, "references": self.references.name}
        report = Report(list(shown), about=about, resamples=self.resamples, seed=self.seed)
        complain("note", f"to look at: {write_report(path, report)}")


def note_few(images: int) -> None:
    """Says on stderr where there are too few images for CIDEr to be compared with others."""
    if images < FEW:
        complain(
            "note",
            f"{images} images are few for CIDEr, which takes from the references which words are"
            " rare: compare it with other values of the same images only.",
        )


def as_result(images: int, rows: Sequence[Row]) -> dict[str, Any]:
    """Metrics and their intervals as they are printed and written."""
    return {
        "images": images,
        **{row.name: row.value for row in rows},
        "intervals": {row.name: row.interval for row in rows if row.interval},
    }


def _complain(matched: Matched, path: Path) -> None:
    """Says on stderr which images were left out of the score, or have more captions than one."""
    from captioning.metrics.files import few

    for names, what in (
        (matched.missing, "no caption for {} of the images with references: {}"),
        (matched.unknown, "no references for {} of its captions: {}"),
        (matched.repeated, "more than one caption for {} images, of which the first counts: {}"),
    ):
        if names:
            complain("note", f"{path}: {what.format(len(names), few(names))}.")


def as_table(result: dict[str, Any]) -> str:
    """What `as_result` gave, and differences where there are some, as lines."""
    units = "WER and BLEU-*-m7 in percent, CIDEr times 10"
    lines = [f"{result['images']} images; {units}", ""]
    lines.append(f"{'metric':<18}{'value':>9}   95 % interval")
    for name, value in result.items():
        if isinstance(value, float):
            interval = result["intervals"].get(name)
            bounds = (
                f"   {_number(interval[0])} to {_number(interval[1]).strip()}" if interval else ""
            )
            lines.append(f"{name:<18}{_number(value):>9}{bounds}")
    if "against" in result:
        lines += ["", f"{'less the other':<18}{'value':>9}   95 % interval{'p':>16}"]
        for name, one in result["against"].items():
            low, high = map(_number, one["interval"])
            lines.append(
                f"{name:<18}{_number(one['difference']):>9}   {low} to {high.strip():<9}"
                f"{one['p']:>9.4f}"
            )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:8.3f}"
