"""What a frozen encoder says of each picture, computed once and kept on the disk.

    key.json      what the numbers depend on; a cache of anything else is refused
    slots.sqlite  image -> slot, written once the numbers are
    00000.f16     (PICTURES, N, F) float16, memory-mapped

Of the dense features only the tokens that the reducer keeps: 58 x 3072 for the article, 356 KB.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from captioning.data.index import Picture, told
from captioning.data.opening import open_place
from captioning.data.rows import Bad, Fault
from captioning.data.transforms import Transform
from connector.connector import Connector
from connector.dense import ALL
from connector.preprocess import normalise
from connector.vision import ClipVision
from weights.store import read_json, write_json

PICTURES = 512  # in a file: 182 MB for the article
MAPS = 64  # files that are mapped at a time: each costs a handle, and a large set has 1,000
KEY, SLOTS = "key.json", "slots.sqlite"
TABLE = """CREATE TABLE IF NOT EXISTS slots (slot INTEGER PRIMARY KEY, image TEXT UNIQUE,
    stamp TEXT, done INTEGER DEFAULT 0)"""

# B pictures   N tokens that the reducer keeps   F channels of the dense features


@dataclass(frozen=True)
class Encoder:
    """The frozen half of a captioner: pixels (B, 3, size, size) -> features (B, N, F)."""

    vision: ClipVision
    connector: Connector
    transform: Transform

    def __post_init__(self) -> None:
        if self.transform.augment is not None:
            raise ValueError("features of augmented pictures cannot be kept; leave augment out.")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F) of one picture."""
        config, keep = self.connector.config, self.connector.reducer.keep
        return len(range(config.tokens_in)[ALL if keep is None else keep]), config.features

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.connector.features(self.vision.hidden_states(pixels))

    @property
    def key(self) -> dict[str, Any]:
        """What the features depend on, in words that a person can compare."""
        config = self.connector.config
        keep = self.connector.reducer.keep
        return {
            "encoder": digest(self.vision),
            "encoder config": asdict(self.vision.config),
            "transform": self.transform.key,
            "states": config.variant,
            "tokens": f"each {keep.step}th of {config.tokens_in}" if keep else "all",
            "shape": list(self.shape),
        }


def digest(module: nn.Module) -> str:
    """A hash of every parameter's and buffer's name, kind and bytes."""
    found = blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


class FeatureCache:
    """The features of a folder, by image id.

    ValueError names what differs where the folder holds features of another encoder, transform or
    choice of states; `rebuild` deletes those instead.
    """

    def __init__(self, folder: str | Path, encoder: Encoder, *, rebuild: bool = False) -> None:
        self.folder = Path(folder)
        self.shape = encoder.shape
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._files: dict[tuple[int, bool], npt.NDArray[np.float16]] = {}
        key = json.loads(json.dumps(encoder.key))  # as it comes back from the disk
        held = read_json(self.folder / KEY) if (self.folder / KEY).is_file() else None
        if held is not None and held != key and not rebuild:
            raise ValueError(
                f"{self.folder} holds features of something else: {differences(held, key)}. Name"
                " another folder, or have it rebuilt."
            )
        if held != key:
            for file in (*self.folder.glob("[0-9]*.f16"), *self.folder.glob(f"{SLOTS}*")):
                file.unlink()
            write_json(self.folder / KEY, key)
        with told(self.folder / SLOTS):
            self.db.execute(TABLE)
            self._forget_what_is_gone()
            self.db.commit()

    @property
    def db(self) -> sqlite3.Connection:
        """This process's own connection; others wait for a minute where one writes."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), sqlite3.connect(self.folder / SLOTS, timeout=60)
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_files": {}}

    def close(self) -> None:
        self._files.clear()
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def __len__(self) -> int:
        """How many pictures have their features."""
        return int(self.db.execute("SELECT count(*) FROM slots WHERE done").fetchone()[0])

    def __getitem__(self, image: str) -> npt.NDArray[np.float16]:
        """(N, F) of a picture, memory-mapped; Bad("missing") where it has none."""
        query = "SELECT slot FROM slots WHERE image = ? AND done"
        found = self.db.execute(query, (image,)).fetchone()
        if found is None:
            raise Bad("missing", f"{self.folder} has no features of {image}")
        number, place = divmod(found[0], PICTURES)
        row: npt.NDArray[np.float16] = self._file(number)[place]
        return row

    def fill(
        self,
        pictures: Iterable[Picture],
        encoder: Encoder,
        *,
        batch: int = 16,
        workers: int = 2,
        tell: Callable[[Fault], None] = lambda fault: None,
    ) -> int:
        """Computes what is lacking, and what belongs to a picture whose file has changed.

        Goes on where it was killed. Several processes may fill one folder, each with its pictures.
        Pictures that fail are told, and their number is returned.
        """
        device = encoder.vision.positional_embedding.device
        dtype = encoder.vision.positional_embedding.dtype
        failed = 0
        stamped = ((picture, stamp(picture)) for picture in pictures)
        lacking = (pair for pair in stamped if self._stamp(pair[0].image) != pair[1])
        with ThreadPoolExecutor(workers) as pool:
            for chunk in _ahead(pool, encoder.transform, lacking, batch):
                good: list[tuple[Picture, str, npt.NDArray[np.uint8]]] = []
                for picture, seen, future in chunk:
                    try:
                        good.append((picture, seen, future.result()))
                    except Bad as bad:
                        failed += 1
                        tell(Fault(bad.kind, bad.reason, Path(picture.place.path), 0))
                if good:
                    pixels = torch.from_numpy(np.stack([array for *_, array in good]))
                    pixels = normalise(pixels.permute(0, 3, 1, 2)).to(device, dtype)
                    features = encoder(pixels).float().cpu()  # (B, N, F)
                    with told(self.folder / SLOTS):
                        self._write([(picture.image, seen) for picture, seen, _ in good], features)
        return failed

    def _forget_what_is_gone(self) -> None:
        """Pictures whose file was deleted, or was copied in part, are encoded again."""
        query = f"SELECT DISTINCT slot / {PICTURES} FROM slots WHERE done"
        for (number,) in self.db.execute(query).fetchall():
            path = self._path(number)
            if not path.is_file() or path.stat().st_size < self._size:
                forget = f"UPDATE slots SET done = 0 WHERE slot / {PICTURES} = ?"
                self.db.execute(forget, (number,))

    def _stamp(self, image: str) -> str | None:
        query = "SELECT stamp FROM slots WHERE image = ? AND done"
        found = self.db.execute(query, (image,)).fetchone()
        return None if found is None else str(found[0])

    def _write(self, stamped: Sequence[tuple[str, str]], features: Tensor) -> None:
        """Numbers first, then the note that they are there: a kill between costs a batch."""
        if not features.abs().max() <= torch.finfo(torch.float16).max:
            raise ValueError(
                "the encoder's features do not fit into float16 (65,504 at most), or are not"
                " finite; look at its weights, or train without a cache."
            )
        halves = features.numpy().astype(np.float16)
        with self.db:
            self.db.execute("BEGIN IMMEDIATE")
            slots = [self._reserve(image) for image, _ in stamped]
        for slot, row in zip(slots, halves, strict=True):
            number, place = divmod(slot, PICTURES)
            self._file(number, write=True)[place] = row
        for number in {slot // PICTURES for slot in slots}:
            file = self._file(number, write=True)
            assert isinstance(file, np.memmap)
            file.flush()
        with self.db:
            self.db.executemany(
                "UPDATE slots SET done = 1, stamp = ? WHERE image = ?",
                [(stamp, image) for image, stamp in stamped],
            )

    def _reserve(self, image: str) -> int:
        """The slot of an image; slots count from 0."""
        self.db.execute(
            "INSERT INTO slots (slot, image) SELECT coalesce(max(slot), -1) + 1, ? FROM slots"
            " WHERE true ON CONFLICT (image) DO UPDATE SET done = 0",
            (image,),
        )
        query = "SELECT slot FROM slots WHERE image = ?"
        return int(self.db.execute(query, (image,)).fetchone()[0])

    def _file(self, number: int, *, write: bool = False) -> npt.NDArray[np.float16]:
        if (number, write) not in self._files:
            path = self._path(number)
            if write:
                _make_room(path, self._size)
            if len(self._files) >= MAPS:
                del self._files[next(iter(self._files))]  # the one that was mapped first
            mode: Literal["r", "r+"] = "r+" if write else "r"
            shape = (PICTURES, *self.shape)
            self._files[number, write] = np.memmap(path, np.float16, mode, shape=shape)
        return self._files[number, write]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.f16"

    @property
    def _size(self) -> int:
        """Bytes of a file."""
        return 2 * PICTURES * int(np.prod(self.shape))


def _make_room(path: Path, size: int) -> None:
    """A file of `size` bytes whose blocks are all there: a map into a full disk kills a process."""
    if path.is_file() and path.stat().st_size >= size:
        return
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(
            f"{path.parent} has {free / 1e6:,.0f} MB free, wanted {size / 1e6:,.0f} MB for the next"
            f" {PICTURES} pictures; make room, then start again."
        )
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def stamp(picture: Picture) -> str:
    """What tells that a picture's file has changed."""
    try:
        held = os.stat(picture.place.path)
    except OSError:
        return "missing"
    return f"{held.st_size} {held.st_mtime_ns} {picture.place.offset}"


def differences(held: dict[str, Any], wanted: dict[str, Any]) -> str:
    """`name: got ..., wanted ...` for each entry in which two keys differ."""
    names = [name for name in wanted if held.get(name) != wanted[name]]
    return "; ".join(f"{name}: got {held.get(name)}, wanted {wanted[name]}" for name in names)


def _ahead(
    pool: ThreadPoolExecutor,
    transform: Transform,
    pictures: Iterator[tuple[Picture, str]],
    batch: int,
) -> Iterator[list[tuple[Picture, str, Any]]]:
    """Batches of pictures being decoded: the next one while this one is encoded."""
    waiting: list[tuple[Picture, str, Any]] = []
    while chunk := [
        (picture, stamped, pool.submit(lambda place: transform(open_place(place)), picture.place))
        for picture, stamped in islice(pictures, batch)
    ]:
        if waiting:
            yield waiting
        waiting = chunk
    if waiting:
        yield waiting
