"""A job's pictures through a captioner, the next ones opened while it works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from captioning.data.opening import open_place
from captioning.data.rows import Bad
from captioning.many.job import Job, Left, Totals, Writing
from captioning.many.sources import Item
from captioning.pictures import open_picture

if TYPE_CHECKING:
    from captioning.config import CaptionerConfig
    from captioning.model import Captioner, Decoding

AHEAD = 3  # blocks that are opened, or waiting opened, before the model

Opened = tuple[int, Item, Image.Image | str]  # number, item, the picture or why there is none


def caption_job(
    load: Callable[[], Captioner],
    job: Job,
    items: Callable[[], Iterable[Item]],
    *,
    seed: int = 0,
    workers: int = 2,
    options: Decoding | None = None,
) -> Totals | None:
    """Starts a job or takes it up, and captions what this process has left of it.

    The totals where all is done now, and the parts are joined; None where other processes still
    work, or joined them. The model is loaded only where something is left for it.
    """
    totals = job.start(items)
    if totals is not None:
        return totals
    with job.writing() as parts:
        left = job.left()
        if left:
            _caption(load(), job, parts, left, seed=seed, workers=workers, options=options or {})
    return job.finish()


def _caption(
    captioner: Captioner,
    job: Job,
    parts: Writing,
    left: Left,
    *,
    seed: int,
    workers: int,
    options: Decoding,
) -> None:
    import torch

    with ThreadPoolExecutor(workers) as pool:
        hidden = True if job.share.rank else None  # None: shown where there is a terminal
        with tqdm(total=len(left), desc="captioning", unit="picture", disable=hidden) as bar:
            for block, opened in _ahead(pool, job, left, captioner.config):
                failed = [row for row in opened if isinstance(row[2], str)]
                parts.add("failed", ((n, _fields(item, error=why)) for n, item, why in failed))
                good = [(n, item, one) for n, item, one in opened if isinstance(one, Image.Image)]
                # Not one for the whole run: a block's draws must not depend on those before it.
                state = int(np.random.SeedSequence((seed, block.start)).generate_state(1)[0])
                generator = torch.Generator(captioner.device).manual_seed(state)
                draws: Decoding = {**options, "generator": generator}
                said = captioner.describe([one for *_, one in good], **draws) if good else []
                rows = []
                for (number, item, _), caption in zip(good, said, strict=True):
                    fields = asdict(caption)
                    rows.append((number, _fields(item, caption=fields.pop("text"), **fields)))
                parts.add("said", rows)
                bar.update(len(opened))


def _fields(item: Item, **others: Any) -> dict[str, Any]:
    image = {} if item.image is None else {"image_id": item.image}
    return {"path": item.name, **image, **others}


def _ahead(
    pool: ThreadPoolExecutor, job: Job, blocks: Iterable[range], config: CaptionerConfig
) -> Iterator[tuple[range, list[Opened]]]:
    """Each block with its pictures; those of the next AHEAD are being opened meanwhile."""
    waiting: deque[tuple[range, list[Future[Opened]]]] = deque()
    for block in blocks:
        pairs = zip(block, job.items(block), strict=True)
        waiting.append((block, [pool.submit(_open, n, item, config) for n, item in pairs]))
        if len(waiting) > AHEAD:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _result(held: tuple[range, list[Future[Opened]]]) -> tuple[range, list[Opened]]:
    return held[0], [future.result() for future in held[1]]


def _open(number: int, item: Item, config: CaptionerConfig) -> Opened:
    """A picture as small as the model takes it: many large ones are never in memory together."""
    from connector.preprocess import resize_and_crop

    if item.place is None:
        return number, item, item.reason
    try:
        if item.place.size < 0:
            image = open_picture(Path(item.place.path))
        else:
            image = open_place(item.place)
    except (Bad, ValueError, OSError) as error:
        return number, item, str(error)
    square = resize_and_crop(image, config.vision.image_size, config.resize)
    return number, item, Image.fromarray(square)
