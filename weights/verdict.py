"""What a verification found: sites, published figures, the mistakes behind it; as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from weights.compare import Comparison

Status = Literal["pass", "fail", "not run"]


@dataclass(frozen=True)
class Figure:
    """One published number: whether this model gives it, and who published it."""

    id: str
    status: Status
    says: str  # what came and what was wanted, or why it was not run
    source: str
    other: bool = False  # about another model than this

    def __str__(self) -> str:
        return f"{self.status:8} {self.id}: {self.says}\n         {self.source}"


@dataclass(frozen=True)
class Diagnosis:
    """Whose numbers are wrong, and the mistakes that, made together, give them.

    The names in one step do equally well. `says` is the fact that each of them gets wrong; `note`
    stands where no reference gives these very numbers.
    """

    whose: str
    steps: tuple[tuple[str, ...], ...] = ()  # name, or name@3, name@ln_f where it is there alone
    until: str | None = None  # the first site that they leave unexplained
    note: str = ""
    says: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Every mistake that is named, without its block."""
        return tuple(dict.fromkeys(n.partition("@")[0] for step in self.steps for n in step))

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            told = [name.partition("@") for name in step]
            where = [n + (f" (in {_place(at)} alone)" if at else "") for n, _, at in told]
            lines.append(f"Why, in {self.whose}: {', or as likely '.join(where)}.")
            lines += [f"    {self.says[n]}" for n, _, _ in told if n in self.says]
        if self.steps and self.until is None and not self.note:
            made = "Both" if len(self.steps) == 2 else "All" if len(self.steps) > 2 else ""
            lines.append(f"    {made} {'m' if made else 'M'}ade on purpose in a reference".lstrip())
            lines[-1] = f"    {lines[-1].strip()}: the same numbers."
        elif self.steps and self.until:
            lines.append(f"    From {self.until} on something else is wrong as well.")
        elif self.note and not self.steps:
            return f"Why, in {self.whose}: {self.note}"
        elif not self.note:
            lines.append(
                f"Why, in {self.whose}: none of the {len(self.says)} known mistakes gives these"
                " numbers. Is it the same checkpoint on both sides?"
            )
        return "\n".join([*lines, *([f"    {self.note}"] if self.note else [])])


def _place(at: str) -> str:
    return f"block {at}" if at.isdigit() else "the blocks" if at == "blocks" else at


@dataclass(frozen=True)
class Report:
    """`str(report)` is the table, the reasons and, in the last line, the verdict."""

    model: str
    against: str
    comparison: Comparison | None = None
    diagnoses: tuple[Diagnosis, ...] = ()
    faults: tuple[str, ...] = ()  # what is wrong beside sites and figures
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether anything could be compared at all."""
        return self.comparison is not None or any(f.status != "not run" for f in self.figures)

    @property
    def passed(self) -> bool:
        """All sites pass, and all published figures that could be run; something was."""
        sites = self.comparison is None or self.comparison.passed
        figures = all(figure.status != "fail" for figure in self.figures)
        return self.ran and sites and figures and not self.faults

    @property
    def code(self) -> int:
        """The exit code: 0 where all passes, 1 where something fails, 2 where nothing could run."""
        return 0 if self.passed else 1 if self.ran or self.faults else 2

    @property
    def first_jump(self) -> str | None:
        """The first site whose error is 30 times that of the site before."""
        jump = self.comparison.first_jump if self.comparison else None
        return jump.site if jump else None

    @property
    def first_failed(self) -> str | None:
        """The first site that is further off than rounding can be."""
        failed = self.comparison.first_failed if self.comparison else None
        return failed.site if failed else None

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why, for the first side that is wrong; None where none is."""
        return self.diagnoses[0] if self.diagnoses else None

    def __str__(self) -> str:
        lines = [self.model, f"against {self.against}", *self.notes, ""]
        if self.comparison:
            lines += [str(self.comparison), ""]
        if self.figures:
            lines += [str(figure) for figure in self.figures if not figure.other]
            if others := [figure.id for figure in self.figures if figure.other]:
                lines.append(f"not run  {len(others)} about other models: {', '.join(others)}")
            lines.append("")
        return "\n".join([*lines, *self.faults, *map(str, self.diagnoses), self.verdict()])

    def verdict(self) -> str:
        """One line: what passed, what failed."""
        parts = []
        if self.comparison:
            sites = self.comparison.differences
            wrong = sum(not d.passed for d in sites)
            parts.append(f"{len(sites) - wrong} of {len(sites)} sites pass")
            if self.first_failed:
                parts.append(f"the first that fails is {self.first_failed}")
        if self.figures:
            held = [figure.status for figure in self.figures]
            counts = [f"{held.count(s)} {s}" for s in ("pass", "fail", "not run")]
            parts.append(f"published figures: {', '.join(counts)}")
        word = "PASS" if self.passed else ("FAIL", "NOT RUN")[self.code - 1]
        return f"{word}: {'; '.join(parts) or 'nothing could be compared'}."

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        empty: dict[str, Any] = {"first_jump": None, "first_failed": None, "sites": []}
        return {
            "model": self.model,
            "against": self.against,
            **(self.comparison.as_json() if self.comparison else empty),
            "passed": self.passed,
            "diagnosis": [
                {
                    "whose": d.whose,
                    "steps": d.steps,
                    "until": d.until,
                    "note": d.note,
                    "text": str(d),
                }
                for d in self.diagnoses
            ],
            "faults": list(self.faults),
            "notes": list(self.notes),
            "figures": [asdict(figure) for figure in self.figures],
        }
