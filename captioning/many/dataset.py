"""A set captioned and put beside its references: what `evaluate` measures.

predictions.jsonl  a line a picture, with its id
references.jsonl   what people said of each picture: a second argument for `score`
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioning.data.index import Index
from captioning.data.rows import Side
from captioning.many.job import Job, Totals
from captioning.many.run import caption_job
from captioning.many.sources import Item
from captioning.report.page import Shown
from weights.store import replacing

if TYPE_CHECKING:
    from captioning.model import Captioner, Decoding

PREDICTIONS, REFERENCES = "predictions.jsonl", "references.jsonl"


def items_of(index: Index, side: Side | None) -> Iterator[Item]:
    """The pictures of a side in the order of the index."""
    for picture in index.pictures(side):
        yield Item(str(picture.place), picture.place, image=picture.image)


def caption_set(
    load: Callable[[], Captioner],
    index: Index,
    side: Side | None,
    job: Job,
    *,
    workers: int,
    options: Decoding,
) -> tuple[list[Shown], Totals] | None:
    """Captions every picture of a side (None: of all) into the job's file, with the references.

    Pictures that could not be used are in no list. None while other processes are not done.
    """
    if index.one("SELECT count(*) FROM captions WHERE side = ? OR ? IS NULL", side, side) == 0:
        raise ValueError(
            f"the set has no picture for {side}; choose another --split, or another --scheme."
        )
    totals = caption_job(load, job, lambda: items_of(index, side), workers=workers, options=options)
    if totals is None:
        return None
    if not totals.captions:
        raise ValueError(f"none of {totals.failed} pictures could be used; see {job.failures}.")
    shown = list(_beside(job.out, index, side))
    with (
        replacing(job.out.with_name(REFERENCES)) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        for one in shown:
            fields = {"image_id": one.name, "captions": list(one.references)}
            file.write(json.dumps(fields) + "\n")  # ASCII, as in the predictions
    return shown, totals


def _beside(path: Path, index: Index, side: Side | None) -> Iterator[Shown]:
    """Each caption of a file beside its references: both have the order of the index."""
    with path.open(encoding="utf-8") as file:
        lines = map(json.loads, file)
        said: dict[str, Any] | None = next(lines, None)
        for number, picture in enumerate(index.pictures(side)):
            if said is not None and said["number"] == number:
                yield Shown(picture.image, said["caption"], picture.captions, picture.place)
                said = next(lines, None)
