"""A manifest of tiny files that the server on loopback has, in the form of the real one."""

import hashlib
import json
from pathlib import Path
from typing import Any

from server import Server

WORDS = b'{"a": 0}'


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
