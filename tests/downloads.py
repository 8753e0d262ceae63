"""What the tests of downloads share: a file, patience that takes no time, and how a get ends."""

import hashlib
import random
from pathlib import Path

import pytest

from weights.download import FetchError, Patience, Received, download
from weights.part import Part

CONTENT = random.Random(0).randbytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(len(CONTENT))
QUICK = Patience(retries=3, backoff=0.01, longest=1.5)
HASTY = Patience(read=0.3, retries=3, backoff=0.01)
SHORT = CONTENT[:2000]  # takes a trickling server half a minute


def get(url, path: Path, **more) -> Received:
    known: dict = {"patience": QUICK, "sha256": SHA256, "size": len(CONTENT)}
    return download(url, path, **known | more)


def beside(path: Path) -> set[str]:
    """What lies in the folder."""
    return {each.name for each in path.parent.iterdir()}


def half(path: Path, url: str, content: bytes = CONTENT, validator: str | None = '"v1"') -> int:
    """What a killed run leaves."""
    path.parent.mkdir(exist_ok=True)
    part = Part(path)
    part.begin({"url": url, "validator": validator, "sha256": None})
    part.append([content[: len(content) // 2]])
    return part.size


def fails(url, path: Path, *words: str, **more) -> str:
    """The message of the error, which has each of these words; nothing took the file's place."""
    with pytest.raises(FetchError) as error:
        get(url, path, **more)
    assert not path.exists()
    for word in (path.name, *words):
        assert word in str(error.value)
    return str(error.value)
