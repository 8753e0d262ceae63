"""A model on disk: a folder with `config.json` beside `model.safetensors`.

Reading is all or nothing: whatever is missing, unexpected or mis-shaped is listed in one error.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.contents import HEAD, impostor

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
TENSORS = "model.safetensors"
HALF = re.compile(r"\..+\.[0-9a-f]{8}")  # the name of a file that is not written to its end


def embedded(name: str) -> Path:
    """The folder of what comes with the code: "scenes" or "golden"."""
    return Path(__file__).parent / "embedded" / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes its place only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # as HALF has it
    # Whoever may read what others write here may read this: mkstemp's 0600 is for secrets.
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)  # what was written may be another file, of another mode
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def clear_halves(folder: Path) -> None:
    """Delete what a kill left of files that `replacing` was writing into a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if HALF.fullmatch(path.name):
            path.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """JSON that a person can read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(to_json(value), "utf-8")


def read_json(path: Path) -> Any:
    """The JSON value of a file; ValueError names the file where it is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist. Check the path of the folder.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Copy the file again.") from None


def write_folder(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Write a config and its tensors; neither takes its place before both are written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = Path(folder)
    with replacing(folder / CONFIG) as config_file, replacing(folder / TENSORS) as tensor_file:
        config_file.write_text(to_json(dict(config)), "utf-8")
        held = {name: t.detach().contiguous() for name, t in tensors.items()}
        try:
            save_file(held, tensor_file)
        except SafetensorError as error:  # so it calls a full disk
            raise OSError(
                f"{folder / TENSORS} could not be written ({error}). What was there is kept: make"
                " room, then do it again."
            ) from None


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's `config.json`. FileNotFoundError says what a model folder holds."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else ""
        seen = f"holds {held or 'nothing'}" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(
            f"{folder} {seen}; needed: {CONFIG} and {TENSORS}."
            " Name a folder that a model was saved in."
        )
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} holds a {type(config).__name__}, not an object.")
    return config


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file (or of a folder's), by name, memory-mapped.

    The map is private: writing into a tensor copies the page and leaves the file alone, and the
    tensors outlive a file that is deleted or replaced (on Windows it can't be, while they live).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    path = path / TENSORS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Name a folder that a model was saved in.")
    try:
        return load_file(path)
    except SafetensorError as error:
        with path.open("rb") as file:
            found = impostor(file.read(HEAD)) or error
        raise ValueError(
            f"{path} is not a whole safetensors file ({found}). Copy it again."
        ) from None


def assign(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Give `module` these parameters and buffers, all or nothing, without copying them.

    Raises ValueError that lists every missing, unexpected and mis-shaped name.
    """
    wanted = module.state_dict()
    pairs = [(name, tensors[name], wanted[name]) for name in wanted if name in tensors]
    faults = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "mis-shaped": [
            f"{name} {tuple(got.shape)}, wanted {tuple(want.shape)}"
            for name, got, want in pairs
            if got.shape != want.shape
        ],
        "of another kind": [
            f"{name} {got.dtype}, wanted {want.dtype}"
            for name, got, want in pairs
            if got.is_floating_point() != want.is_floating_point()
        ],
    }
    if any(faults.values()):
        listed = "".join(
            f"\n  {kind}: {', '.join(names)}" for kind, names in faults.items() if names
        )
        raise ValueError(
            f"{source} does not fit this {type(module).__name__}; nothing was loaded:{listed}"
            "\nCheck that the config belongs to the weights."
        )
    module.load_state_dict(dict(tensors), assign=True)
