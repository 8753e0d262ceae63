"""The course as a learner meets it: what each state of a file is told, and what proves it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RIGHT, WRONG, NOT_ATTEMPTED, CANNOT_LOAD = 0, 1, 3, 4

SOFTMAX = """
def softmax(x, dim):
    grown = (x - x.amax(dim, keepdim=True)).exp()
    return grown / grown.sum(dim, keepdim=True)
"""


def course(workspace: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chapters", *words],
        cwd=ROOT,
        env={**os.environ, "CHAPTERS_HOME": str(workspace)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "work"
    assert course(folder, "init", str(folder)).returncode == 0
    for chapter in ("0", "4"):
        assert course(folder, "start", chapter).returncode == 0
    return folder


@pytest.mark.parametrize("chapter", ["0", "4"])
def test_the_gate_finds_no_problem(chapter):
    """Every mistake of the list is named, every other right way passes, mutants are caught."""
    run = subprocess.run(
        [sys.executable, "-m", "chapters.runner.gate", chapter],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_stub_is_not_attempted(workspace):
    run = course(workspace, "check", "4.1")
    assert run.returncode == NOT_ATTEMPTED and "not attempted" in run.stdout


def test_the_first_check_names_the_mistake_and_its_line(workspace):
    run = course(workspace, "check", "0.1")
    assert run.returncode == WRONG
    assert "exp overflows" in run.stdout and "torch.exp(x)" in run.stdout


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (SOFTMAX, RIGHT),
        (SOFTMAX.replace(".amax(dim, keepdim=True)", ".max()"), WRONG),
        (SOFTMAX.replace("def softmax", "def sofmax"), CANNOT_LOAD),
        ("def softmax(x, dim:\n    return x\n", CANNOT_LOAD),
        ("def softmax(x, dim):\n    return None\n", WRONG),
        ("def softmax(x, dim):\n    return x\n", WRONG),
        ("import sys\n\n\ndef softmax(x, dim):\n    sys.exit(0)\n", WRONG),
        ("", CANNOT_LOAD),
    ],
    ids=["right", "wrong", "renamed", "syntax", "None", "x", "exit", "empty"],
)
def test_each_state_of_a_file_has_its_own_end(workspace, source, code):
    path = workspace / "ch00_warmup.py"
    before = path.read_text("utf-8")
    try:
        path.write_text(source, "utf-8")
        run = course(workspace, "check", "0.1")
    finally:
        path.write_text(before, "utf-8")
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_a_loop_without_end_is_stopped(workspace):
    path = workspace / "ch00_warmup.py"
    before = path.read_text("utf-8")
    try:
        path.write_text("def softmax(x, dim):\n    while True:\n        pass\n", "utf-8")
        run = course(workspace, "check", "0.1")
    finally:
        path.write_text(before, "utf-8")
    assert run.returncode == 5, run.stdout + run.stderr


@pytest.mark.parametrize("command", [["list"], ["hint", "0.1"], ["start", "0"]])
def test_the_quick_commands_leave_torch_alone(workspace, command):
    code = (
        "import sys; from chapters.__main__ import main; "
        f"main({command!r}); sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "CHAPTERS_HOME": str(workspace)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
