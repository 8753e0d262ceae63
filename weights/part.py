"""The part of a file that has arrived: `NAME.part`, beside the place where the file will be.

`NAME.part.json` says where it came from, so that a later run can tell whether to go on with it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weights.store import read_json, write_json


class Part:
    """`NAME.part` and the SHA-256 of all of it, of what earlier runs left too."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        self.size = self.path.stat().st_size if self.path.exists() else 0
        self.pieced = self.size > 0  # it did not come in one answer
        self._digest: hashlib._Hash | None = None  # made when needed: hashing gigabytes takes time

    def origin(self) -> dict[str, Any]:
        """What `begin` noted; empty where there is nothing to go on with."""
        try:
            noted = read_json(self.note) if self.size else {}
        except (ValueError, FileNotFoundError):  # cut off while it was written, or deleted
            noted = {}
        return noted if isinstance(noted, dict) else {}

    def begin(self, origin: dict[str, Any]) -> None:
        """Start anew, with a note of where it comes from."""
        self.drop()
        write_json(self.note, origin)

    def append(self, chunks: Iterable[bytes]) -> None:
        """Write each chunk as it comes, without a buffer, so that a kill loses nothing."""
        self.pieced = self.pieced or self.size > 0
        digest = self._hashed()
        with self.path.open("ab", buffering=0) as opened:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[opened.write(rest) :]
                digest.update(chunk)
                self.size += len(chunk)

    def head(self, count: int) -> bytes:
        with self.path.open("rb") as opened:
            return opened.read(count)

    def sha256(self) -> str:
        return self._hashed().hexdigest()

    def drop(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.size, self.pieced, self._digest = 0, False, None

    def finish(self) -> None:
        """Give the file its name, now that it is whole and on the disk."""
        with self.path.open("rb+") as opened:
            os.fsync(opened.fileno())
        self.path.replace(self.target)
        self.note.unlink(missing_ok=True)

    def _hashed(self) -> hashlib._Hash:
        if self._digest is None:
            self._digest = hashlib.sha256()
            if self.size:
                with self.path.open("rb") as opened:
                    self._digest = hashlib.file_digest(opened, "sha256")
        return self._digest
