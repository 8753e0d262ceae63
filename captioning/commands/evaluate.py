"""`evaluate`: how much of freshly drawn scenes, or of a set of pictures, a model says rightly."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from captioning.commands.score import as_result, as_table, note_few
from captioning.commands.shared import (
    at_least,
    device_of,
    identity,
    load,
    model_of,
    settings_of,
)
from captioning.evaluate import SCENES, evaluate_scenes
from weights.console import complain, one_line

if TYPE_CHECKING:
    from captioning.data.rows import Side
    from captioning.many.job import Job
    from captioning.model import Decoding

SHORT = ("facts_f1", "exact_match", "n", "facts_f1_shuffled", "facts_f1_blank")
LONGEST = 10**9  # tokens of a reference: none is left out


@dataclass(frozen=True)
class Evaluate:
    """Draw new scenes, caption them, and compare the facts said with the facts drawn.

    With --data or a --model RUN of train: caption a set of pictures and score the captions. OUT
    gets predictions.jsonl, references.jsonl (for `score`), metrics.json and report.html. Killed,
    it goes on; under torchrun each process takes its share. Exit code: 0; 1 where pictures failed.
    """

    model: Annotated[str, tyro.conf.arg(metavar="scenes|RUN|FOLDER")] = "scenes"
    """"scenes", the embedded model, a saved captioner's folder, or a run of train."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE|FOLDER")] = None
    """Captioned pictures, in any layout that `data` knows; those of RUN where not given."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the pictures are, if not in the folder of the captions."""
    split: Literal["train", "validation", "test", "all"] = "test"
    """The side that is looked at, of those that --scheme makes."""
    scheme: Literal["hash", "article", "official"] | None = None
    """What parts the sides, as `data` has it: that of RUN, or by picture."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="OUT")] = None
    """Where it all goes; RUN/evaluation-SPLIT, or evaluation-SPLIT, where not given."""
    against: Annotated[Path | None, tyro.conf.arg(metavar="PREDICTIONS")] = None
    """Another system's captions of the same pictures: differences, and whether they are chance."""
    beams: int = 1
    """Above 1: beam search with this many beams, instead of the likeliest token each time."""
    max_new_tokens: int | None = None
    """The longest caption, in tokens; the model's own where not given."""
    resamples: int = 2000
    """How many times pictures are drawn anew for the intervals."""
    scenes: int | None = None
    """How many scenes to draw, where no set is captioned; 500 where not given."""
    seed: int = 0
    """Which scenes, none of them ever trained on; with --data, of the draws for the intervals."""
    json: bool = False
    """One line of JSON instead of a table."""
    batch_size: int = 50
    """Pictures that go through the model at once."""
    workers: int = 2
    """With --data: threads that open pictures ahead of the model."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        at_least(2, scenes=self.scenes)
        at_least(
            1,
            batch_size=self.batch_size,
            beams=self.beams,
            max_new_tokens=self.max_new_tokens,
            resamples=self.resamples,
            workers=self.workers,
        )
        at_least(0, seed=self.seed)

    @property
    def decoding(self) -> Decoding:
        """The options that say how captions are chosen."""
        return {"beams": self.beams, "max_new_tokens": self.max_new_tokens}

    def run(self) -> int:
        if self.data is not None and self.scenes is not None:
            raise ValueError("got --data and --scenes, wanted one of them; leave the other out.")
        trained = settings_of(self.model) if self.scenes is None else {}
        data = self.data or trained.get("data")
        if data is not None:
            return self._run_set(Path(data), trained)
        for name in ("images", "scheme", "out", "against"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"got --{name}, which is for a set of pictures, and no set; name it with --data"
                    " or by a --model RUN, or leave the option out."
                )
        n = SCENES if self.scenes is None else self.scenes
        captioner = load(self.model, self.device)
        result = evaluate_scenes(captioner, n, self.seed, self.batch_size, **self.decoding)
        if self.json:
            print(json.dumps({name: result[name] for name in SHORT}))
        else:
            print(_table(result, f"{n} scenes of seed {self.seed}, model {self.model}"))
        return 0

    def _run_set(self, data: Path, trained: dict[str, Any]) -> int:
        from captioning.data.build import open_index
        from captioning.data.rows import NOTES
        from captioning.many.dataset import PREDICTIONS, caption_set
        from captioning.many.job import Job, shares

        run = Path(self.model) if model_of(self.model) != self.model else Path()
        out = self.out or run / f"evaluation-{self.split}"
        if data.resolve() != Path(trained.get("data") or "").resolve():  # another set
            trained = {}
        scheme = self.scheme or trained.get("split", "hash")
        images = self.images or trained.get("images")
        side: Side | None = None if self.split == "all" else self.split
        if scheme == "none":  # all was trained on
            scheme, side = "hash", None
        with open_index(
            data, out / "index.sqlite", images=images, split=scheme, longest=LONGEST
        ) as index:
            settings = {
                "model": identity(self.model),
                "data": index.fingerprint,
                "split": [scheme, side],
                "batch_size": self.batch_size,
                **self.decoding,
            }
            share = shares(os.environ)
            job = Job(out / PREDICTIONS, settings, self.batch_size, share)
            found = caption_set(
                lambda: load(self.model, device_of(self.device, os.environ)),
                *(index, side, job),
                workers=self.workers,
                options=self.decoding,
            )
            rows = index.rows
            unusable = sum(n for kind, n in index.fault_counts().items() if kind not in NOTES)
        if found is None:
            return 0
        shown, totals = found
        about = {"model": self.model, "data": data.name, "side": side or "all"}
        if totals.failed:
            about["pictures that could not be used"] = str(totals.failed)
            complain(
                "error",
                f"{totals.failed:,} of {totals.captions + totals.failed:,} pictures could not be"
                f" used: {one_line(job.failures)} says why.",
            )
        if unusable:
            about["rows that could not be used"] = f"{unusable:,} of {rows:,}"
            complain(
                "note",
                f"{unusable:,} of {rows:,} rows of {one_line(data)} can't be used; to see which:"
                " python -m captioning data check.",
            )
        self._report(job, shown, about, run)
        return int(totals.failed > 0 and share.world == 1)

    def _report(self, job: Job, shown: list[Any], about: dict[str, str], run: Path) -> None:
        from captioning.report.page import Report, write_report
        from weights.store import write_json

        note_few(len(shown))
        curves = [path for path in (run / "curves.png",) if path.is_file()]
        report = Report(
            shown,
            title=f"Captions by {self.model}",
            about=about,
            curves=curves,
            resamples=self.resamples,
            seed=self.seed,
        )
        result = as_result(len(shown), report.rows)
        result |= self._differences(job.out)
        write_json(job.out.with_name("metrics.json"), {"about": about, **result})
        print(json.dumps(result) if self.json else as_table(result))
        page = write_report(job.out.with_name("report.html"), report)
        complain("note", f"to look at: {page}")

    def _differences(self, said: Path) -> dict[str, Any]:
        """Less what the other system said of the same pictures."""
        if self.against is None:
            return {}
        from captioning.many.dataset import REFERENCES
        from captioning.metrics.files import match
        from captioning.metrics.summary import differences

        mine, other = (match(path, said.with_name(REFERENCES)) for path in (said, self.against))
        if mine.images != other.images:
            raise ValueError(
                f"{self.against} has captions of {len(other.images)} of these"
                f" {len(mine.images)} pictures, wanted all; caption the same side with both."
            )
        compared = differences(
            *(mine.candidates, other.candidates, mine.references),
            resamples=self.resamples,
            seed=self.seed,
        )
        return {"against": {name: asdict(one) for name, one in compared.items()}}


def _table(result: dict[str, Any], title: str) -> str:
    rows = [
        ("facts F1", result["facts_f1"]),
        ("  precision: of what was said, right", result["facts_precision"]),
        ("  recall: of what was drawn, said", result["facts_recall"]),
        *((f"    {kind}", share) for kind, share in result["recall_by_kind"].items()),
        ("scenes told exactly", result["exact_match"]),
        ("facts F1, captions of other scenes", result["facts_f1_shuffled"]),
        ("facts F1, caption of a grey picture", result["facts_f1_blank"]),
    ]
    return "\n".join([title, "", *(f"{name:<40}{value:6.3f}" for name, value in rows)])
