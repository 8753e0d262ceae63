"""The process that runs learners' code: torch is imported once, then each request is a fork.

`python -m chapters.runner.server` reads one JSON request a line and answers with one. The fork has
limits of time, memory and output, writes nothing outside the workspace, and can only harm itself.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

SECONDS, WALL = 8.0, 20.0  # for the learner's code: the processor's, the wall's; 0.1 is usual
PATIENCE = 60.0  # with our own, before and after
GIBIBYTE = 1 << 30
OUTPUT = 1 << 20  # bytes that may be printed
SHOWN = 4000  # of them, kept for the report
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime"),
)
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")


def main() -> None:
    """Serve until the other side closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that was stopped closes the pipe
    import torch

    torch.set_num_threads(1)  # small tensors; and forks are safe while no thread runs
    while line := _line():
        _send(answers, serve(json.loads(line)))


def _line() -> bytes:
    """One request, read byte by byte so that `select` sees whether there is more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _send(stream: BinaryIO, data: dict[str, Any]) -> None:
    stream.write(json.dumps(data).encode() + b"\n")
    stream.flush()


def serve(request: dict[str, Any]) -> dict[str, Any]:
    """{"result": ...} of one request, or {"ended": why, "where": [...]}; and what was printed."""
    out, out_end = os.pipe()
    result, result_end = os.pipe()
    stack, stack_end = os.pipe()
    pid = os.fork()
    if not pid:
        for fd in (out, result, stack):
            os.close(fd)
        _work(request, out_end, result_end, stack_end)
    for fd in (out_end, result_end, stack_end):
        os.close(fd)
    try:
        return _watch(pid, out, result, stack, request)
    finally:
        _kill(pid)
        for fd in (out, result, stack):
            os.close(fd)


def _watch(pid: int, out: int, result: int, stack: int, request: dict[str, Any]) -> dict[str, Any]:
    """Read what the fork says until it has said all, or until it has had enough of something."""
    clock = _Clock(pid, PATIENCE, PATIENCE)
    printed, count, answer = b"", 0, b""
    waiting = [out, result, 0]
    while result in waiting:
        ready, _, _ = select.select(waiting, [], [], 0.2)
        if 0 in ready:  # a closed pipe: whoever asked has gone
            _kill(pid)
            os._exit(0)
        for fd in ready:
            data = os.read(fd, 1 << 16)
            if not data:
                waiting.remove(fd)
            elif fd == result:
                answer += data
                if answer.endswith(b"began\n"):
                    clock = _Clock(pid, request.get("seconds", SECONDS), request.get("wall", WALL))
                elif answer.endswith(b"explaining\n"):
                    clock = _Clock(pid, PATIENCE, PATIENCE)
            else:
                count += len(data)
                printed = (printed + data)[:SHOWN]
        if count > OUTPUT or (why := clock.out()):
            ended = _ended("output" if count > OUTPUT else "time", printed, _stack(pid, stack))
            return ended | {"at": "" if count > OUTPUT else why}
    text = answer.removeprefix(b"began\n").removeprefix(b"explaining\n")
    if text:
        return {"result": json.loads(text), "printed": printed.decode("utf-8", "replace")}
    _, status = os.waitpid(pid, 0)
    killed = os.waitstatus_to_exitcode(status)
    why = "memory" if killed == -signal.SIGKILL else "died"
    return _ended(why, printed, []) | {"status": killed}


class _Clock:
    """Seconds of the processor, and seconds of waiting, that a process still has.

    On a busy machine time goes by without the process having had its turn: that isn't counted.
    """

    def __init__(self, pid: int, seconds: float, wall: float) -> None:
        self.pid, self.wall = pid, wall
        self.used, self.seen = _processor(pid), time.monotonic()
        self.seconds = seconds + self.used

    def out(self) -> str:
        """Why it must stop now, or ""."""
        now, used = time.monotonic(), _processor(self.pid)
        if used == self.used and not _ready(self.pid):
            self.wall -= now - self.seen
        self.used, self.seen = used, now
        return "computing" if used > self.seconds else "waiting" if self.wall < 0 else ""


def _ready(pid: int) -> bool:
    """Whether a process would go on if it had its turn; False where the system doesn't tell."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "R"


def _processor(pid: int) -> float:
    """Seconds that a process has computed; 0 where the system doesn't tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ended(why: str, printed: bytes, where: list[list[Any]]) -> dict[str, Any]:
    return {"ended": why, "where": where, "printed": printed.decode("utf-8", "replace")}


def _stack(pid: int, stack: int) -> list[list[Any]]:
    """Where the fork is just now, innermost first: [file, line], as faulthandler writes it."""
    import re

    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return []
    text, end = b"", time.monotonic() + 0.5
    while select.select([stack], [], [], max(0.0, end - time.monotonic()))[0]:
        data = os.read(stack, 1 << 16)
        if not data:
            break
        text, end = text + data, time.monotonic() + 0.05
    found = re.findall(r'File "(.*?)", line (\d+)', text.decode("utf-8", "replace"))
    return [[name, int(line)] for name, line in found]


def _kill(pid: int) -> None:
    """The fork and whatever it started."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _work(request: dict[str, Any], out: int, result: int, stack: int) -> None:
    """The fork: runs the job, writes its result, and ends without running anybody's clean-up."""
    import faulthandler

    import torch

    from chapters.runner import landlock

    os.setsid()
    for fd, goal in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (out, 2)):
        os.dup2(fd, goal)
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
    torch.manual_seed(0)
    module, _, name = request["job"].partition(":")
    try:
        job = getattr(import_module(module), name)
        _limit_memory(int(request.get("gibibytes", 1.0) * GIBIBYTE))
        _guard(Path(request["home"]))
        landlock.write_only_in(request["home"])
        answer = job(request, lambda phase: os.write(result, f"{phase}\n".encode()))
    except BaseException as error:  # the job catches what learners raise: this is ours
        import traceback

        text = "".join(traceback.format_exception(error))
        answer = {"fault": text[-6000:]}
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # it may have been closed, or be another thing by now
            stream.flush()
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(result, data) :]
    os._exit(0)


def _limit_memory(extra: int) -> None:
    """What is mapped now and so much more; where the system can't count it, no limit."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + extra
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (OSError, ValueError):
        pass


def _guard(home: Path) -> None:
    """From now on, whatever would write outside `home` or start a program is refused."""
    inside = tempfile.tempdir = os.path.realpath(home)  # torch asks for one when it is imported

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike) or path == os.devnull:
            return False
        place = os.path.realpath(os.fsdecode(path))
        return not (place == inside or place.startswith(inside + os.sep))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (flags or 0) & WRITING or (isinstance(mode, str) and set(mode) & set("wax+"))
            if writes and outside(path):
                raise PermissionError(f"it would write {path}, which is outside the workspace")
        elif event in CHANGES or event.startswith("shutil."):
            for path in arguments:
                if isinstance(path, str) and outside(path):
                    raise PermissionError(f"it would change {path}, which is outside the workspace")
        elif event in ("os.kill", "os.killpg"):
            raise PermissionError("it would send a signal, which could end another program")
        elif event in PROGRAMS:
            raise PermissionError(
                "it would start another program, which could write outside the workspace"
            )

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main()
