"""RUN/config.json: what a run was asked to do, so that a second start goes on with that alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt2_scratch.training.checkpoint import LAST
from gpt2_scratch.training.settings import FinetuneConfig
from weights.store import read_json, write_json

FILE = "config.json"
# Where things lie, how they are computed, what is shown: these may change from start to start.
FREE = (
    *("texts", "out", "device", "micro_batch", "checkpointing", "checkpoint_minutes"),
    *("validate_every", "sample", "plan", "compile"),
)


def asked(settings: FinetuneConfig, documents: Sequence[str]) -> dict[str, Any]:
    """All that the result depends on: settings, and the text by its hash."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode() + b"\0")
    what = {name: value for name, value in asdict(settings).items() if name not in FREE}
    if settings.random_init is not None:
        del what["model"]
    elif Path(settings.model).is_dir():
        what["model"] = str(Path(settings.model).resolve())
    what["text"] = {
        "documents": len(documents),
        "characters": sum(map(len, documents)),
        "sha256": digest.hexdigest(),
    }
    return json.loads(json.dumps(what))  # as it will be read again


def before(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What an earlier start chose in `folder`; empty where nothing was trained there yet.

    ValueError names each setting that was another, or the file that is in the folder's place.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(
            f"{there} is a file, wanted a folder for the run; name another: --out RUN."
        )
    path = folder / FILE
    if not path.is_file():
        return {}
    held = read_json(path)
    if not isinstance(held, dict) or not {"asked", "chosen"} <= held.keys():
        raise ValueError(f"{path} is of something else than a run. Name another folder: --out RUN.")
    if not (folder / LAST).is_file():
        return {}
    then, now = dict(flat(held["asked"])), dict(flat(wanted))
    changed = [
        f"{name} was {shown(then.get(name))}, now {shown(now.get(name))}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Give the settings of"
            " before to go on with it, or another --out to begin anew."
        )
    chosen: dict[str, Any] = held["chosen"]
    return chosen


def remember(
    folder: Path, wanted: dict[str, Any], chosen: dict[str, Any], **more: dict[str, Any]
) -> None:
    """Write what was asked, and what was chosen for it, so that a second start chooses the same."""
    write_json(folder / FILE, {"asked": wanted, "chosen": chosen, **more})


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"lora": {"rank": 8}}` -> `("lora.rank", 8)`."""
    for name, inside in value.items():
        if isinstance(inside, dict):
            yield from flat(inside, f"{prefix}{name}.")
        else:
            yield prefix + name, inside


def shown(value: Any) -> str:
    return "not given" if value is None else str(value)
