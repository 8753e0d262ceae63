"""`predict`, `run`, `break`, `spot`: an experiment and three games."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from chapters.runner import games
from chapters.runner.catalog import Entry, find, select
from chapters.runner.client import Server, passed_before
from chapters.runner.outcome import Outcome
from chapters.runner.report import tell
from chapters.runner.terminal import columns, say, say_json
from chapters.runner.workspace import Workspace, write

Number = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="N")]
Id = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


@dataclass(frozen=True)
class Predict:
    """What will the chapter's experiment give? Guess first: `predict N NUMBER`, then `run N`."""

    chapter: Number
    """The chapter's number."""
    number: Annotated[float | None, tyro.conf.Positional, tyro.conf.arg(metavar="NUMBER")] = None
    """What you expect; without: the question."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace, number = Workspace.find(), select(self.chapter)[0].number
        asks = games.experiment(number)["asks"]
        if self.number is not None:
            workspace.note(f"experiment {number}", guess=self.number)
        guess = workspace.noted(f"experiment {number}").get("guess")
        if self.json:
            say_json({"chapter": number, "asks": asks, "guess": guess})
            return 0
        say(f"chapter {number}: {asks}?")
        if guess is None:
            say(f"your guess: python -m chapters predict {number} NUMBER")
        else:
            say(f"your guess  {guess:g}\nmeasure it: python -m chapters run {number}")
        return 0


@dataclass(frozen=True)
class Run:
    """The chapter's experiment, with your code where it passes; at most two minutes."""

    chapter: Number
    """The chapter's number."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        workspace, number = Workspace.find(), select(self.chapter)[0].number
        known = games.experiment(number)
        request = {
            "job": "chapters.runner.games:experiment_job",
            "number": number,
            "home": str(workspace.home),
            "passed": passed_before(workspace, number + 1),
            "seconds": 240.0,
            "wall": 300.0,
            "gibibytes": 4.0,
        }
        with Server() as server:
            answer = server.ask(request)
        found: dict[str, Any] = answer.get("result", {})
        if "number" not in found:
            return failed(answer, Outcome(str(number), "experiment"), self.json)
        low, high = known["band"]
        guess = workspace.noted(f"experiment {number}").get("guess")
        inside = low <= found["number"] <= high
        workspace.note(f"experiment {number}", measured=found["number"])
        if self.json:
            say_json(found | {"guess": guess, "band": [low, high], "inside": inside})
            return int(not inside)
        for line in found["table"]:
            say(line)
        say()
        rows = [
            ["asked", known["asks"]],
            ["your guess", "none" if guess is None else f"{guess:g}"],
            ["measured", f"{found['number']:.6g}"],
            ["expected", f"{low:g} to {high:g}"],
            ["yours", ", ".join(found["yours"]) or "nothing yet"],
            ["borrowed", ", ".join(found["borrowed"]) or "nothing"],
        ]
        for line in columns(rows):
            say(line)
        if not inside:
            say("outside the band: something in the pieces, or in this machine, is unusual", "red")
        say(f"\n{known['means']}")
        return int(not inside)


@dataclass(frozen=True)
class Break:
    """A mistake is hidden in the function: write an input on which it shows."""

    id: Id
    """An exercise, by id or name."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        entry, workspace = find(self.id), Workspace.find()
        path = workspace.home / f"break_{entry.id.replace('.', '_')}.py"
        if not path.exists():
            write(path, games.break_text(entry))
        order = games.secrets(entry.words)
        found = [name for name in workspace.record(entry).get("broken", []) if name in order]
        request = {
            "job": "chapters.runner.games:break_job",
            "id": entry.id,
            "file": str(path),
            "home": str(workspace.home),
        }
        with Server() as server:
            answer = server.ask(request)
        result: dict[str, Any] = answer.get("result", {})
        if "shows" not in result:
            outcome = Outcome(entry.id, f"break {entry.name}", file=str(path))
            return failed(answer, outcome, self.json, entry)
        turn = next((name for name in order if name not in found), None)
        hit = turn is not None and result["shows"][turn]
        if turn is not None and hit:
            found.append(turn)
            workspace.update(entry, broken=found)
        left = [name for name in order if name not in found]
        if self.json:
            says = {"id": entry.id, "shown": bool(hit), "found": found, "left": len(left)}
            say_json(says | {"numbers": result["size"]})
            return int(bool(left))
        number = order.index(turn) + 1 if turn else len(order)
        say(f"break {entry.id}   {path}   a probe of {result['size']} numbers")
        if turn is None:
            say("all mistakes are found already")
        elif hit:
            says = entry.words["knobs"][turn].says
            say(f"  mistake {number} of {len(order)}: it shows. It was `{turn}`: {says}", "green")
        else:
            say(f"  mistake {number} of {len(order)}: both give the same on this input", "red")
        if left:
            say(f"  {len(left)} left; the next one takes a probe of its own")
        return int(bool(left))


@dataclass(frozen=True)
class Spot:
    """A wrong solution is printed: which line is it?"""

    id: Id
    """An exercise, by id or name."""
    line: Annotated[int | None, tyro.conf.Positional, tyro.conf.arg(metavar="LINE")] = None
    """Your answer; without: the code."""
    json: bool = False
    """For programs."""

    def run(self) -> int:
        entry, workspace = find(self.id), Workspace.find()
        turn = workspace.record(entry).get("spotted", 0)
        chosen, says = games.spot(entry, turn)
        if self.line is None:
            lines = chosen.source.splitlines()
            if self.json:
                say_json({"id": entry.id, "source": chosen.source})
                return 0
            for number, line in enumerate(lines, 1):
                say(f"{number:>3}  {line}")
            say(f"\nwhich line is wrong? python -m chapters spot {entry.id} LINE")
            return 0
        right = self.line == chosen.line
        if right:
            workspace.update(entry, spotted=turn + 1)
        if self.json:
            say_json({"id": entry.id, "right": right, "says": says if right else ""})
        elif right:
            say(f"line {self.line} it is: {says}", "green")
            say(f"another one: python -m chapters spot {entry.id}")
        else:
            say(f"line {self.line} is as it should be; look again", "red")
        return int(not right)


def failed(answer: dict[str, Any], outcome: Outcome, json: bool, entry: Entry | None = None) -> int:
    """Tell of a job that has no result of its own kind."""
    from chapters.runner.client import ended

    result = answer.get("result", {})
    if "outcome" in result:
        outcome = Outcome.of(result["outcome"])
    elif "fault" in result:
        outcome.verdict, outcome.says = "fault", [result["fault"]]
    else:
        ended(outcome, answer)
    outcome.output = answer.get("printed", "")
    if json:
        say_json(outcome.data())
    else:
        tell(outcome, entry)
    return outcome.code
