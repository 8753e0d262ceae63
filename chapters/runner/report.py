"""An outcome as a person reads it."""

from __future__ import annotations

import os
import textwrap

from chapters.runner.catalog import Entry
from chapters.runner.outcome import Outcome
from chapters.runner.terminal import printable, say

WIDTH = 100


def tell(outcome: Outcome, entry: Entry | None, *, verbose: bool = False) -> None:
    """The report of one check, the verdict first and last."""
    proof = _proof(outcome)
    say(f"{outcome.id} {outcome.name}", "bold", end="")
    say(f"   {proof}" if proof else "")
    width = max((len(stage.name) for stage in outcome.stages), default=0) + 4
    told = ""
    for stage in outcome.stages:
        say(f"  {stage.name} {'.' * (width - len(stage.name))} ", end="")
        detail = "the same" if stage.detail == told else textwrap.shorten(stage.detail, 90)
        say("ok" if stage.ok else f"WRONG  {detail}", "green" if stage.ok else "red")
        told = stage.detail or told
    style = "green" if outcome.verdict == "right" else "bold red"
    say(f"  {'verdict':<11} {outcome.title}", style)
    for says in outcome.says:
        _part("fact", says)
    if outcome.diagnosis:
        _part("diagnosis", outcome.diagnosis)
    for where in outcome.where:
        _part("where", where)
    if outcome.yours:
        _part("yours too", ", ".join(outcome.yours))
    if outcome.borrowed:
        _part("borrowed", f"{', '.join(outcome.borrowed)}: the package's, until yours passes")
    if outcome.output:
        _part("printed", printable(outcome.output[:2000]).rstrip())
    if verbose and outcome.arrays:
        say(textwrap.indent(outcome.arrays, "    "))
    if outcome.think:
        _part("think", outcome.think)
    if entry:
        _part("more", more(outcome, entry))


def more(outcome: Outcome, entry: Entry) -> str:
    """What to type next."""
    here = "python -m chapters"
    if outcome.verdict == "right":
        return f"{here} next"
    if outcome.verdict == "absent":
        return f"{here} start {entry.number}"
    if outcome.verdict == "fault":
        return f"{here} report {entry.id}"
    parts = [f"hint {entry.id}"]
    if outcome.text:
        parts.append(f"read {entry.number} ({outcome.text})")
    if outcome.code == 1:
        parts.append(f"report {entry.id}")
    return f"{here} " + " · ".join(parts)


def _proof(outcome: Outcome) -> str:
    """Whose code this was: path, line, hash, time."""
    if not outcome.file:
        return ""
    path = outcome.file.replace(os.path.expanduser("~"), "~", 1)
    line = f":{outcome.line}" if outcome.line else ""
    rest = f"  ({outcome.hash[:6]}, {outcome.seconds:.2f} s)" if outcome.hash else ""
    return f"your file {path}{line}{rest}"


def _part(name: str, text: str) -> None:
    first, *rest = text.split("\n")
    lines = textwrap.wrap(first, WIDTH - 14, break_long_words=False, break_on_hyphens=False)
    if first.startswith(" "):  # a line of code under its caret
        lines = [first]
    for i, line in enumerate([*(lines or [""]), *rest]):
        say(f"  {name if not i else '':<11} {line}")
