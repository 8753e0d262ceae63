"""What the commands share: loading a model and checking numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weights.console import check_device

if TYPE_CHECKING:
    from captioning.model import Captioner


def load(model: str, device: str) -> Captioner:
    """The captioner on its device; ValueError where the device can't be used."""
    from captioning.model import load_captioner

    check_device(device)
    return load_captioner(model_of(model), device=device)


def model_of(model: str) -> str:
    """The same, or the folder of the captioner that a run of `train` saved in it."""
    from weights.store import TENSORS

    inside = Path(model, "model")
    is_run = not Path(model, TENSORS).is_file() and (inside / TENSORS).is_file()
    return str(inside) if is_run else model


def at_least(lowest: int, **options: int | None) -> None:
    """ValueError for the first option below `lowest`; None stands for "not given"."""
    for name, value in options.items():
        if value is not None and value < lowest:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"got {flag} {value}, wanted at least {lowest}; raise it.")


def settings_of(model: str) -> dict[str, Any]:
    """What a run of `train` was asked (data, images, split); empty for any other model."""
    from weights.store import CONFIG, read_json

    if model_of(model) == model:
        return {}
    held = read_json(Path(model, CONFIG)) if Path(model, CONFIG).is_file() else {}
    settings = held.get("settings") if isinstance(held, dict) else None
    return settings if isinstance(settings, dict) else {}


def identity(model: str) -> list[Any]:
    """What tells a model from another: its folder, and the size and time of its files."""
    from weights.store import CONFIG, TENSORS, embedded

    folder = embedded(model) if model == "scenes" else Path(model_of(model))
    stamps = ((folder / name).stat() for name in (CONFIG, TENSORS) if (folder / name).is_file())
    return [model, *([stamp.st_size, stamp.st_mtime_ns] for stamp in stamps)]


def device_of(device: str, environment: Mapping[str, str]) -> str:
    """`cuda` under torchrun is the process's own GPU; every other name stands for itself."""
    local = environment.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device
