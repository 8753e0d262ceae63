"""What a run of `train` was asked, in RUN/config.json: for a second start, and for `--resume`."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from captioning.config import Rates
from captioning.training.settings import CaptionTraining
from gpt2_scratch.training.record import FILE
from gpt2_scratch.training.settings import LoRAConfig
from weights.manifest import entries
from weights.store import read_json

# Where things lie, how they are computed, what is shown: these may change from start to start.
FREE = (
    *("data", "images", "out", "resume", "device", "micro_batch", "checkpointing", "compile"),
    *("checkpoint_minutes", "validate_every", "features", "features_folder", "workers"),
    *("validate_on", "samples", "tensorboard"),
)
PLACES = ("data", "images", "features_folder")  # which --resume takes from RUN too
PARTS = ("model", "gpt2", "tower")  # names that we know, or places too


def asked(settings: CaptionTraining, fingerprint: str, captions: int) -> dict[str, Any]:
    """All that the result depends on: settings, and the captions by their hash."""
    what = {name: value for name, value in as_json(settings).items() if name not in FREE}
    what["captions trained on"] = {"number": captions, "hash": fingerprint}
    return json.loads(json.dumps(what))  # as it will be read again


def as_json(settings: CaptionTraining) -> dict[str, Any]:
    """The settings, for `resumed`: places as they are called from anywhere."""
    held = asdict(settings)
    for name in (*PLACES, *PARTS):
        value = held[name]
        if value is not None and (name in PLACES or value not in (*entries(), "scenes")):
            held[name] = str(Path(value).expanduser().resolve())
    del held["out"], held["resume"]
    return json.loads(json.dumps(held))


def resumed(given: CaptionTraining) -> CaptionTraining:
    """The settings of the run in `given.out`, with what may change as it is given now.

    FileNotFoundError where there is none; ValueError where another setting was given.
    """
    path = given.out / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{given.out} holds no run to resume (no {FILE}). Name its folder with --out, or leave"
            " out --resume."
        )
    written = read_json(path)
    held = written.get("settings") if isinstance(written, dict) else None
    if not isinstance(held, dict):
        raise ValueError(f"{path} is of something else than a run of train. Name another --out.")
    names = {field.name for field in fields(given)} & held.keys()
    then = {name: restored(name, held[name]) for name in names}
    called, plain, changed = as_json(given), CaptionTraining(), {}
    for name in sorted(names):
        now, default = getattr(given, name), getattr(plain, name)
        if now == default:
            continue
        if name in FREE:
            changed[name] = now
        elif restored(name, called[name]) != then[name]:
            raise ValueError(
                f"{given.out} holds a run with {name} {then[name]}, now {now}. Leave it out to go"
                " on with the run, or give another --out to begin anew."
            )
    return replace(given, **{**then, **changed})


def restored(name: str, value: Any) -> Any:
    """A setting as it was before it was JSON."""
    if name == "rates":
        return Rates(**value)
    if name == "lora":
        return LoRAConfig(**{**value, "linears": tuple(value["linears"])})
    if name in PLACES and value is not None:
        return Path(value)
    return value
