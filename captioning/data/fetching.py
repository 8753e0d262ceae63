"""A part of a public set, fetched: captions, pictures by id, and each picture's licence.

    open_images_train_captions.jsonl   or annotations/captions_train2017.json: the chosen captions
    train/, train2017/, ...            the pictures
    licences-train.csv                 of each picture: licence, author, where it comes from
    failures-train.csv                 what could not be fetched, if anything
    sources/                           the publishers' whole files, kept for the next run

Killed and started again it goes on: what is whole is not fetched twice.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from captioning.data.index import told
from captioning.data.opening import look
from captioning.data.public import COLUMNS, UNKNOWN, Name, PublicSet, public_set
from captioning.data.rows import Bad, Place, Side
from captioning.data.text_files import OnDisk
from weights.cache import locked
from weights.download import PATIENCE, FetchError, NoSpace, Patience, download
from weights.store import replacing

IN_A_ROW = 50  # pictures that fail one after the other: the network is gone, not they

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """What came: pictures there now (`new` of them by this run), captions, and what failed."""

    pictures: int
    new: int
    failed: int
    captions: int


def fetch(
    name: Name,
    out: str | Path,
    *,
    split: Side = "train",
    n: int = 20_000,
    seed: int = 0,
    mirror: str | None = None,
    workers: int = 16,
    patience: Patience = PATIENCE,
    tell: Tell = lambda message: None,
) -> Fetched:
    """`n` pictures of a split with every caption they have, chosen by seed.

    More pictures of one seed are the same and others. With a `mirror` nothing else is asked: it
    has each file at MIRROR/HOST/PATH. Pictures that fail are listed; FetchError: nothing goes.
    """
    out = Path(out)
    wanted = public_set(name, split)
    sources = out / "sources"
    with locked(out, tell), told(out), closing(OnDisk()) as chosen:
        for url in wanted.sources:
            path = sources / url.rpartition("/")[2]
            if not path.is_file():  # it gets its name once it is whole
                tell(f"fetching {url}")
                download(_at(url, mirror), path, patience=patience, tell=tell, bar=True)
        for image in choose(wanted.images(sources), n, seed):
            chosen[image] = ""
        captions = wanted.write_captions(sources, chosen, out)
        _write_licences(out / f"licences-{split}.csv", wanted, sources, chosen)
        jobs = _Jobs(wanted, out, mirror, patience, tell)
        new, there, failed = jobs.run(iter(chosen), workers, out / f"failures-{split}.csv")
    return Fetched(new + there, new, failed, captions)


def choose(images: Iterator[str], n: int, seed: int) -> Iterator[str]:
    """The `n` ids whose hashes with the seed are lowest; sorted on the disk, not in memory."""
    with closing(OnDisk()) as ranked:
        for image in images:
            digest = blake2b(f"{seed} {image}".encode(), digest_size=8).hexdigest()
            ranked[f"{digest} {image}"] = ""
        for key in islice(ranked, n):
            yield key.partition(" ")[2]


def _at(url: str, mirror: str | None) -> str:
    if mirror is None:
        return url
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def _write_licences(path: Path, wanted: PublicSet, sources: Path, chosen: OnDisk) -> None:
    """A row for each chosen picture; where the publisher says nothing, it says so."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
        closing(OnDisk()) as known,
    ):
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in wanted.licences(sources, chosen):
            writer.writerow(row)
            known[row["image"]] = ""
        for image in chosen:
            if known.get(image) is None:
                row = {"image": image, "file": wanted.picture(image)[1]}
                writer.writerow(row | {"licence": UNKNOWN, "author": UNKNOWN})


@dataclass(frozen=True)
class _Jobs:
    """The pictures of a set on their way, several at a time."""

    wanted: PublicSet
    out: Path
    mirror: str | None
    patience: Patience
    tell: Tell

    def run(self, images: Iterator[str], workers: int, failures: Path) -> tuple[int, int, int]:
        """How many are new, were there, failed; the failures go into a file."""
        counts = {"new": 0, "there": 0, "failed": 0}
        in_a_row = 0
        pending: deque[Future[tuple[str, str, str]]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            with (
                requests.Session() as session,
                replacing(failures) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as file,
                tqdm(desc="fetching", unit="picture", disable=None) as bar,
            ):
                for scheme in ("http://", "https://"):  # a connection kept for each thread
                    session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=workers))
                writer = csv.writer(file)
                writer.writerow(("image", "address", "reason"))
                for image in _then_none(images, 4 * workers):
                    if image is not None:
                        pending.append(pool.submit(self._one, image, session))
                    if pending and (image is None or len(pending) == 4 * workers):
                        name, kind, reason = pending.popleft().result()
                        counts[kind] += 1
                        bar.update()
                        in_a_row = in_a_row + 1 if reason else 0
                        if reason:
                            writer.writerow((name, self.wanted.picture(name)[0], reason))
                            self.tell(reason)
                        if in_a_row == IN_A_ROW:
                            break
        finally:
            pool.shutdown(cancel_futures=True)
        if in_a_row == IN_A_ROW:
            raise FetchError(
                f"{IN_A_ROW} pictures in a row could not be fetched, the last: {reason} All are"
                f" listed in {failures}. Check the connection; a new run goes on."
            )
        if not counts["failed"]:
            failures.unlink()
        return counts["new"], counts["there"], counts["failed"]

    def _one(self, image: str, session: requests.Session) -> tuple[str, str, str]:
        url, name = self.wanted.picture(image)
        if (self.out / name).is_file():
            return image, "there", ""
        address, path = _at(url, self.mirror), self.out / name
        try:
            download(address, path, patience=self.patience, tell=self.tell, session=session)
        except NoSpace:
            raise
        except FetchError as error:
            return image, "failed", str(error)
        try:
            look(Place(str(path)), whole=False)
        except Bad as bad:  # a page that says "not now"; the end of a file of unknown length
            path.unlink(missing_ok=True)
            return image, "failed", f"{address} gave no whole picture ({bad.reason}); try again."
        return image, "new", ""


def _then_none(images: Iterator[str], count: int) -> Iterator[str | None]:
    """The ids, then None as often as there may be pictures still on their way."""
    yield from images
    yield from [None] * count
