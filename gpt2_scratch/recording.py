"""Intermediates in a file, so that models which share no code, or no machine, can be compared.

An .npz with `tokens`, whole numbers (B, T), and an array for each site, as `sites.py` names and
shapes them: logits at least. Two batches share a file under prefixes: `a.tokens`, `a.logits`. q, k
and v may also be (B, H, T, D), and a batch of one row may lack its axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2_scratch.raw import Array, RawCheckpoint
from gpt2_scratch.reference import site_names
from weights.recording import check_numbers, prefixes, read_arrays, unknown_sites


@dataclass(frozen=True)
class Recording:
    """One batch of a file: its ids and its arrays by site."""

    prefix: str
    ids: Array
    arrays: dict[str, Array]


def read_recording(
    path: Path, raw: RawCheckpoint, logits_only: bool = False
) -> tuple[list[Recording], list[str]]:
    """The batches of a file, and a line for each name in it that is no site of this model."""
    held = read_arrays(path)
    known = site_names(raw.n_layer)
    batches, used = [], set()
    for prefix in prefixes(held, "tokens"):
        name = f"{prefix}tokens"
        arrays = {site: held[prefix + site] for site in known if prefix + site in held}
        arrays |= _present(held.get(f"{prefix}present"), prefix, arrays, raw)
        if not arrays:
            continue
        check_numbers({prefix + site: array for site, array in arrays.items()}, path)
        if "logits" not in arrays:
            raise ValueError(
                f"{path} has no {prefix}logits beside {name}. Record the model's output, too."
            )
        if set(arrays) == {"logits"} and not logits_only:
            raise ValueError(
                f"{path} holds no site but logits, which can't show where a model goes wrong."
                f" Add sites ({', '.join(known[:3])}, ...), or pass --logits-only."
            )
        used |= {name, f"{prefix}present", *(prefix + site for site in arrays)}
        if logits_only:
            arrays = {"logits": arrays["logits"]}
        batches.append(Recording(prefix, _ids(held[name], f"{path}: {name}", raw), arrays))
    if not batches:
        found = ", ".join(list(held)[:6]) or "nothing"
        raise ValueError(
            f"{path} holds {found}; wanted `tokens` (B, T) and arrays named {', '.join(known[:2])},"
            " ..., logits. `--record FILE.npz` writes an example."
        )
    return batches, unknown_sites((name for name in held if name not in used), known)


def _ids(tokens: Array, name: str, raw: RawCheckpoint) -> Array:
    tokens = tokens[None] if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.size == 0:
        raise ValueError(
            f"{name} is {tokens.shape} of {tokens.dtype}, wanted whole numbers (B, T)."
        )
    if tokens.shape[1] > raw.n_ctx or tokens.min() < 0 or tokens.max() >= raw.n_vocab:
        raise ValueError(
            f"{name} is {tokens.shape} with ids {tokens.min()} to {tokens.max()}; this model takes"
            f" at most {raw.n_ctx} tokens of 0 to {raw.n_vocab - 1}. Is the file another model's?"
        )
    return tokens.astype(np.int64)


def _present(
    present: Array | None, prefix: str, arrays: dict[str, Array], raw: RawCheckpoint
) -> dict[str, Array]:
    """OpenAI's code returns keys and values as one array (B, L, 2, H, T, D)."""
    if present is None or present.ndim != 6 or present.shape[1:3] != (raw.n_layer, 2):
        return {}
    pairs = [(layer, part, name) for layer in range(raw.n_layer) for part, name in enumerate("kv")]
    sites = {f"layer{layer:02}.{name}": present[:, layer, part] for layer, part, name in pairs}
    return {site: array for site, array in sites.items() if site not in arrays}
