"""Sites of an image tower in a file, whoever computed them.

An .npz with `pixel_values` (B, 3, S, S), what the tower was given, and an array for each site, as
`sites.py` names and shapes them; as few as `image_features`. Where `pictures` (B, height, width, 3)
of uint8 are there too, `pixel_values` are what became of them and a site like the others.
transformers' names do as well: `hidden_states` (states, B, T, W), `last_hidden_state`,
`pooler_output`, `image_embeds`, `embeddings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from connector.raw import RawTower
from connector.reference import Given, site_names
from weights.compare import Array
from weights.recording import check_numbers, read_arrays, unknown_sites


@dataclass(frozen=True)
class Recording:
    """What a file holds: the input, arrays by site, and the names that are no site."""

    given: Given
    arrays: dict[str, Array]
    unknown: list[str]
    states: int = 0  # how many there are in one array, where they are


def read_recording(path: Path, raw: RawTower) -> Recording:
    """The sites of a file; ValueError says what it lacks, or what does not fit the tower."""
    held = read_arrays(path)
    known = site_names(raw.layers, raw.projection > 0)
    if "pixel_values" not in held:
        found = ", ".join(list(held)[:6]) or "nothing"
        raise ValueError(
            f"{path} holds {found}; wanted `pixel_values` (B, 3, S, S) and arrays named"
            f" {', '.join(known[2:4])}, ..., {known[-1]}. `--record FILE.npz` writes an example."
        )
    pixels, pictures = held["pixel_values"], held.get("pictures")
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    side = raw.image_size
    if pixels.shape[1:] != (3, side, side) or pixels.dtype.kind != "f" or not len(pixels):
        raise ValueError(
            f"{path}: pixel_values is {pixels.shape} of {pixels.dtype}, wanted (B, 3, {side},"
            f" {side}) of floats, normalised. Is the file another tower's?"
        )
    arrays = {site: held[site] for site in known if site in held} | {"pixel_values": pixels}
    names = aliases(raw.layers)
    for theirs, site in names.items():
        if theirs in held and site in known:
            arrays.setdefault(site, held[theirs])
    stacked = held.get("hidden_states", np.empty(0))
    states = stacked[: raw.layers + 1] if stacked.ndim > 2 else ()
    for n, state in enumerate(states):
        arrays.setdefault(f"hidden_states_{n:02}", state)
    check_numbers(arrays, path)
    count = len(stacked) if stacked.ndim > 2 else 0
    used = {*arrays, *names, "pictures", "hidden_states"}
    strange = unknown_sites((name for name in held if name not in used), known)
    if pictures is None:
        del arrays["pixel_values"]
        if not arrays:
            raise ValueError(
                f"{path} holds no site beside pixel_values. Add some: {', '.join(known[2:5])}, ..."
            )
        return Recording(Given(pixels=pixels), arrays, strange, count)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(
            f"{path}: pictures is {pictures.shape} of {pictures.dtype}, wanted (B, height, width,"
            " 3) of uint8. Leave them out if there are none."
        )
    if len(pictures) != len(pixels):
        raise ValueError(
            f"{path} has {len(pictures)} pictures and pixel_values of {len(pixels)}, wanted as"
            " many. Record both in one run."
        )
    return Recording(Given(tuple(pictures)), arrays, strange, count)


def aliases(layers: int) -> dict[str, str]:
    """What transformers calls some of the sites."""
    return {
        "embeddings": "embed",
        "last_hidden_state": f"hidden_states_{layers:02}",
        "pooler_output": "ln_post",
        "image_embeds": "image_features",
    }
