"""What the commands share: loading a model and checking numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights.console import check_device

if TYPE_CHECKING:
    from captioning.model import Captioner


def load(model: str, device: str) -> Captioner:
    """The captioner on its device; ValueError where the device can't be used."""
    from captioning.model import load_captioner

    check_device(device)
    return load_captioner(model, device=device)


def at_least(lowest: int, **options: int | None) -> None:
    """ValueError for the first option below `lowest`; None stands for "not given"."""
    for name, value in options.items():
        if value is not None and value < lowest:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"got {flag} {value}, wanted at least {lowest}; raise it.")
