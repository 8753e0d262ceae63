"""The command's side of the server: start it early, ask it, and make an outcome of its answer."""

from __future__ import annotations

import atexit
import json
import linecache
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from chapters.runner import source
from chapters.runner.catalog import Entry, entries
from chapters.runner.outcome import Outcome
from chapters.runner.server import SECONDS, WALL
from chapters.runner.workspace import TREE, Workspace

CHECK = "chapters.runner.judge:check_job"


_early: list[subprocess.Popen[bytes]] = []


def start_early() -> None:
    """Start the process that a `Server` will want, so that torch is imported meanwhile."""
    if not _early and hasattr(os, "fork"):
        _early.append(_start())
        atexit.register(_kill_unwanted)


def _kill_unwanted() -> None:
    for process in _early:
        process.kill()


def _start() -> subprocess.Popen[bytes]:
    paths = [str(TREE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: the current folder, most likely the learner's, is no place to import from
        [sys.executable, "-P", "-B", "-m", "chapters.runner.server"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


class Server:
    """`with Server() as server: server.ask({...})`: the process that runs learners' code."""

    def __init__(self) -> None:
        self.process = _early.pop() if _early else None

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            if not hasattr(os, "fork"):
                raise OSError(
                    "Learners' code runs in a fork, which this system doesn't have."
                    " Use Linux, macOS, or on Windows the Windows Subsystem for Linux."
                )
            self.process = _start()
        return self.process

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        self.process.kill()  # it may still be importing torch, for nothing
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        self.process.wait()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; {"fault": ...} where the server itself is gone."""
        process = self.start()
        assert process.stdin and process.stdout and process.stderr
        line = b""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            says = process.stderr.read().decode("utf-8", "replace")
            return {"result": {"fault": says[-6000:] or "the server has ended"}, "printed": ""}
        answer: dict[str, Any] = json.loads(line)
        return answer


def passed(workspace: Workspace, entry: Entry) -> dict[str, str]:
    """{id: file} of the other exercises that pass as they stand: pieces to build on."""
    found = passed_before(workspace, entry.number + 1)
    return {key: file for key, file in found.items() if key != entry.id}


def passed_before(workspace: Workspace, number: int) -> dict[str, str]:
    """{id: file} of the exercises of earlier chapters that pass as they stand."""
    found = {}
    for each in entries():
        if each.number >= number:
            continue
        record, path = workspace.record(each), workspace.file(each.number)
        if record["result"] == "right" and path.is_file():
            read = source.read(each, path)
            if not isinstance(read, Outcome) and read.hash == record["source"]:
                found[each.id] = str(path)
    return found


def check(server: Server, workspace: Workspace, entry: Entry) -> Outcome:
    """One exercise as it stands in the workspace; the result is remembered."""
    path = workspace.file(entry.number)
    found = source.read(entry, path)
    if isinstance(found, Outcome):
        outcome = found
    else:
        server.start()  # importing torch takes longer than what is still to do here
        request = {
            "job": CHECK,
            "id": entry.id,
            "file": str(path),
            "home": str(workspace.home),
            "passed": passed(workspace, entry),
        }
        outcome = outcome_of(server.ask(request), entry, found)
    remember(workspace, entry, outcome)
    return outcome


def outcome_of(answer: dict[str, Any], entry: Entry, found: source.Source) -> Outcome:
    if "result" in answer and "fault" not in answer["result"]:
        outcome = Outcome.of(answer["result"])
    else:
        outcome = Outcome(entry.id, entry.name, "fault", str(found.path), found.line, found.hash)
        if "result" in answer:
            outcome.says = [answer["result"]["fault"]]
        else:
            ended(outcome, answer)
    outcome.output = answer["printed"]
    return outcome


def ended(outcome: Outcome, answer: dict[str, Any]) -> None:
    """The fork was stopped, or stopped by itself."""
    outcome.verdict = answer["ended"]
    if outcome.verdict == "time" and answer.get("at") == "waiting":
        outcome.says = [f"it was still running after {WALL:g} seconds of waiting and was stopped"]
        outcome.think = "what does it wait for: a sleep, an input, a lock, another program?"
    elif outcome.verdict == "time":
        outcome.says = [
            f"it was still running after {SECONDS:g} seconds of computing and was stopped"
        ]
        outcome.think = "which loop has an end that never comes?"
    elif outcome.verdict == "memory":
        outcome.says = ["it took so much memory that the system stopped it"]
    elif outcome.verdict == "output":
        outcome.says = ["it printed more than a million characters and was stopped"]
        outcome.think = "which print stands inside a loop?"
    else:
        outcome.says = [f"the process ended by itself, {_how(answer['status'])}"]
    home = Path(outcome.file).parent
    lines = [(name, line) for name, line in answer["where"] if Path(name) == Path(outcome.file)]
    # else in another file of the learner's, which it is built on
    lines += [(name, line) for name, line in answer["where"] if Path(name).parent == home]
    for name, line in lines[:1]:
        linecache.checkcache(name)  # `watch` has seen it as it was before
        of = "" if Path(name) == Path(outcome.file) else f" of {Path(name).name}"
        outcome.where = [f"line {line}{of}, `{linecache.getline(name, line).strip()}`"]


def _how(status: int) -> str:
    """An exit code, or the name of a signal."""
    if status < 0:
        return f"by {signal.Signals(-status).name}: it broke something beneath Python"
    return f"with code {status}, as os._exit does"


def remember(workspace: Workspace, entry: Entry, outcome: Outcome) -> None:
    """A pass belongs to a source; whatever else is known of an exercise is kept."""
    import time

    if outcome.verdict in ("absent", "fault"):
        return
    record = workspace.record(entry)
    tried = outcome.hash and outcome.hash != record["source"]
    named = outcome.knobs or [name for names in outcome.candidates[:1] for name in names]
    diagnoses = [*record["diagnoses"], *named]
    workspace.update(
        entry,
        result=outcome.verdict,
        source=outcome.hash,
        tries=record["tries"] + bool(tried),
        diagnosis=named,
        diagnoses=list(dict.fromkeys(diagnoses)),
        at=time.strftime("%Y-%m-%dT%H:%M:%S"),
    )
