"""Is this image tower right? Site by site against a reference, and if not, where not, and why.

`verify` judges a folder as `ClipVision.from_folder` reads it; `verify_module` judges anybody's
nn.Module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from connector.diagnose import LORE, RETURNED
from connector.loader import load_vision
from connector.preprocess import preprocess
from connector.published import about_sizes, check_published
from connector.raw import TINY, RawTower, find_folder, open_raw
from connector.recording import read_recording
from connector.reference import Given, Reference, site_names
from connector.sites import count_fault, of_output, record_ours, states_of
from weights.compare import Array
from weights.hooks import Sites, silent, spread
from weights.hooks import record as record_sites
from weights.judge import THIS, describe, judge, not_finite, parameter_faults
from weights.recording import check_name, missing_sites, unknown_sites, write_recording
from weights.store import embedded
from weights.verdict import Diagnosis, Report

ONLY_SIZES = (
    "No number of the weights was compared, only how many there are. A picture does it: --file"
)
Dtype = Literal["float32", "float16", "bfloat16"]
Prepare = Callable[[Sequence[Image.Image]], Tensor]  # pictures -> (B, 3, S, S)


def verify(
    name_or_folder: str | Path,
    against: str | Path = "reference",
    *,
    pictures: Sequence[Image.Image] = (),
    quick_gelu: bool | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> Report:
    """Judge a folder as our loader, our preprocessing and our tower have it.

    `against`: "reference", "transformers" (the same files by its own reader), or an .npz.
    `pictures`: two that are drawn, where none are given. `quick_gelu`: where no config says it.
    """
    raw = open_raw(find_folder(name_or_folder), quick_gelu)
    theirs, unknown, states, name = None, list[str](), 0, "transformers"
    if str(against).endswith(".npz"):
        recording = read_recording(Path(against), raw)
        given, theirs, unknown = recording.given, recording.arrays, recording.unknown
        states = recording.states
        name = Path(against).name
    elif against in ("reference", "transformers"):
        given = Given(_arrays(pictures) or default_pictures(raw.image_size))
    else:
        raise ValueError(
            f"against={str(against)!r}; wanted golden, reference, transformers, or a file that ends"
            " in .npz. Choose one of these."
        )
    pixels = prepared(given, raw)
    if against == "transformers":
        from connector.twin import record_transformers

        theirs = record_transformers(raw, pixels)
    model = load_vision(
        raw.folder, quick_gelu=quick_gelu, dtype=getattr(torch, dtype), device=device
    )
    got = record_ours(model, pixels.to(device, getattr(torch, dtype)))
    told, faults = describe(model, raw.folder), parameter_faults(model, partial(held_as, raw))
    faults += count_fault(states, raw.layers)
    del model
    if given.pictures:
        got["pixel_values"] = pixels.numpy()
    stored = {str(array.dtype) for array in (theirs or {}).values()}
    coarse = "float16" if "float16" in stored and dtype == "float32" else dtype
    report = judge_pictures(raw, given, got, theirs, name=name, dtype=coarse)
    notes, other = report.notes, report.against
    if str(against).endswith(".npz"):
        names = site_names(raw.layers, raw.projection > 0)
        other = str(against)
        ours = [site for site in names if site in got and not site.startswith("hidden_states")]
        missing = missing_sites(ours, theirs or {})
        notes += (f"not in the file: {', '.join(missing)}",) * bool(missing)
        notes += (f"in the file, but no site: {', '.join(unknown)}",) * bool(unknown)
    return replace(report, model=told, against=other, faults=faults, notes=notes)


def verify_golden(
    name_or_folder: str | Path,
    *,
    files: Mapping[str, Path] | None = None,
    quick_gelu: bool | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> Report:
    """Hold a folder's tower against what others published: figures, and clip-tiny's states."""
    folder = find_folder(name_or_folder)
    raw = open_raw(folder, quick_gelu)
    model = load_vision(folder, quick_gelu=quick_gelu, dtype=torch.float32, device=device)
    figures = check_published(model, raw, files=files)
    passed = {figure.id for figure in figures if figure.status == "pass"}
    notes = (ONLY_SIZES,) * (bool(passed) and passed <= about_sizes())
    report = Report(describe(model, raw.folder), "published figures", notes=notes, figures=figures)
    golden = embedded("golden") / TINY
    if not folder.resolve().is_relative_to(golden.resolve()):
        return report
    file = golden / "oracle.npz"
    states = verify(folder, file, quick_gelu=quick_gelu, dtype=dtype, device=device)
    return replace(states, figures=figures)


def record(
    name_or_folder: str | Path,
    path: Path,
    *,
    pictures: Sequence[Image.Image] = (),
    quick_gelu: bool | None = None,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> list[str]:
    """Write our tower's sites to an .npz for others to be compared with; returns their names."""
    check_name(path)
    raw = open_raw(find_folder(name_or_folder), quick_gelu)
    given = Given(_arrays(pictures) or default_pictures(raw.image_size))
    pixels = prepared(given, raw)
    model = load_vision(
        raw.folder, quick_gelu=quick_gelu, dtype=getattr(torch, dtype), device=device
    )
    got = record_ours(model, pixels.to(device, getattr(torch, dtype)))
    arrays = {site: got[site] for site in site_names(raw.layers) if site in got}
    inputs = {"pixel_values": pixels.numpy()}
    if len({picture.shape for picture in given.pictures}) == 1:  # else they make no one array
        inputs["pictures"] = np.stack(given.pictures)
    write_recording(path, inputs | arrays)
    return list(arrays)


def verify_module(
    module: nn.Module,
    reference_folder: str | Path,
    sites: Sites | None = None,
    *,
    pictures: Sequence[Image.Image] = (),
    prepare: Prepare | None = None,
    quick_gelu: bool | None = None,
) -> Report:
    """Judge anybody's tower of a checkpoint: `module(pixel_values)` gives states or a vector.

    `sites` says where its intermediates are, under our names: {"layer{}.ln_1": "blocks.{}.norm"};
    `weights.hooks.Place` tells what may stand on the right. `prepare`: its own preprocessing.
    """
    raw = open_raw(find_folder(reference_folder), quick_gelu)
    known = site_names(raw.layers, raw.projection > 0)
    if strange := unknown_sites(spread(sites or {}, raw.layers), known):
        raise ValueError(f"no site is called {strange[0]}; connector.sites lists the names.")
    given = Given(_arrays(pictures) or default_pictures(raw.image_size))
    weight = next(module.parameters(), torch.empty(0))
    pixels = prepare(images(given)) if prepare else prepared(given, raw)
    here = pixels.to(weight.device, weight.dtype)

    def run(sites: Sites) -> tuple[dict[str, Array], int]:
        held, output = record_sites(module, here, sites, raw.layers)
        return of_output(output, raw.layers, raw.projection) | held, len(states_of(output))

    got, states = run(sites or {})
    if prepare:
        got["pixel_values"] = pixels.float().cpu().numpy()
    report = judge_pictures(raw, given, got, dtype=str(weight.dtype).removeprefix("torch."))
    notes = (*report.notes, *silent(sites or {}, raw.layers, got))
    faults = (*count_fault(states, raw.layers), *not_finite(module))
    report = replace(report, model=describe(module, raw.folder), faults=faults, notes=notes)
    if not report.passed:
        again, _ = run(sites or {})
        if any(not np.array_equal(a, got[site], equal_nan=True) for site, a in again.items()):
            drawn = "Two runs differ: something is drawn at random. Dropout outside of training?"
            return replace(report, diagnoses=(Diagnosis(THIS, note=drawn),))
    return report


def judge_pictures(
    raw: RawTower,
    given: Given,
    got: Mapping[str, Array],
    theirs: Mapping[str, Array] | None = None,
    *,
    name: str = "theirs",
    dtype: str = "float32",
) -> Report:
    """Compare what came of some pictures with `theirs`, or the reference; see `weights.judge`."""
    exact, rough = (Reference(raw, given, kind) for kind in (np.float64, np.float32))
    report = judge(LORE, exact, rough, got, theirs, name=name, dtype=dtype)
    diagnoses = tuple(of_returned(d, got) for d in report.diagnoses)
    if given.pixels is None:
        sizes = {f"{p.shape[1]} x {p.shape[0]}" for p in given.pictures}
        told = f"{len(given.pictures)} pictures of {', '.join(sorted(sizes))}"
    else:
        told = f"{len(given.pixels)} pictures as the file has them, resized and normalised"
    return replace(report, diagnoses=diagnoses, notes=(told, *report.notes))


def of_returned(diagnosis: Diagnosis, got: Mapping[str, Array]) -> Diagnosis:
    """Where a block is right and the state after it is not, the tower returns something else."""
    state, _, number = (diagnosis.until or "").rpartition("_")
    if diagnosis.steps or diagnosis.note or state != "hidden_states":
        return diagnosis
    right = f"layer{int(number) - 1:02}.resid" in got
    return replace(diagnosis, note=RETURNED) if right else diagnosis


def default_pictures(side: int) -> tuple[Array, ...]:
    """Two pictures (height, width, 3) of uint8, always the same: slopes, edges and noise."""
    high, wide = side + side // 2, 2 * side + 1
    y, x = np.mgrid[0:high, 0:wide] / side
    noise = np.random.default_rng(0).normal(size=(2, high, wide, 3))
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y), np.where(x + y > 1.4, 1.0, -0.5)]
    first = np.stack(waves, -1)
    second = np.stack([waves[2], np.sin(11 * x * y), np.cos(4 * x)], -1)
    drawn = 128 + 70 * np.stack([first, second]) + 25 * noise
    return tuple(drawn.clip(0, 255).astype(np.uint8))


def images(given: Given) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in given.pictures]


def prepared(given: Given, raw: RawTower) -> Tensor:
    """(B, 3, S, S) by our own preprocessing, or what the file has."""
    if given.pixels is not None:
        return torch.from_numpy(given.pixels.astype(np.float32))
    return preprocess(images(given), raw.image_size)


def held_as(raw: RawTower, name: str) -> tuple[str, Array]:
    """OpenAI's name of one of our parameters, and what the file holds."""
    return f"visual.{name}", raw.read(f"visual.{name}")


def _arrays(pictures: Sequence[Image.Image]) -> tuple[Array, ...]:
    return tuple(np.asarray(picture.convert("RGB")) for picture in pictures)
