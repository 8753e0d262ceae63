"""A manifest of tiny files that the server on loopback has, in the form of the real one."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server import Server

from weights import manifest
from weights.check import check

WORDS = b'{"a": 0}'
FILES = {
    "huggingface": {"config.json", "model.safetensors"},
    "openai": {
        *("hparams.json", "checkpoint", "model.ckpt.index", "model.ckpt.meta"),
        "model.ckpt.data-00000-of-00001",
    },
}
OWN = {"received.json", ".lock"}


@contextmanager
def tiny_server(golden: Path, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of these files, the manifest that says so in force, and a cache in the folder."""
    patch.setenv("GPT2_SCRATCH_CACHE", str(folder / "cache"))
    patch.delenv("GPT2_SCRATCH_MIRROR", raising=False)
    patch.setattr(manifest, "TABLE", folder / "manifest.json")
    manifest.entries.cache_clear()
    with Server() as running:
        serve_tiny(running, golden, folder / "manifest.json")
        yield running
    manifest.entries.cache_clear()


def serve_tiny(server: Server, golden: Path, table: Path) -> None:
    """Serve `tiny` in two layouts and `words`, which it needs; write the manifest that says so."""
    sources = {"huggingface": golden / "tiny-a" / "hf-prefixed", "openai": golden / "tiny-a/openai"}
    for name, folder in sources.items():
        for path in folder.iterdir():
            server.put(f"/{name}/{path.name}", path.read_bytes())
    server.put("/words/words.json", WORDS)
    value = {
        "tiny": {
            "title": "a tiny GPT-2",
            "with": ["words"],
            "sources": [source(server, name, folder) for name, folder in sources.items()],
        },
        "words": {
            "title": "its words",
            "with": [],
            "sources": [
                {
                    "name": "openai",
                    "layout": "vocabulary",
                    "urls": [f"{server.address}/words/{{file}}"],
                    "provenance": "made here",
                    "files": [
                        {
                            "name": "words.json",
                            "bytes": len(WORDS),
                            "sha256": hashlib.sha256(WORDS).hexdigest(),
                        }
                    ],
                }
            ],
        },
    }
    table.write_text(json.dumps(value), "utf-8")


def source(server: Server, name: str, folder: Path) -> dict[str, Any]:
    """OpenAI's files with no hash and no size published, the others with both."""
    files = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        known = name == "huggingface"
        files.append(
            {
                "name": path.name,
                "bytes": len(content) if known else "unpublished",
                "sha256": hashlib.sha256(content).hexdigest() if known else "unpublished",
                "optional": path.name in ("checkpoint", "model.ckpt.meta"),
            }
        )
    return {
        "name": name,
        "layout": name,
        "urls": [f"{server.address}/gone/{{file}}", f"{server.address}/{name}/{{file}}"],
        "provenance": "made here",
        "files": files,
    }


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - OWN


def findings(name: str, source: str | None = None) -> dict[str, str]:
    """What is wrong, by file."""
    return {found.file: found.text for found in check(name, source)[1] if not found.good}
