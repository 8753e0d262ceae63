"""Numbers that others published about real weights, held against a model, each with its source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from weights.verdict import Figure, Status

Fact = dict[str, Any]
Answer = tuple[bool, str]  # whether it holds, and what came


class NotRun(Exception):
    """Says why a figure can't be checked here."""


def read_facts(path: Path) -> list[Fact]:
    """The published figures of a `golden.json`."""
    return json.loads(path.read_text("utf-8"))["facts"]


def check_figures(
    facts: Iterable[Fact],
    size: str | None,
    check: Callable[[Fact, Path | None], Answer],
    files: Mapping[str, Path] | None = None,
) -> tuple[Figure, ...]:
    """Every figure: pass, fail, or not run and why, with its source.

    `size`: the published model whose sizes this one has; `files`: what figures need, by their id.
    """
    facts, files, checked = list(facts), files or {}, []
    able = [fact["id"] for fact in facts if "file" in fact]
    if strange := sorted(files.keys() - set(able)):
        raise ValueError(f"no figure {strange[0]!r} takes a file; wanted one of {', '.join(able)}.")
    for fact in facts:
        other = fact["model"] not in (size, "any")
        status: Status = "not run"
        try:
            if other:
                raise NotRun(f"is about {fact['model']}; this model has {size or 'other'} sizes")
            if fact["kind"] == "elsewhere":
                raise NotRun(fact["because"])
            right, says = check(fact, files.get(fact["id"]))
            status = "pass" if right else "fail"
        except NotRun as why:
            says = str(why)
        source = f"{fact['source']} (reliability: {fact['reliability']})"
        checked.append(Figure(fact["id"], status, says, source, other))
    return tuple(checked)


def within(got: torch.Tensor, wanted: Any, fact: Fact) -> Answer:
    """Whether all numbers are as near as the figure was published, and the largest distance."""
    far = float((got.double().cpu() - torch.tensor(wanted, dtype=torch.float64)).abs().max())
    right = far <= fact["atol"]  # False for a NaN
    return right, f"{got.numel()} numbers, at most {far:.1e} off, wanted {fact['atol']:.1e}"


def read_file(fact: Fact, file: Path | None) -> bytes:
    """What a figure is about; NotRun without it, ValueError where the file is another one."""
    if file is None:
        raise NotRun(f"needs a file, {fact['file']['what']}: pass --file {fact['id']}=PATH")
    content = file.read_bytes()
    got = sha256(content).hexdigest()
    if got != fact["file"].get("sha256", got):
        raise ValueError(
            f"{file} has SHA-256 {got}, wanted {fact['file']['sha256']}, that of"
            f" {fact['file']['what']}. Get that one."
        )
    return content


def given_files(words: Iterable[str]) -> dict[str, Path]:
    """`FIGURE=PATH` words of a command line, as `check_figures` takes them."""
    files = {}
    for given in words:
        figure, sign, path = given.partition("=")
        if not sign:
            raise ValueError(f"got --file {given}, wanted FIGURE=PATH; name the figure.")
        files[figure] = Path(path)
    return files
