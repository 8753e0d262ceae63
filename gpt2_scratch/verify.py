"""Is this GPT-2 right? Site by site against a reference, and if not, where not, and why.

`verify` judges a folder as `load_gpt2` reads it; `verify_module` judges anybody's nn.Module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gpt2_scratch.diagnose import LORE, WAYS, untied
from gpt2_scratch.layouts import find_folder
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.published import check_published
from gpt2_scratch.raw import Array, RawCheckpoint, open_raw
from gpt2_scratch.recording import read_recording
from gpt2_scratch.reference import Reference, site_names
from gpt2_scratch.sites import default_ids, record_module, record_ours
from weights.compare import Comparison, Difference
from weights.hooks import Sites, silent, spread
from weights.judge import THIS, describe, judge, not_finite, parameter_faults
from weights.recording import check_name, missing_sites, unknown_sites, write_recording
from weights.verdict import Diagnosis, Report

Dtype = Literal["float32", "float16", "bfloat16"]


def verify(
    name_or_folder: str | Path,
    against: str | Path = "reference",
    *,
    tokens: Array | Sequence[Sequence[int]] | None = None,
    logits_only: bool = False,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> Report:
    """Judge a folder as our loader and our model have it.

    `against`: "reference", "transformers" (the same files by its own reader), or an .npz.
    One model is in memory at a time, and of the reference one block.
    """
    folder = find_folder(name_or_folder)
    raw = open_raw(folder)
    if str(against).endswith(".npz"):
        return _against_file(raw, Path(against), tokens, logits_only, dtype, device)
    if against not in ("reference", "transformers"):
        raise ValueError(
            f"against={str(against)!r}; wanted golden, reference, transformers, or a file that ends"
            " in .npz. Choose one of these."
        )
    ids, theirs = _ids(raw, tokens), None
    if against == "transformers":
        from gpt2_scratch.twin import record_transformers

        theirs = record_transformers(raw, torch.from_numpy(ids))
    model = load_gpt2(folder, dtype=getattr(torch, dtype), device=device)
    got = record_ours(model, torch.from_numpy(ids).to(device))
    if logits_only:
        got = {"logits": got["logits"]}
    told, faults = describe(model, folder), parameter_faults(model, partial(held_as, raw))
    del model
    report = judge_ids(raw, ids, got, theirs, name="transformers", dtype=dtype)
    return replace(report, model=told, faults=faults)


def verify_published(
    name_or_folder: str | Path,
    *,
    files: Mapping[str, Path] | None = None,
    slow: bool = False,
    device: str = "cpu",
) -> Report:
    """Hold a folder's model against what others published about OpenAI's weights."""
    folder = find_folder(name_or_folder)
    model = load_gpt2(folder, dtype=torch.float32, device=device)
    figures = check_published(model, folder, files=files, slow=slow)
    return Report(describe(model, folder), "published figures", figures=figures)


def record(
    name_or_folder: str | Path,
    path: Path,
    *,
    tokens: Array | Sequence[Sequence[int]] | None = None,
    logits_only: bool = False,
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> list[str]:
    """Write our model's sites to an .npz for others to be compared with; returns their names."""
    check_name(path)
    folder = find_folder(name_or_folder)
    raw = open_raw(folder)
    ids = _ids(raw, tokens)
    model = load_gpt2(folder, dtype=getattr(torch, dtype), device=device)
    got = record_ours(model, torch.from_numpy(ids).to(device))
    sites = ["logits"] if logits_only else site_names(raw.n_layer)
    arrays = {site: got[site] for site in sites if site in got and site not in WAYS}
    write_recording(path, {"tokens": ids, **arrays})
    return list(arrays)


def verify_module(
    module: nn.Module,
    reference_folder: str | Path,
    sites: Sites | None = None,
    *,
    tokens: Array | Sequence[Sequence[int]] | None = None,
) -> Report:
    """Judge anybody's model of a checkpoint: `module(ids)` gives logits, alone or in an output.

    `sites` says where its intermediates are, under our names: {"layer{}.ln_1": "blocks.{}.norm"};
    `weights.hooks.Place` tells what may stand on the right. Without it, logits alone are compared.
    """
    raw = open_raw(find_folder(reference_folder))
    if strange := unknown_sites(spread(sites or {}, raw.n_layer), site_names(raw.n_layer)):
        raise ValueError(f"no site is called {strange[0]}; gpt2_scratch.sites lists the names.")
    ids = _ids(raw, tokens)
    weight = next(module.parameters(), torch.empty(0))
    here = torch.from_numpy(ids).to(weight.device)
    got = record_module(module, here, sites or {}, raw.n_layer)
    report = judge_ids(raw, ids, got, dtype=str(weight.dtype).removeprefix("torch."))
    notes = (*report.notes, *silent(sites or {}, raw.n_layer, got))
    faults = not_finite(module)
    report = replace(report, model=describe(module, raw.folder), faults=faults, notes=notes)
    if not report.passed:
        again = record_module(module, here, sites or {}, raw.n_layer)["logits"]
        if not np.array_equal(again, got["logits"], equal_nan=True):
            drawn = "Two runs differ: something is drawn at random. Dropout outside of training?"
            return replace(report, diagnoses=(Diagnosis(THIS, note=drawn),))
    return report


def judge_ids(
    raw: RawCheckpoint,
    ids: Array,
    got: Mapping[str, Array],
    theirs: Mapping[str, Array] | None = None,
    *,
    name: str = "theirs",
    dtype: str = "float32",
) -> Report:
    """Compare what came for some ids with `theirs`, or with the reference; see `weights.judge`."""
    exact, rough = (Reference(raw, ids, d, "fused.logits" in got) for d in (np.float64, np.float32))
    if theirs is not None:
        theirs = more_ways_of(theirs, got, ids.shape[1])
    report = judge(LORE, exact, rough, got, theirs, name=name, dtype=dtype)
    sides = {THIS: got, name: theirs or {}}
    diagnoses = tuple(untied(d, sides[d.whose]) for d in report.diagnoses)
    notes = (f"{len(ids)} x {ids.shape[1]} tokens", *report.notes)
    return replace(report, diagnoses=diagnoses, notes=notes)


def more_ways_of(
    theirs: Mapping[str, Array], got: Mapping[str, Array], tokens: int
) -> dict[str, Array]:
    """Their logits are also what ours must be by the fused kernel, with a cache and padded."""
    if "logits" not in theirs:
        return dict(theirs)
    first = {"cached.logits": tokens // 2}
    tails = {way: theirs["logits"][..., first.get(way, 0) :, :] for way in WAYS if way in got}
    return tails | dict(theirs)


def held_as(raw: RawCheckpoint, name: str) -> tuple[str, Array]:
    """OpenAI's name of one of our parameters, and what the file holds."""
    theirs = name.removesuffix(".weight").replace("h.", "h", 1).replace(".", "/")
    return theirs, raw.read(theirs)


def _ids(raw: RawCheckpoint, tokens: Any) -> Array:
    if tokens is None:
        return default_ids(raw.n_vocab, raw.n_ctx).numpy()
    ids = np.atleast_2d(np.asarray(tokens))
    if ids.dtype.kind not in "iu" or ids.ndim != 2 or not ids.size:
        raise ValueError(f"tokens are {ids.shape} of {ids.dtype}, wanted whole numbers (B, T).")
    if ids.shape[1] > raw.n_ctx or ids.min() < 0 or ids.max() >= raw.n_vocab:
        raise ValueError(
            f"tokens are {ids.shape} with ids {ids.min()} to {ids.max()}; this model takes at most"
            f" {raw.n_ctx} of 0 to {raw.n_vocab - 1}. Choose others."
        )
    return ids.astype(np.int64)


def _against_file(
    raw: RawCheckpoint, path: Path, tokens: Any, logits_only: bool, dtype: Dtype, device: str
) -> Report:
    recordings, unknown = read_recording(path, raw, logits_only)
    if tokens is not None and not any(np.array_equal(_ids(raw, tokens), r.ids) for r in recordings):
        raise ValueError(
            f"{path} was recorded with other ids than these tokens. Leave --tokens out: the file's"
            " own are taken."
        )
    model = load_gpt2(raw.folder, dtype=getattr(torch, dtype), device=device)
    differences, diagnoses = list[Difference](), list[Diagnosis]()
    missing, notes = dict[str, None](), dict[str, None]()
    for recording in recordings:
        got = record_ours(model, torch.from_numpy(recording.ids).to(device))
        stored = {str(array.dtype) for array in recording.arrays.values()}
        coarse = "float16" if "float16" in stored and dtype == "float32" else dtype
        report = judge_ids(raw, recording.ids, got, recording.arrays, name=path.name, dtype=coarse)
        assert report.comparison
        differences += [
            replace(d, site=recording.prefix + d.site) for d in report.comparison.differences
        ]
        ours = [site for site in site_names(raw.n_layer) if site in got and site not in WAYS]
        missing |= dict.fromkeys(missing_sites(ours, recording.arrays))
        notes |= dict.fromkeys(report.notes)
        diagnoses += report.diagnoses if not diagnoses else []
    lacks = [f"not in the file: {', '.join(missing)}"] if missing and not logits_only else []
    strange = [f"in the file, but no site: {', '.join(unknown)}"] if unknown else []
    return Report(
        describe(model, raw.folder),
        str(path),
        Comparison(tuple(differences)),
        tuple(diagnoses),
        parameter_faults(model, partial(held_as, raw)),
        (*notes, *lacks, *strange),
    )
