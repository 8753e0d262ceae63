"""RUN/curves.png: loss, WER and BLEU over the steps, drawn anew at each validation."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from weights.store import replacing

FILE = "curves.png"
SMOOTH = 50  # parts of a run: the training loss is averaged over one of them
WAYS = {"teacher-forced": "tab:orange", "free": "tab:blue"}


def columns(path: Path) -> dict[str, np.ndarray]:
    """A table's columns by name; none where the table is not there."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Each value's mean with those before it, at most `width`; what is not finite is left out."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    several = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore"):
        return np.where(several, (sums[ends] - sums[starts]) / several, math.nan)


def steps_skipped(folder: Path) -> int:
    """How many steps of a run, of all its starts, had a loss or gradient that was not finite."""
    steps = columns(folder / "log.csv")
    if not steps:
        return 0
    return int((~np.isfinite(steps["loss"] + steps["gradient_norm"])).sum())


def draw_curves(folder: Path, title: str) -> None:
    """Three panels from `log.csv`, `validation.csv` and `looks.csv` of a run."""
    from matplotlib.figure import Figure

    steps = columns(folder / "log.csv")
    validation, looks = columns(folder / "validation.csv"), columns(folder / "looks.csv")
    figure = Figure(figsize=(13, 4), layout="constrained")
    figure.suptitle(title)
    losses, wer, bleu = figure.subplots(1, 3)
    if steps:
        width = max(1, len(steps["step"]) // SMOOTH)
        losses.plot(steps["step"], steps["loss"], color="0.8", linewidth=0.8)
        mean = smoothed(steps["loss"], width)
        losses.plot(steps["step"], mean, color="0.3", label=f"training, mean of {width}")
    _line(losses, validation, "loss", "tab:blue", "validation")
    shuffled = "loss of shuffled pictures"
    _line(losses, looks, shuffled, "tab:red", "shuffled pictures (some)")
    losses.set(title="loss", xlabel="step", ylabel="nats a token")
    for panel, name, unit in ((wer, "WER", "percent"), (bleu, "BLEU-4", "share")):
        for way, colour in WAYS.items():
            _line(panel, looks, f"{way} {name}", colour, way)
        panel.set(title=f"{name} of the pictures looked at", xlabel="step", ylabel=unit)
        panel.set_ylim(bottom=0)
    for panel in (losses, wer, bleu):
        if panel.get_legend_handles_labels()[0]:
            panel.legend()
        panel.grid(alpha=0.3)
    with replacing(folder / FILE) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _line(panel: object, table: dict[str, np.ndarray], name: str, colour: str, label: str) -> None:
    if name in table:
        points: Sequence[np.ndarray] = (table["step"], table[name])
        panel.plot(*points, color=colour, marker="o", markersize=3, label=label)  # type: ignore[attr-defined]
