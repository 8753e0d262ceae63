"""Is this GPT-2 right? Site by site against a reference, and if not, where not, and why.

`verify` judges a folder as `load_gpt2` reads it; `verify_module` judges anybody's nn.Module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gpt2_scratch.diagnose import SETTINGS, coarse_allowances, diagnose
from gpt2_scratch.layouts import find_folder
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.model import GPT2
from gpt2_scratch.published import check_published
from gpt2_scratch.raw import Array, RawCheckpoint, open_raw
from gpt2_scratch.recording import fit, read_recording, unknown_sites, write_recording
from gpt2_scratch.reference import Reference, site_names
from gpt2_scratch.sites import default_ids, record_module, record_ours
from weights.compare import Comparison, allowances, compare
from weights.hooks import Sites, spread
from weights.verdict import Diagnosis, Report

THIS = "this model"
REFERENCE = "a reference of its own, in plain numpy and float64, which reads the files itself"
SAYS = {mistake.name: mistake.says for mistake in MISTAKES} | SETTINGS
# The same logits on other ways, and what it means if such a one alone is wrong.
WAYS = {
    "fused.logits": "Only attention='sdpa' is wrong: look at fused_attention.",
    "cached.logits": "Only going on from a cache is wrong: look at positions, mask and KVCache.",
    "padded.logits": "Only padding on the left is wrong: look at positions and mask.",
}
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
    told, faults = describe(model, folder), parameter_faults(model, raw)
    del model
    report = judge(raw, ids, got, theirs, name="transformers", dtype=dtype)
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
    if path.suffix != ".npz":
        raise ValueError(f"--record {path} is no .npz, wanted FILE.npz; name it so.")
    folder = find_folder(name_or_folder)
    raw = open_raw(folder)
    ids = _ids(raw, tokens)
    model = load_gpt2(folder, dtype=getattr(torch, dtype), device=device)
    got = record_ours(model, torch.from_numpy(ids).to(device))
    sites = ["logits"] if logits_only else site_names(raw.n_layer)
    arrays = {site: got[site] for site in sites if site in got and site not in WAYS}
    write_recording(path, ids, arrays)
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
    report = judge(raw, ids, got, dtype=str(weight.dtype).removeprefix("torch."))
    report = replace(report, model=describe(module, raw.folder))
    if not report.passed:
        again = record_module(module, here, {}, raw.n_layer)["logits"]
        if not np.array_equal(again, got["logits"], equal_nan=True):
            drawn = "Two runs differ: something is drawn at random. Dropout outside of training?"
            return replace(report, diagnoses=(Diagnosis(THIS, note=drawn),))
    return report


def judge(
    raw: RawCheckpoint,
    ids: Array,
    got: Mapping[str, Array],
    theirs: Mapping[str, Array] | None = None,
    *,
    name: str = "theirs",
    dtype: str = "float32",
) -> Report:
    """Compare `got` with `theirs`, or with the reference; whoever differs from that is diagnosed.

    `dtype` is the coarser of the two: what rounding may do depends on it.
    """
    reference = Reference(raw, ids, extras="fused.logits" in got)
    exact = {site: array for site, array in reference.walk() if site in got}
    sides = {THIS: fitted(got, exact, THIS)}
    rough = Reference(raw, ids, np.float32, reference.extras)
    if dtype in ("float16", "bfloat16"):
        allowed = coarse_allowances(rough, exact, dtype)
    else:
        rounded = {site: array for site, array in rough.walk() if site in got}
        allowed = allowances(exact, rounded, "float32")
    if theirs is not None:
        sides[name] = more_ways_of(fitted(theirs, exact, name), exact)
    wanted = exact if theirs is None else sides[name]
    comparison = compare(sides[THIS], wanted, allowed, order=list(allowed))
    if not comparison.differences:
        raise ValueError(f"{name} and this model have no site in common. Record more sites.")
    diagnoses = []
    if not comparison.passed:
        for whose, arrays in sides.items():
            found = diagnose(raw, ids, arrays, exact, allowed)
            if found.steps or found.until:
                note = "" if found.steps else WAYS.get(found.until or "", "")
                diagnoses.append(Diagnosis(whose, found.steps, found.until, note, SAYS))
    against = REFERENCE if theirs is None else name
    notes = [f"{len(ids)} x {ids.shape[1]} tokens"]
    if dtype in ("float16", "bfloat16"):
        notes.append(f"in {dtype}, whose rounding hides small mistakes: float32 shows them")
    return Report("", against, comparison, tuple(diagnoses), notes=tuple(notes))


def fitted(
    arrays: Mapping[str, Array], exact: Mapping[str, Array], source: str
) -> dict[str, Array]:
    """The arrays of known sites, each in the shape that its site has."""
    return {
        site: fit(array, exact[site].shape, site, source)
        for site, array in arrays.items()
        if site in exact
    }


def more_ways_of(theirs: dict[str, Array], exact: Mapping[str, Array]) -> dict[str, Array]:
    """Their logits are also what ours must be by the fused kernel, with a cache and padded."""
    if "logits" not in theirs:
        return theirs
    tails = {way: theirs["logits"][:, -exact[way].shape[1] :] for way in WAYS if way in exact}
    return tails | theirs


def parameter_faults(model: GPT2, raw: RawCheckpoint) -> tuple[str, ...]:
    """A line for each parameter that is not, number by number, what the file holds."""
    faults = []
    for name, parameter in model.named_parameters():
        theirs = name.removesuffix(".weight").replace("h.", "h", 1).replace(".", "/")
        wanted = torch.from_numpy(raw.read(theirs)).to(parameter.dtype)
        if parameter.shape != wanted.shape or not torch.equal(parameter.detach().cpu(), wanted):
            faults.append(f"Parameter {name} is not what the file holds as {theirs}.")
    return tuple(faults)


def describe(module: nn.Module, folder: Path) -> str:
    """One line: whose, how many numbers, of what type."""
    parameters = {id(p): p for p in module.parameters()}.values()
    kinds = {str(p.dtype).removeprefix("torch.") for p in parameters}
    count = sum(p.numel() for p in parameters)
    return f"{type(module).__name__} of {folder}: {count:,} parameters, {', '.join(sorted(kinds))}"


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
    differences, missing, diagnoses = [], dict[str, None](), list[Diagnosis]()
    for recording in recordings:
        got = record_ours(model, torch.from_numpy(recording.ids).to(device))
        stored = {str(array.dtype) for array in recording.arrays.values()}
        coarse = "float16" if "float16" in stored and dtype == "float32" else dtype
        report = judge(raw, recording.ids, got, recording.arrays, name=path.name, dtype=coarse)
        assert report.comparison
        differences += [
            replace(d, site=recording.prefix + d.site) for d in report.comparison.differences
        ]
        missing |= {
            site[8:]: None for site in got if site not in recording.arrays and site[:5] == "layer"
        }
        diagnoses += report.diagnoses if not diagnoses else []
    lacks = [f"not in the file: {', '.join(missing)}"] if missing and not logits_only else []
    strange = [f"in the file, but no site: {', '.join(unknown)}"] if unknown else []
    return Report(
        describe(model, raw.folder),
        str(path),
        Comparison(tuple(differences)),
        tuple(diagnoses),
        parameter_faults(model, raw),
        (*lacks, *strange),
    )
