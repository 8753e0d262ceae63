"""What can be fetched, from where, and what is known of each file: the table is `manifest.json`.

A name (`gpt2-large`) may come from several sources, each a set of files in a layout of its own.
Bytes and SHA-256 are what others published ("provenance" says who); `unpublished` reads as None.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TABLE = Path(__file__).with_name("manifest.json")
HUGGINGFACE = "https://huggingface.co"


@dataclass(frozen=True)
class File:
    """One file of a source. Its bytes: `size` where they are published, else roughly `about`."""

    name: str
    size: int | None
    sha256: str | None
    about: int = 0
    optional: bool = False  # a model is whole without it
    urls: tuple[str, ...] = ()  # its own, where the source's do not fit

    @property
    def expected(self) -> int:
        """Bytes to expect, 0 where nothing is known (small text files)."""
        return self.size or self.about


@dataclass(frozen=True)
class Source:
    """One publisher's files of a model. `folder` is where they lie, below the cache folder."""

    name: str
    folder: str
    layout: str
    urls: tuple[str, ...]
    files: tuple[File, ...]
    provenance: str

    @property
    def expected(self) -> int:
        return sum(file.expected for file in self.files)

    def urls_of(self, file: File) -> list[str]:
        """Every address of a file in the order to try: GPT2_SCRATCH_MIRROR's first.

        A mirror has the cache's own layout: MIRROR/gpt2-large/openai/hparams.json.
        HF_ENDPOINT takes the place of https://huggingface.co.
        """
        endpoint = _address("HF_ENDPOINT", os.environ.get("HF_ENDPOINT") or HUGGINGFACE)
        mirrors = os.environ.get("GPT2_SCRATCH_MIRROR", "").split()
        mirrored = [
            f"{_address('GPT2_SCRATCH_MIRROR', m)}/{self.folder}/{file.name}" for m in mirrors
        ]
        own = [u.format(huggingface=endpoint, file=file.name) for u in file.urls or self.urls]
        return mirrored + own


@dataclass(frozen=True)
class Entry:
    """A name that can be fetched: its sources, the default first, and the names it needs."""

    name: str
    title: str
    sources: tuple[Source, ...]
    needs: tuple[str, ...]

    def source(self, name: str | None = None) -> Source:
        """The source of that name, the default for None; ValueError lists what there is."""
        for source in self.sources:
            if name in (None, source.name):
                return source
        known = ", ".join(source.name for source in self.sources)
        raise ValueError(f"{self.name} has no source {name!r}, wanted one of {known}.")


@cache
def entries() -> dict[str, Entry]:
    """Everything that can be fetched, by name."""
    table = json.loads(TABLE.read_text("utf-8"))
    return {name: _entry(name, value) for name, value in table.items()}


def find(name: str) -> Entry:
    """The entry of that name; ValueError lists the names."""
    known = entries()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"There is no {name!r} to fetch, wanted one of {', '.join(known)}.{hint}")


def _entry(name: str, value: dict[str, Any]) -> Entry:
    sources = tuple(
        Source(
            name=source["name"],
            # A name that comes from one source alone has no folder within its folder.
            folder=name if len(value["sources"]) == 1 else f"{name}/{source['name']}",
            layout=source["layout"],
            urls=tuple(source["urls"]),
            files=tuple(_file(file) for file in source["files"]),
            provenance=source["provenance"],
        )
        for source in value["sources"]
    )
    return Entry(name, value["title"], sources, tuple(value["with"]))


def _file(value: dict[str, Any]) -> File:
    known = {key: None if v == "unpublished" else v for key, v in value.items()}
    return File(
        name=value["name"],
        size=known["bytes"],
        sha256=known["sha256"],
        about=value.get("about", 0),
        optional=value.get("optional", False),
        urls=tuple(value.get("urls", ())),
    )


def _address(variable: str, value: str) -> str:
    try:
        parts = urlsplit(value.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets or a port that are none
        good = False
    if not good:
        raise ValueError(
            f"{variable} is {value!r}, wanted an address such as https://mirror.example."
            " Correct the variable or unset it."
        )
    return value.strip().rstrip("/")
