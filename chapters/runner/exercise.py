"""What an exercise is: words, probes, and a reference whose knobs turn typical mistakes on.

The oracle alone judges: an answer is right when it equals `reference(*inputs)` on every probe.
Knobs, steps and tells only explain, once it is known to be wrong. See `AUTHORS.md`.

Nothing here imports torch; `catalog.words` reads an exercise's words without running its file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# reference(*inputs, knobs=frozenset(), steps={}): the names of the mistakes that are turned on, and
# a dict to write the intermediate steps into, each under the words a report calls it by.
Reference = Callable[..., Any]
Knobs = frozenset[str]
Steps = dict[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """One known mistake, as it is told: `says` a fact, `think` a question, neither the fix.

    `says` is a clause without a full stop: "the scores are not divided by sqrt(D)". `text` is where
    the chapter explains it, "ch04#scale". `confusable` names the knobs that give the same numbers
    on every probe that this project could think of.
    """

    says: str
    think: str
    hint: str
    text: str
    confusable: Sequence[str] = ()


@dataclass(frozen=True)
class Probe:
    """One question to the learner's code: `inputs()` makes the arguments anew, in float64.

    No two axes of its tensors have the same size, so that no mix-up of axes can hide.
    A `tolerance` above 1e-9 has its reason beside it.
    """

    name: str
    inputs: Callable[[], tuple[Any, ...]]
    tolerance: float = 1e-9
    gradient: bool = True  # compare gradients with respect to every float input too


@dataclass(frozen=True)
class Property:
    """What must hold for any right answer and probes alone can't show.

    `holds(answer)` calls `answer(*inputs)` and returns None, or what it found, as one sentence.
    """

    name: str
    holds: Callable[[Callable[..., Any]], str | None]


@dataclass(frozen=True)
class Spot:
    """A wrong solution to read: the `knob` it has, and the line of `source` that does it."""

    source: str
    line: int
    knob: str


def call(answer: Callable[..., Any], *inputs: Any) -> Any:
    """How a function is used: it is called."""
    return answer(*inputs)


@dataclass(frozen=True)
class Exercise:
    """One exercise. `target` names its solution: in the package, or in this same file.

    `use(answer, *inputs)` gives what is compared; for a class it builds, loads and calls.
    `axes` names the axes of the output for messages; one string for each tensor of a tuple or dict.
    """

    name: str
    target: str  # "gpt2_scratch.model:gelu", or "chapters.ch00_warmup.exercises.softmax:softmax"
    minutes: int
    axes: str | Sequence[str]
    reference: Reference
    probes: Sequence[Probe]
    knobs: Mapping[str, Diagnosis]
    hints: Sequence[str]  # a question, the idea with shapes, pseudocode that is no code
    alternatives: Sequence[Any]  # right answers written in other ways, at least three
    needs: Sequence[str] = ()  # names of exercises that it builds on
    use: Callable[..., Any] = call
    properties: Sequence[Property] = ()
    exceptions: Mapping[str, str] = field(default_factory=dict)  # regex -> what it means here
    keep: Sequence[str] = ()  # methods of a class that the stub leaves whole
    starter: str = ""  # name of a function of this file that is the stub, where it isn't empty
    exclusive: Sequence[Sequence[str]] = ()  # groups of knobs of which one answer has one at most
    # Pairs of knobs that don't show, or show as something else, each with the reason; "b+*" is b
    # with any other: {"b+*": "with b nothing is left for another mistake to change"}
    hidden: Mapping[str, str] = field(default_factory=dict)
    # Generic mutants of the solution that are right answers, each with the reason.
    survivors: Mapping[str, str] = field(default_factory=dict)
    contract: Callable[..., str | None] | None = None  # of `break`: what is wrong with an input?
    secrets: Sequence[str] = ()  # knobs for `break`; empty: the first four
    spots: Sequence[Spot] = ()


@dataclass(frozen=True)
class Experiment:
    """A chapter's experiment: one number to predict, then to measure with the learner's code.

    `measure(piece)` gets `piece("gelu")`, the learner's own object where it passes and the
    package's where not, and returns the number and the lines of a table. `band` is where the
    number lies on every machine, with the reason beside it. At most two minutes on two cores.
    """

    asks: str  # "the mean largest weight over 64 random keys, D = 256, without the scale"
    band: tuple[float, float]
    means: str  # what the number shows, told afterwards
    measure: Callable[[Callable[[str], Any]], tuple[float, Sequence[str]]]


@dataclass(frozen=True)
class Chapter:
    """A chapter's `CHAPTER`, in its `__init__.py`: what `list` shows. Exercise i is `N.i`."""

    title: str
    question: str  # what a reader can answer afterwards
    exercises: Sequence[str]  # modules of the folder `exercises`, in order
    needs: Sequence[int] = ()
