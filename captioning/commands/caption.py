"""`caption`: pictures in, one line each out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from PIL import Image

from captioning.commands.shared import at_least, device_of, identity, load
from captioning.pictures import MAX_PIXELS, list_pictures, open_picture
from weights.console import complain, one_line

if TYPE_CHECKING:
    from captioning.many.job import Share
    from captioning.model import Caption as Said
    from captioning.model import Decoding

Batch = list[tuple[Path, Image.Image]]


@dataclass(frozen=True)
class Caption:
    """Say what is in pictures: one line each, path and caption with a tab between, in order.

    PNG, JPEG, WebP, GIF or BMP of at most 100 million pixels. A file that can't be used is named
    on stderr, and the others still come. Exit code: 0; 1 where a file failed; 2 where all did.
    With --out for any number of pictures: killed, it goes on; under torchrun each process takes
    its share.
    """

    pictures: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PICTURE|FOLDER...", help_behavior_hint="(required)"),
    ]
    """Files and folders; a folder is searched to its depths.
    With --out also webdataset shards (.tar) and lists (.txt, .lst) with a path a line, which
    counts from the list's folder."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.jsonl")] = None
    """JSON lines into this file, in the order of the pictures; what failed is listed beside it."""
    model: Annotated[str, tyro.conf.arg(metavar="scenes|RUN|FOLDER")] = "scenes"
    """"scenes", the embedded model that knows only drawn scenes, a saved captioner's folder, or a
    run of train."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; above, tokens are drawn, the rarer the higher."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability."""
    beams: int = 1
    """Above 1: beam search with this many beams, instead of drawing."""
    max_new_tokens: int | None = None
    """The longest caption, in tokens; the model's own where not given."""
    seed: int = 0
    """Of the draws; same seed, pictures and batch size, same captions."""
    json: bool = False
    """JSON lines: path, caption, logprob, familiarity, familiar."""
    batch_size: int = 16
    """Pictures that go through the model at once."""
    workers: int = 2
    """With --out: threads that open pictures ahead of the model."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        at_least(
            1,
            top_k=self.top_k,
            beams=self.beams,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            workers=self.workers,
        )
        at_least(0, seed=self.seed)
        if not self.pictures:
            raise ValueError("got no picture, wanted at least one file or folder; name it.")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"got --temperature {self.temperature}, wanted 0 or more; change it.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"got --top-p {self.top_p}, wanted more than 0, at most 1; change it.")

    @property
    def decoding(self) -> Decoding:
        """The options that say how captions are chosen."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "beams": self.beams,
        }

    def run(self) -> int:
        from captioning.many.job import shares
        from captioning.many.sources import is_many

        share = shares(os.environ)
        if self.out is not None:
            return self._run_job(self.out, share)
        many = [str(path) for path in self.pictures if is_many(path)]
        if share.world > 1 or many:
            got = one_line(many[0]) if many else f"{share.world} processes"
            raise ValueError(
                f"got {got}, wanted a file for the captions of lists, shards and several processes;"
                " name it with --out FILE.jsonl."
            )
        return self._run_here()

    def _run_job(self, out: Path, share: Share) -> int:
        from captioning.many.job import Job
        from captioning.many.run import caption_job
        from captioning.many.sources import items, stamps

        if out.exists() and not out.is_file():  # a device would be replaced by the joined file
            kind = "a folder" if out.is_dir() else "a device or a pipe"
            raise ValueError(
                f"got --out {one_line(out)}, which is {kind}, wanted a file; name one in a folder,"
                " such as captions.jsonl."
            )
        settings = {
            "pictures": stamps(self.pictures),
            "batch_size": self.batch_size,
            "seed": self.seed,
            **self.decoding,
        }
        totals = caption_job(
            lambda: load(self.model, device_of(self.device, os.environ)),
            Job(out, {"model": identity(self.model), **settings}, self.batch_size, share),
            lambda: items(self.pictures),
            seed=self.seed,
            workers=self.workers,
            options=self.decoding,
        )
        if totals is None:  # other processes are not done yet, or have said what follows
            return 0
        if totals.unfamiliar:
            complain(
                "note",
                f"{totals.unfamiliar:,} of {totals.captions:,} pictures do not look like what the"
                ' model was trained on ("familiar": false): don\'t rely on their captions.',
            )
        if totals.failed:
            listed = Job(out, {}, 1, share).failures
            complain(
                "error",
                f"{totals.failed:,} of {totals.captions + totals.failed:,} pictures could not be"
                f" used: {one_line(listed)} says why.",
            )
        print(f"{totals.captions:,} captions in {one_line(out)}")
        if share.world > 1:  # torchrun takes any other code for a breakdown
            return 0
        return 2 if not totals.captions else int(totals.failed > 0)

    def _run_here(self) -> int:
        captioner = load(self.model, self.device)
        import torch

        generator = torch.Generator(self.device).manual_seed(self.seed)
        options: Decoding = {**self.decoding, "generator": generator}
        knows = captioner.config.knows or "what it was trained on"
        done = 0
        failed: list[Path] = []
        for batch in self._batches(failed):
            said = captioner.describe([image for _, image in batch], **options)
            for (path, _), caption in zip(batch, said, strict=True):
                print(self._line(path, caption))
                if not caption.familiar:
                    complain(
                        "note",
                        f"{path} does not look like {knows}, and the model knows nothing else"
                        f" (familiarity {caption.familiarity:.2f}): don't rely on its caption.",
                    )
            sys.stdout.flush()
            done += len(batch)
        if not done:
            complain("error", f"none of {len(failed)} files could be used; see above.")
            return 2
        return 1 if failed else 0

    def _batches(self, failed: list[Path]) -> Iterator[Batch]:
        """Opened pictures in order; what can't be opened is named on stderr and put in `failed`.

        A batch ends early once it holds MAX_PIXELS: sixteen large photographs would be gigabytes.
        """
        batch: Batch = []
        pixels = 0
        for path in list_pictures(self.pictures):
            try:
                image = open_picture(path)
            except (ValueError, FileNotFoundError) as error:
                complain("error", error)
                failed.append(path)
                continue
            batch.append((path, image))
            pixels += image.width * image.height
            if len(batch) == self.batch_size or pixels >= MAX_PIXELS:
                yield batch
                batch, pixels = [], 0
        if batch:
            yield batch

    def _line(self, path: Path, said: Said) -> str:
        if self.json:
            # ASCII, so that names which are no UTF-8 pass through every parser.
            fields = asdict(said)
            return json.dumps({"path": str(path), "caption": fields.pop("text"), **fields})
        return f"{one_line(path)}\t{one_line(' '.join(said.text.split()))}"
