"""Arrays by site in an .npz, so that models which share no code, or no machine, can be compared."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from weights.compare import Array
from weights.store import replacing


def write_recording(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, all or none; ValueError where the name is no .npz's."""
    check_name(path)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def check_name(path: Path) -> None:
    """ValueError where a file to be written is not called .npz."""
    if path.suffix != ".npz":
        raise ValueError(f"--record {path} is no .npz, wanted FILE.npz; name it so.")


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of an .npz; never a pickled object."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of several")
        with file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no .npz of plain arrays ({error}). Write it with numpy.savez."
        ) from None


def check_numbers(arrays: Mapping[str, Array], path: Path) -> None:
    """ValueError where one of these sites holds something else than real numbers."""
    for site, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise ValueError(
                f"{path}: {site} is {array.shape} of {array.dtype}, wanted real numbers. Record it"
                " again."
            )


def missing_sites(names: Iterable[str], got: Iterable[str]) -> list[str]:
    """The `names` that are not in `got`; of what every block lacks the last word alone."""
    names, got = list(names), set(got)
    lacks = [site for site in names if site not in got]
    there = {site.partition(".")[2] for site in names if site in got}
    kinds = {site: site.partition(".")[2] for site in lacks}
    return list(dict.fromkeys(k if k and k not in there else site for site, k in kinds.items()))


def prefixes(names: Iterable[str], given: str) -> Iterator[str]:
    """The prefix of each batch of a file: "" and "a." where it holds `given` and `a.given`."""
    for name in names:
        prefix, found, last = name.rpartition(given)
        if found and not last and (not prefix or prefix.endswith(".")):
            yield prefix


def unknown_sites(names: Iterable[str], known: list[str]) -> list[str]:
    """The names that are no sites, each with the one that may be meant."""
    unknown = []
    for name in names:
        if name not in known:
            spelt = re.sub(r"^\D*(\d+)\.", lambda found: f"layer{int(found[1]):02}.", name)
            near = [spelt] if spelt in known else get_close_matches(name, known, n=1, cutoff=0.8)
            unknown.append(f"{name} (did you mean {near[0]}?)" if near else name)
    return unknown


def fit(array: Array, shape: tuple[int, ...], site: str, source: str) -> Array:
    """An array in the shape that is wanted, where it only lies differently."""
    if array.ndim == len(shape) - 1 and shape[0] == 1:
        array = array[None]
    if array.ndim == 4 and len(shape) == 3 and site[-2:] in (".q", ".k", ".v"):
        b, t, c = shape
        if array.shape[::2] == (b, t) and array.size == b * t * c:  # (B, H, T, D)
            array = np.moveaxis(array, 1, 2).reshape(shape)
        elif array.shape[:2] == (b, t) and array.size == b * t * c:  # (B, T, H, D)
            array = array.reshape(shape)
    if array.shape != shape:
        raise ValueError(
            f"{source}: {site} is {array.shape}, wanted {shape}. `--record FILE.npz` writes an"
            " example of every site in its shape."
        )
    return array
