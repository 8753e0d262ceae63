"""What came, when and from where (`received.json`, beside the files), and whether it still is that.

A file whose SHA-256 nobody published is held against that of its first arrival, so that a later
change is noticed.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weights.contents import fault, sha256_of
from weights.manifest import File
from weights.store import read_json, write_json

RECEIVED = "received.json"

Record = dict[str, Any]  # bytes, sha256, from, date


@dataclass(frozen=True)
class Look:
    """What reading a file through showed: what is wrong with it, or None."""

    wrong: str | None
    size: int = 0
    sha256: str = ""
    known: str = ""  # where the hash that it has is known from


def look(path: Path, file: File, folder: Path) -> Look:
    """Read a file, which need not lie in `folder` yet, and hold it against what is known of it."""
    try:
        if not path.is_file():
            return Look("it is missing")
        size = path.stat().st_size
        if why := fault(path):
            return Look(why)
        if file.size not in (None, size):
            return Look(f"got {size:,} bytes, wanted {file.size:,}")
        got = sha256_of(path)
    except OSError as error:  # of another user, or on a disk that is failing
        return Look(f"it can't be read ({error.strerror or error})")
    wanted, known = expected_sha256(folder, file)
    if wanted not in (None, got):
        more = "" if file.sha256 else f". {if_meant(folder)}"
        return Look(f"got SHA-256 {got}, wanted {wanted} {known}{more}")
    return Look(None, size, got, known)


def expected_sha256(folder: Path, file: File) -> tuple[str | None, str]:
    """A file's published hash, or that of its first arrival, and which of the two it is."""
    if file.sha256:
        return file.sha256, "as published"
    before = read_received(folder).get(file.name)
    return (before["sha256"], f"as first received on {before['date']}") if before else (None, "")


def if_meant(folder: Path) -> str:
    """What to do where an unpublished file is not the one that came first."""
    return (
        "It has changed since. If that is meant to be, take it out of"
        f" {folder / RECEIVED} and run the command again"
    )


def read_received(folder: Path) -> dict[str, Record]:
    """What came into this folder, by file."""
    path = folder / RECEIVED
    try:
        held = read_json(path) if path.is_file() else {}
        if all(isinstance(r["sha256"], str) and isinstance(r["date"], str) for r in held.values()):
            return held
    except (ValueError, AttributeError, TypeError, KeyError):
        pass
    raise ValueError(
        f"{path} is damaged, wanted what came, by file. Delete it: hashes are then noted anew."
    )


def keep(folder: Path, name: str, size: int, sha256: str, origin: str) -> None:
    """Note a file that came. The caller holds the folder's lock."""
    origin = os.fsencode(origin).decode("utf-8", "backslashreplace")  # a path can have any bytes
    today = datetime.date.today().isoformat()
    entry = {"bytes": size, "sha256": sha256, "from": origin, "date": today}
    write_json(folder / RECEIVED, read_received(folder) | {name: entry})
