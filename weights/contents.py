"""What a file really holds: pages that were saved as a checkpoint, and files that do not open."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

HEAD = 1024  # bytes that show what a file is
PAGE = r"<!doctype html|<!--|<(html|head|body|title|meta|script|style|center|div|h1|p|pre)[\s>/]"
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before it wrote archives


def impostor(head: bytes) -> str | None:
    """What the first bytes are when they are no file but a server's words about one, else None."""
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if re.match(PAGE, text, re.IGNORECASE):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*(?:</title|$)", text, re.IGNORECASE | re.DOTALL)
        return f"an HTML page{f' titled {title[1]!r}' if title else ''}"
    if text.startswith(("<?xml", "<Error")):
        code = re.search(r"<Code>(.*?)</Code>", text)
        return f"an XML answer{f' with the code {code[1]!r}' if code else ''}"
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, which stands for the file in a Git repository"
    return None


def fault(path: Path, name: str | None = None) -> str | None:
    """Why a file is not what its name claims, or None. Reads its beginning and its tables only.

    `name` is the one that it is to have. A TensorFlow checkpoint is several files, of which this
    sees the index alone: see `weights.check`.
    """
    with path.open("rb") as opened:
        head = opened.read(HEAD)
    if not head:
        return "it is empty"
    if page := impostor(head):
        return f"it is {page}"
    look = {
        ".json": _json,
        ".safetensors": _safetensors,
        ".bin": _torch,
        ".pt": _torch,
        ".index": _index,
    }
    suffix = Path(name or path.name).suffix
    return look[suffix](path, head) if suffix in look else None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _json(path: Path, head: bytes) -> str | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({error})"
    return None if isinstance(value, dict) else f"it holds a {type(value).__name__}, not an object"


def _safetensors(path: Path, head: bytes) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as opened:
            return None if opened.keys() else "it holds no tensors"
    except SafetensorError as error:
        return f"it is not a whole safetensors file ({error})"


def _torch(path: Path, head: bytes) -> str | None:
    if head.startswith(LEGACY_TORCH):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # a broken table can raise anything
        return f"it is not a whole PyTorch file ({error})"
    if not any(name.endswith("data.pkl") for name in names):
        return "it is a zip archive without data.pkl, not a PyTorch file"
    return None


def _index(path: Path, head: bytes) -> str | None:
    from weights.tf_index import read_index

    try:
        read_index(path)
    except ValueError as error:
        return f"it {error}"
    return None
