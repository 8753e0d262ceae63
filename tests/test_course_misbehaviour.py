"""Learners' code may do anything at all: each thing has its own result, and none passes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from course import command

from chapters.runner import swap
from chapters.runner.catalog import find
from chapters.runner.client import CHECK, Server, check, outcome_of
from chapters.runner.outcome import CODES
from chapters.runner.source import read
from chapters.runner.workspace import Workspace

ENTRY = find("explicit_attention")
HEAD = """import math
import os
import sys
import torch
from torch.nn import functional as F

def explicit_attention(q, k, v, hidden, dropout=0.0):
"""
RIGHT = """    empty = hidden.all(-1, keepdim=True)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(hidden & ~empty, -math.inf)
    weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    return weights @ v
"""
WRITE = "    with open({path!r}, 'w') as file:\n        file.write('x')\n"
CASES = {
    # what the learner's file holds: the verdict, the line that is named (0: none), a phrase
    "loops": (HEAD + "    while True: pass\n", "time", 8, "still running"),
    "loops when loaded": (HEAD + RIGHT + "while True: pass\n", "time", 13, "still running"),
    "sleeps": (HEAD + "    import time\n    time.sleep(1000)\n", "time", 9, "still running"),
    "eats memory": (
        HEAD + "    held = []\n    while True:\n        held.append(bytearray(10**7))\n",
        "memory",
        10,
        "too much memory",
    ),
    "asks for a tensor of 400 GB": (HEAD + "    return torch.ones(10**11)\n", "memory", 8, "400"),
    "prints megabytes": (
        HEAD + "    while True:\n        print('x' * 1000)\n",
        "output",
        9,
        "million",
    ),
    "calls sys.exit": (HEAD + "    sys.exit(0)\n", "exits", 8, "SystemExit"),
    "calls sys.exit when loaded": ("import sys\nsys.exit(0)\n" + HEAD + RIGHT, "load", 2, "ends"),
    "calls os._exit": (HEAD + "    os._exit(0)\n", "died", 0, "os._exit"),
    "reads address 0": (
        HEAD + "    import ctypes\n    ctypes.string_at(0)\n",
        "died",
        0,
        "SIGSEGV",
    ),
    "raises KeyboardInterrupt": (HEAD + "    raise KeyboardInterrupt\n", "interrupts", 8, "itself"),
    "raises it when loaded": (HEAD + RIGHT + "raise KeyboardInterrupt\n", "load", 13, "Keyboard"),
    "raises an error when loaded": (HEAD + RIGHT + "1 / 0\n", "load", 13, "ZeroDivisionError"),
    "returns an input": (HEAD + "    return q\n", "input", 8, "`return q`, returns it"),
    "changes an input": (HEAD + "    k.mul_(2)\n" + RIGHT, "mutates", 8, "its input k"),
    "sets items of an input": (HEAD + "    v[0] = 0\n" + RIGHT, "mutates", 8, "its input v"),
    "recurses without an end": (
        HEAD + "    return explicit_attention(q, k, v, hidden)\n",
        "raised",
        8,
        "without an end",
    ),
    "starts a program": (HEAD + "    os.system('true')\n" + RIGHT, "writes", 8, "program"),
    "uses the package's own": (
        "import gpt2_scratch.model as m\n"
        + HEAD
        + "    return m.explicit_attention(q, k, v, hidden)\n",
        "foreign",
        9,
        "asks for",
    ),
    "imports the package's own": (
        "from gpt2_scratch.model import explicit_attention\n",
        "foreign",
        0,
        "imported",
    ),
    "puts something in torch's place": (
        "import torch\ntorch.isclose = torch.allclose = lambda *a, **k: True\n"
        + HEAD
        + "    return torch.zeros_like(q)\n",
        "patches",
        2,
        "torch.allclose",
    ),
    "hides what a tensor has": (
        HEAD + "    torch.Tensor.any = lambda *a: False\n    return torch.zeros_like(q)\n",
        "patches",
        8,
        "Tensor.any",
    ),
    "puts something in the judge's place": (
        "import sys\nsys.modules['chapters.runner.judge'].compare = lambda *a: None\n"
        + HEAD
        + "    return torch.zeros_like(q)\n",
        "patches",
        2,
        "compare",
    ),
    "imports the course": (
        HEAD.replace("import math", "from chapters.runner import judge") + RIGHT,
        "foreign",
        1,
        "has the answers",
    ),
    "sends a signal to the runner": (
        HEAD + "    os.kill(os.getppid(), 9)\n" + RIGHT,
        "raised",
        8,
        "signal",
    ),
    "raises what has no text": (
        "class Bad(Exception):\n    def __str__(self): raise ValueError\n"
        + HEAD
        + "    raise Bad\n",
        "raised",
        10,
        "Bad",
    ),
    "raises ten megabytes": (
        HEAD + "    raise ValueError('same dtype' * 10**6)\n",
        "raised",
        8,
        "two dtypes meet",
    ),
    "returns a NumPy array": (
        HEAD + RIGHT.replace("weights @ v", "(weights @ v).numpy(force=True)"),
        "type",
        12,
        "a NumPy array (",
    ),
    "is a generator": (HEAD + "    yield q\n", "type", 0, "a generator"),
    "returns what can't be compared": (
        "class Odd:\n    def __eq__(self, other): raise KeyError\n" + HEAD + "    return Odd()\n",
        "type",
        10,
        "an Odd",
    ),
    "returns a list that holds itself": (
        HEAD + "    out = []\n    out.append(out)\n    return out\n",
        "type",
        0,
        "a list",
    ),
    "returns complex numbers": (HEAD + RIGHT.rstrip() + " + 0j\n", "type", 12, "complex128"),
    "returns a tensor without numbers": (
        HEAD + "    return q.to('meta')\n",
        "type",
        8,
        "on meta",
    ),
    "takes no gradients": (
        HEAD.replace("def ", "@torch.no_grad()\ndef ") + RIGHT,
        "gradient",
        10,
        "cuts the graph",
    ),
    "draws at random": (
        HEAD + RIGHT.replace("    return", "    weights = F.dropout(weights, 0.5)\n    return"),
        "unsteady",
        0,
        "two outputs",
    ),
    "cuts the graph": (
        HEAD + RIGHT.replace("    return", "    weights = weights.detach()\n    return"),
        "gradient",
        12,
        "somewhere the graph is cut",
    ),
    "computes in float32": (
        HEAD + RIGHT.replace("weights @ v", "weights.float() @ v.float()"),
        "type",
        12,
        "float32",
    ),
    "returns nothing": (HEAD + "    q = q + 1\n", "none", 0, "return"),
    "returns its input": (HEAD + "    return q\n", "input", 0, "input q"),
    "has too few parameters": (
        "def explicit_attention(q, k):\n    return q\n",
        "signature",
        0,
        "4 arguments",
    ),
    "has a syntax error": (HEAD + "    return (q\n", "syntax", 0, "never closed"),
    "mixes tabs and spaces": (HEAD + "    q = 1\n\treturn q\n", "syntax", 0, "tabs"),
    "has null bytes": ("a\0b", "syntax", 0, "null bytes"),
    "is empty": ("", "empty", 0, "no code"),
    "has another name": (HEAD.replace("attention(", "atention(") + RIGHT, "missing", 0, "it has"),
    "is still to be written": (HEAD + "    raise NotImplementedError\n", "not attempted", 0, ""),
}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def workspace(tmp_path):
    made = Workspace.create(tmp_path / "work")
    made.start(ENTRY.number)
    return made


def judged(server, workspace, text):
    path = workspace.file(ENTRY.number)
    path.write_text(text, "utf-8")
    found = read(ENTRY, path)
    if not hasattr(found, "node"):
        return found
    request = {"job": CHECK, "id": ENTRY.id, "file": str(path), "home": str(workspace.home)}
    limits = {"seconds": 2.0, "wall": 3.0, "gibibytes": 0.5, "passed": {}}
    return outcome_of(server.ask(request | limits), ENTRY, found)


@pytest.mark.parametrize("name", CASES)
def test_each_has_its_own_result_and_none_passes(name, server, workspace):
    text, verdict, line, phrase = CASES[name]
    found = judged(server, workspace, text)
    assert found.verdict == verdict, found
    assert found.code == CODES[verdict] != 0
    assert phrase in " ".join([*found.says, *found.where]), found
    if line:
        assert f"line {line}," in " ".join(found.where), found.where
    assert judged(server, workspace, HEAD + RIGHT).verdict == "right"  # the runner is unharmed


def test_nothing_is_written_outside_the_workspace(server, workspace, tmp_path):
    for path in (tmp_path / "outside", Path("../outside"), workspace.home / ".." / "outside"):
        found = judged(server, workspace, HEAD + WRITE.format(path=str(path)) + RIGHT)
        assert found.verdict == "writes" and "outside" in found.says[0], found
    inside = workspace.home / "notes.txt"
    found = judged(server, workspace, HEAD + WRITE.format(path=str(inside)) + RIGHT)
    assert found.verdict == "right" and inside.read_text() == "x"
    os.symlink(tmp_path, workspace.home / "link")
    through = str(workspace.home / "link" / "outside")
    assert judged(server, workspace, HEAD + WRITE.format(path=through) + RIGHT).code == 1
    saves = "    torch.save(q, {path!r})\n"  # in C++, where Python doesn't see it
    found = judged(server, workspace, HEAD + saves.format(path=str(tmp_path / "outside")) + RIGHT)
    if write_only_in_is_possible():
        assert found.verdict == "writes" and not (tmp_path / "outside").exists(), found
    within = HEAD + saves.format(path=str(workspace.home / "q.pt")) + RIGHT
    assert judged(server, workspace, within).verdict == "right"
    (tmp_path / "outside").unlink(missing_ok=True)


def write_only_in_is_possible():
    import ctypes

    from chapters.runner.landlock import CREATE, VERSION

    return ctypes.CDLL(None).syscall(CREATE, None, ctypes.c_size_t(0), VERSION) > 0


def test_the_fork_and_what_it_started_are_gone(server, workspace):
    text = HEAD + "    import time\n    open('pid', 'w').write(str(os.getpid()))\n"
    text += "    time.sleep(1000)\n"
    text = text.replace("'pid'", repr(str(workspace.home / "pid")))
    assert judged(server, workspace, text).verdict == "time"
    with pytest.raises(ProcessLookupError):
        os.kill(int((workspace.home / "pid").read_text()), 0)


@pytest.mark.parametrize(
    "name", ["weights.py", "torch.py", "random.py", "gpt2_scratch/__init__.py"]
)
def test_a_file_named_like_one_of_ours(name, server, workspace):
    path = workspace.home / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('the wrong one')\n")
    assert judged(server, workspace, HEAD + RIGHT).verdict in ("right", "shadow")
    module = name.partition("/")[0].removesuffix(".py")
    found = judged(server, workspace, f"import {module}\n" + HEAD + RIGHT)
    assert found.verdict == "shadow" and found.code == 4 and "Rename" in found.says[0], found
    # Typed in the workspace, the command itself is not led astray either.
    listed = command("list", cwd=workspace.home)
    assert listed.returncode == 0, listed.stderr


def test_a_helper_of_the_learners_can_be_imported(server, workspace):
    (workspace.home / "helper.py").write_text("def scale(q):\n    return q.shape[-1] ** -0.5\n")
    text = (
        "from helper import scale\n"
        + HEAD
        + RIGHT.replace("/ math.sqrt(q.shape[-1])", "* scale(q)")
    )
    assert judged(server, workspace, text).verdict == "right"
    assert not list(workspace.home.rglob("__pycache__"))


def test_a_busy_machine_is_not_the_learners_fault():
    """Who waits for a turn isn't waiting; who sleeps is."""
    from chapters.runner.server import SECONDS, WALL, _Clock

    assert WALL > 2 * SECONDS
    told = {}
    for code in ("while True: pass", "import time\ntime.sleep(100)"):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            time.sleep(0.3)  # it has begun
            clock = _Clock(process.pid, 100.0, 0.1)
            for _ in range(5):
                time.sleep(0.05)
                told[code[:5]] = clock.out()
            process.kill()
    assert told == {"while": "", "impor": "waiting"}


def test_our_own_fault_says_so(workspace, server, monkeypatch):
    path = workspace.file(ENTRY.number)
    path.write_text(HEAD + RIGHT, "utf-8")
    found = read(ENTRY, path)
    broken = server.ask({"job": "chapters.runner.judge:nothing", "home": str(workspace.home)})
    outcome = outcome_of(broken, ENTRY, found)
    assert (outcome.verdict, outcome.code) == ("fault", 6)
    assert "nothing" in outcome.says[0]


def test_what_the_learner_prints_is_shown_and_harms_nothing(server, workspace):
    text = HEAD + "    print('hello', q.shape)\n    sys.stderr.write('and here')\n" + RIGHT
    found = judged(server, workspace, text)
    assert found.verdict == "right"
    assert "hello torch.Size" in found.output and "and here" in found.output


def test_a_right_answer_may_close_what_is_printed_to(server, workspace):
    for line in ("sys.stdout.close()", "sys.stdout = None", "torch.set_default_dtype(q.dtype)"):
        found = judged(server, workspace, HEAD + f"    {line}\n" + RIGHT)
        assert found.verdict == "right", (line, found)


def test_a_piece_of_another_chapter_that_ends_the_program_is_borrowed(workspace):
    path = workspace.file(3)
    path.write_text("def gelu(x):\n    return x\n\nraise SystemExit\n")
    with swap.learners([(find("gelu"), path)]) as found:
        assert found == {}


def test_a_whole_check_by_the_client(server, workspace):
    workspace.file(ENTRY.number).write_text(HEAD + RIGHT, "utf-8")
    found = check(server, workspace, ENTRY)
    assert found.verdict == "right"
    assert workspace.record(ENTRY)["source"] == found.hash
