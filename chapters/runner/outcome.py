"""What one check found, as plain data: made in the process that ran the code, told in this one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Each verdict's exit code: 0 right, 1 wrong, 2 usage, 3 not attempted, 4 cannot load,
# 5 time, memory or output, 6 our own fault.
WRONG = (
    *("wrong", "shape", "type", "nan", "none", "input", "gradient", "property"),
    *("raised", "exits", "interrupts", "mutates", "unsteady", "foreign", "writes", "patches"),
)
CODES = {
    "right": 0,
    **dict.fromkeys(WRONG, 1),
    "not attempted": 3,
    **dict.fromkeys(("absent", "empty", "syntax", "missing", "signature", "load", "shadow"), 4),
    **dict.fromkeys(("time", "memory", "output", "died"), 5),
    "fault": 6,
}
# What a verdict is called where there is room for a word or two.
TITLES = {
    "raised": "raises an error",
    "exits": "ends the program",
    "interrupts": "raises KeyboardInterrupt",
    "mutates": "changes its inputs",
    "wrong": "wrong values",
    "shape": "wrong shape",
    "type": "wrong type",
    "nan": "NaN or infinite",
    "gradient": "right values, wrong gradient",
    "property": "wrong beyond the probes",
    "signature": "wrong parameters",
    "unsteady": "two calls, two answers",
    "foreign": "not your code",
    "writes": "writes outside the workspace",
    "patches": "changes torch or Python itself",
    "none": "returns None",
    "input": "returns its input",
    "absent": "no file yet",
    "empty": "empty file",
    "syntax": "syntax error",
    "missing": "name missing",
    "load": "cannot be loaded",
    "shadow": "file named like a package",
    "time": "too slow",
    "memory": "too much memory",
    "output": "too much output",
    "died": "the process died",
    "fault": "the course's own fault",
}


@dataclass
class Stage:
    """One line of the report: a question that was asked, and its answer."""

    name: str
    ok: bool
    detail: str = ""


@dataclass
class Outcome:
    """The report of one exercise. `says` are facts, `think` the question at the end."""

    id: str
    name: str
    verdict: str = "right"
    file: str = ""
    line: int = 0
    hash: str = ""
    seconds: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    says: list[str] = field(default_factory=list)
    diagnosis: str = ""  # the known mistakes in words; "" where none explains it all
    knobs: list[str] = field(default_factory=list)  # named mistakes that explain it all
    candidates: list[list[str]] = field(default_factory=list)  # when several explain it
    where: list[str] = field(default_factory=list)
    think: str = ""
    text: str = ""  # "ch04#scale"
    borrowed: list[str] = field(default_factory=list)
    yours: list[str] = field(default_factory=list)  # earlier pieces of the learner's that were used
    output: str = ""  # what the learner's code printed
    arrays: str = ""  # for -v: expected and got

    @property
    def code(self) -> int:
        return CODES[self.verdict]

    @property
    def title(self) -> str:
        return TITLES.get(self.verdict, self.verdict)

    def data(self) -> dict[str, Any]:
        return asdict(self) | {"code": self.code}

    @classmethod
    def of(cls, data: dict[str, Any]) -> Outcome:
        data = {key: value for key, value in data.items() if key != "code"}
        data["stages"] = [Stage(**stage) for stage in data.get("stages", [])]
        return cls(**data)
