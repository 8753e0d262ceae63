"""Where a run's batches come from: an index of the captions, the pictures or kept features."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from captioning.data.batches import Batch, Batches
from captioning.data.build import open_index
from captioning.data.features import Encoder, FeatureCache
from captioning.data.index import Index
from captioning.data.rows import Fault, Side
from captioning.data.transforms import Augmentation, Transform
from captioning.model import Captioner
from captioning.training.settings import CaptionTraining
from gpt2_scratch.tokenizer import Tokenizer
from gpt2_scratch.training.checkpoint import LAST
from gpt2_scratch.training.parallel import by_the_first, gathered, world
from weights.console import one_line
from weights.store import replacing

INDEX, FAULTS, FEATURES = "index.sqlite", "left-out.txt", "features"
ROOM = 0.5  # of what is free on a disk: as much as kept features may take unasked
TOLD = 3  # faults of each process that are said; all of them are listed

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sources:
    """The set of a run. `looked_at` is the side that is validated on; training's own where every
    caption is trained on."""

    index: Index
    tokenizer: Tokenizer
    transform: Transform
    settings: CaptionTraining
    longest: int  # tokens of the longest caption
    cache: FeatureCache | None = None

    @property
    def looked_at(self) -> Side:
        return "validation" if self.index.count("validation") else "train"

    def batches(self, side: Side, micro: int) -> Batches:
        """This process's batches of a side, `micro` captions at a time."""
        group = world()
        return Batches(
            self.index,
            side,
            self.tokenizer,
            self.transform,
            self.settings.batch,
            micro=micro,
            seed=self.settings.seed,
            rank=group.rank,
            world=group.size,
            workers=self.settings.workers,
            cache=self.cache,
        )


def open_sources(settings: CaptionTraining, captioner: Captioner, say: Say) -> Sources:
    """The index of what `--data` names, in RUN. What can't be used is counted, and listed there."""
    assert settings.data is not None
    data, images, out = settings.data, settings.images, settings.out
    config = captioner.config
    # So many follow the image tokens: the last is predicted, and not fed back.
    room = config.gpt2.n_ctx - config.connector.tokens + 1
    longest = min(settings.longest, room)

    def make() -> None:
        out.mkdir(parents=True, exist_ok=True)
        index().close()

    def index() -> Index:
        return open_index(
            data,
            out / INDEX,
            images=images,
            split=settings.split,
            tokenizer=captioner.tokenizer,
            longest=longest,
            captions=settings.captions,
        )

    by_the_first(make)
    opened = Index(out / INDEX)
    if not opened.count("train"):
        raise ValueError(
            f"No caption of {settings.data} is on the training side of --split {settings.split}."
            " Give more data, or another --split."
        )
    transform = Transform(
        config.vision.image_size, config.resize, Augmentation() if settings.augment else None
    )
    counts = {side: opened.count(side) for side in ("train", "validation", "test")}
    say(
        f"Data: {counts['train']:,} captions to train on, {counts['validation']:,} to validate on,"
        f" {counts['test']:,} kept for the test."
    )
    if faults := opened.fault_counts():
        listed = ", ".join(f"{count:,} {kind}" for kind, count in faults.items())
        say(f"Left out or noted: {listed}; listed in {one_line(out / FAULTS)}.")
    if world().leads:
        # What was found while a run went on stays in the list when it goes on.
        then = lines_of(out / FAULTS) if (out / LAST).is_file() else []
        now = dict.fromkeys([*map(one_line, opened.faults()), *then])
        with replacing(out / FAULTS) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in now), "utf-8", "surrogateescape")
    query = "SELECT max(length) FROM members JOIN captions USING (row)"
    return Sources(opened, captioner.tokenizer, transform, settings, int(opened.one(query)))


def wants_cache(
    settings: CaptionTraining,
    sources: Sources,
    steps: int,
    shape: tuple[int, int],
    before: bool | None,
) -> bool:
    """Whether features are to be kept: as told, as before, or where they are worth their place."""
    if settings.features != "auto" or settings.augment or settings.train == "all":
        return settings.features == "on"
    if before is not None:
        return before
    twice = steps * settings.batch > sources.index.count("train")
    pictures = sum(1 for _ in sources.index.pictures())
    folder = settings.features_folder or settings.out
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    return twice and pictures * 2 * shape[0] * shape[1] < ROOM * free


def with_cache(sources: Sources, captioner: Captioner, batch: int, say: Say) -> Sources:
    """The same with features of every picture that is trained or validated on, computed where they
    are not there yet; each process computes its share."""
    settings = sources.settings
    folder = settings.features_folder or settings.out / FEATURES
    encoder = Encoder(captioner.vision, captioner.connector, sources.transform)
    by_the_first(lambda: FeatureCache(folder, encoder).close())
    cache = FeatureCache(folder, encoder)
    told = Told(settings.out, say)
    group = world()
    for side in dict.fromkeys(("train", sources.looked_at)):
        pictures = islice(sources.index.pictures(side), group.rank, None, group.size)
        cache.fill(pictures, encoder, batch=batch, workers=max(1, settings.workers), tell=told)
    gathered(None)  # nobody reads before all have written
    say(f"Features: of {len(cache):,} pictures, kept in {one_line(folder)}.")
    return replace(sources, cache=cache)


def lines_of(path: Path) -> list[str]:
    """The lines of a text; none where it is not there."""
    text = path.read_text("utf-8", "surrogateescape") if path.is_file() else ""
    return [line for line in text.split("\n") if line]


class Told:
    """Lists what could not be used while a run goes on, each once, and says the first."""

    def __init__(self, out: Path, say: Say) -> None:
        self.path, self.say, self.new = out / FAULTS, say, 0
        self.known = set(lines_of(self.path))

    def __call__(self, fault: Fault) -> None:
        line = one_line(fault)
        if line in self.known:
            return
        self.known.add(line)
        self.new += 1
        with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")
        if self.new <= TOLD:
            more = f" Others will be listed in {one_line(self.path)} alone." * (self.new == TOLD)
            self.say(f"Left out: {line}.{more}")

    def watching(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, with what they left out noted."""
        for batch in batches:
            for fault in batch.skipped:
                self(fault)
            yield batch
