"""The commands of the course as they are typed: what they say, what they write, how they end."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from course import ROOT, answer, command, solved

from chapters.runner.catalog import entries, find, folders
from chapters.runner.games import spot
from chapters.runner.stub import chapter_text, stub_text
from chapters.runner.workspace import TREE, Workspace

SOFTMAX = find("softmax")
SCRIPT = """
import runpy, sys
sys.argv = ["chapters", *{arguments!r}]
try: runpy.run_module("chapters", run_name="__main__", alter_sys=True)
except SystemExit as end: assert not end.code, end.code
heavy = {{"torch", "numpy", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "work"
    assert command("init", str(folder)).returncode == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_first_three_commands(home):
    started = command("start", "0", home=home)
    assert started.returncode == 0 and "Warm-up" in started.stdout
    assert (home / "ch00_warmup.py").read_text() == chapter_text(0)
    checked = command("check", "0.1", home=home)
    assert checked.returncode == 1
    # The README shows all of it; only the file's place and the seconds are another's.
    shown = (ROOT / "README.md").read_text("utf-8")
    assert checked.stdout.split("\n", 1)[1].strip() in shown
    assert started.stdout.split("\n", 1)[1].strip() in shown
    said = " ".join(checked.stdout.split())
    assert "exp overflows" in said and "what is softmax(x - c), for any number c?" in said
    assert f"{home}/ch00_warmup.py:" in said  # whose code it was
    (home / "ch00_warmup.py").write_text(solved(0))
    assert command("check", "0.1", home=home).returncode == 0
    listed = command("list", home=home).stdout
    assert "0.1  softmax  passed" in listed


@pytest.mark.parametrize("arguments", [["list"], ["hint", "0.1"], ["start", "0"], ["next"]])
def test_without_torch(arguments, home):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)],
        env=os.environ | {"CHAPTERS_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def processor_seconds(*arguments: str, home: Path) -> float:
    """What a command computes, its children included: other work on the machine doesn't count."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(*arguments, home=home)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [["list"], ["hint", "0.1"], ["start", "0"]])
def test_an_answer_without_torch_comes_at_once(arguments, home):
    best = min(processor_seconds(*arguments, home=home) for _ in range(4))
    assert best < 0.3, best  # 0.2 with byte code of ours that is not cached


def test_a_cold_check_takes_hardly_longer_than_importing_torch(home):
    command("start", "0", home=home)
    best = min(processor_seconds("check", "0.1", home=home) for _ in range(3))
    assert best < 3.0, best  # 1.5 of them torch; on an idle machine 1.9 s pass on the clock


def test_watch_checks_within_a_blink_of_a_save(home):
    command("start", "0", home=home)
    path = home / "ch00_warmup.py"
    environment = os.environ | {"CHAPTERS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "chapters", "watch", "--checks", "3", "--json"]
    with subprocess.Popen(
        arguments, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as watch:
        assert watch.stdout
        codes, took = [], []
        for text in (solved(0).replace("grown /", "2 * grown /"), solved(0), "syntax error"):
            time.sleep(0.5 if codes else 3)
            path.write_text(text)
            found = json.loads(watch.stdout.readline())
            codes.append(found["code"])
            took.append(found["took"])
        assert watch.wait(20) == 0
    assert codes == [1, 0, 4]
    assert took[1] < 1.0, took  # 0.1 where nothing else runs; the first still imported torch


def test_starting_again_never_overwrites(home):
    command("start", "0", home=home)
    path = home / "ch00_warmup.py"
    path.write_text("mine")
    assert "untouched" in command("start", "0", home=home).stdout
    assert path.read_text() == "mine"
    code, found = answer("start", "0", "--again", home=home)
    assert code == 0 and found["written"]
    assert [p.read_text() for p in (home / "trash").iterdir()] == ["mine"]


def test_reset_puts_one_function_back_and_keeps_the_file(home):
    number = max(folders())
    command("start", str(number), home=home)
    path = home / f"{folders()[number]}.py"
    path.write_text(solved(number) + "\n\ndef mine():\n    return 1\n")
    first = entries(number)[0]
    code, found = answer("reset", first.id, home=home)
    assert code == 0
    assert stub_text(first) in path.read_text() and "def mine" in path.read_text()
    assert "def mine" in Path(found["kept"]).read_text()
    assert answer("check", first.id, home=home)[1]["verdict"] == "not attempted"
    assert answer("reset", str(number), "--chapter", home=home)[0] == 0
    assert path.read_text() == chapter_text(number)


def test_hints_come_one_after_the_other_and_the_diagnosis_first(home):
    command("start", "0", home=home)
    levels = [answer("hint", "0.1", home=home)[1] for _ in range(4)]
    assert [each["level"] for each in levels] == [1, 2, 3, 3]
    assert [each["hint"] for each in levels][:3] == list(SOFTMAX.words["hints"])
    assert levels[0]["diagnosis"] == ""
    command("check", "0.1", home=home)
    told = answer("hint", "0.1", "1", home=home)[1]
    assert told["diagnosis"] == SOFTMAX.words["knobs"]["no_max"].hint
    assert command("hint", "0.1", "4", home=home).returncode == 2


def test_a_solution_is_shown_when_asked_for_and_remembered(home):
    command("start", "0", home=home)
    refused = command("solution", "0.1", home=home)
    assert refused.returncode == 2 and "--yes" in refused.stderr
    assert command("diff", "0.1", home=home).returncode == 2
    shown = command("solution", "0.1", "--yes", "--alt", home=home)
    assert shown.returncode == 0 and "x.amax(dim, keepdim=True)" in shown.stdout
    assert "torch.logsumexp" in shown.stdout
    difference = command("diff", "0.1", home=home).stdout
    assert "-    shifted = x - x.amax(dim, keepdim=True)" in difference
    (home / "ch00_warmup.py").write_text(solved(0).replace("grown", "powers").replace("x", "x"))
    command("check", "0.1", home=home)
    assert "passed, solution seen" in command("list", home=home).stdout


def test_a_pass_belongs_to_a_source(home):
    (home / "ch00_warmup.py").write_text(solved(0))
    assert command("check", "0.1", home=home).returncode == 0
    (home / "ch00_warmup.py").write_text(solved(0).replace("# the largest", "# a comment"))
    assert "softmax  passed\n" in command("list", home=home).stdout
    (home / "ch00_warmup.py").write_text(solved(0).replace("x.amax", "2 + x.amax"))
    assert "passed, edited since" in command("list", home=home).stdout


def test_a_lost_or_broken_state_is_made_again(home):
    (home / "ch00_warmup.py").write_text(solved(0))
    for broken in ("{", '{"0.1": 3}'):
        (home / "state.json").write_text(broken)
        assert command("list", home=home).returncode == 0
        assert command("check", "0", home=home).returncode == 0
        assert "softmax  passed" in command("list", home=home).stdout
    state = json.loads((home / "state.json").read_text())
    (home / "state.json").write_text(json.dumps(state | {"of the future": {"a": 1}}))
    command("check", "0", home=home)
    assert json.loads((home / "state.json").read_text())["of the future"] == {"a": 1}


def test_next_goes_through_the_course(home):
    assert answer("next", home=home)[1]["id"] == "0.1"
    assert answer("next", "--skip", home=home)[1]["id"] == entries()[1].id
    (home / "ch00_warmup.py").write_text(solved(0))
    assert answer("next", home=home)[1]["id"] == entries()[1].id


def test_changed_upstream_is_said_and_shown(home):
    command("start", "0", home=home)
    kept = home / "stubs" / "ch00_warmup.py"
    kept.write_text(kept.read_text().replace("dim: int", "axis: int"))
    assert "changed upstream" in command("list", home=home).stdout
    shown = command("diff", "0.1", "--upstream", home=home).stdout
    assert "-def softmax(x: Tensor, axis: int)" in shown
    assert "+def softmax(x: Tensor, dim: int)" in shown


def test_a_prediction_stands_beside_the_measurement(home):
    assert answer("predict", "0", home=home)[1]["guess"] is None
    assert answer("predict", "0", "100", home=home)[1]["guess"] == 100
    code, found = answer("run", "0", home=home)
    assert code == 0 and found["inside"] and found["guess"] == 100
    assert found["borrowed"] == ["softmax"]
    (home / "ch00_warmup.py").write_text(solved(0))
    command("check", "0", home=home)
    told = command("run", "0", home=home).stdout
    assert "your guess  100" in told and "yours       softmax" in told


def test_break_is_won_by_inputs_that_show_the_mistakes(home):
    assert command("break", "0.1", home=home).returncode == 3
    path = home / "break_0_1.py"
    assert "def probe():" in path.read_text()
    order = list(SOFTMAX.words["knobs"])[:4]
    for inputs, shown in (("zeros(2, 3)", False), ("full((1, 2), 1000.0)", True)):
        path.write_text(f"import torch\ndef probe():\n    return torch.{inputs}, 1\n")
        code, found = answer("break", "0.1", home=home)
        assert code == 1 and found["shown"] == shown, found
    assert found["found"] == order[:1] and found["left"] == 3
    path.write_text("import torch\ndef probe():\n    return 'x', 1\n")
    out = answer("break", "0.1", home=home)[1]
    assert out["verdict"] == "wrong" and "out of contract: x is no tensor" in out["says"][0]
    workspace = Workspace(home)
    workspace.update(SOFTMAX, broken=order[:3])
    path.write_text("import torch\ndef probe():\n    return torch.randn(2, 3, 4) * 9, 1\n")
    code, found = answer("break", "0.1", home=home)
    assert code == 0 and found["found"] == order


def test_spot_knows_its_line(home):
    source = answer("spot", "0.1", home=home)[1]["source"]
    chosen, _ = spot(SOFTMAX, 0)
    assert source == chosen.source
    assert command("spot", "0.1", str(chosen.line + 1), home=home).returncode == 1
    assert command("spot", "0.1", str(chosen.line), home=home).returncode == 0
    assert answer("spot", "0.1", home=home)[1]["source"] != source  # the next one


def test_report_and_notebook_are_written_into_the_workspace(home):
    command("start", "0", home=home)
    code, found = answer("report", "0.1", home=home)
    text = Path(found["file"]).read_text()
    assert code == 0 and "def softmax" in text and '"no_max"' in text and str(home) not in text
    code, found = answer("notebook", "0", home=home)
    book = json.loads(Path(found["file"]).read_text())
    assert book["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in book["cells"]]
    assert cells[0].startswith("# Chapter 0") and "def softmax" in cells[-1]
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["frobnicate"], "There are: init, list"),
        (["check"], "Name an exercise"),
        (["check", "99"], "There is no chapter 99"),
        (["check", "9.9"], "There is no exercise '9.9'"),
        (["hint", "nothing"], "chapters list"),
        (["start"], "N"),
        (["start", "x"], "There is no exercise 'x'"),
    ],
)
def test_usage(arguments, phrase, home):
    done = command(*arguments, home=home)
    assert done.returncode == 2 and phrase in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_no_workspace_and_a_workspace_in_the_wrong_place(tmp_path):
    done = command("check", "0.1", home=tmp_path)
    assert done.returncode == 2 and "python -m chapters init" in done.stderr
    inside = command("init", str(TREE / "work"))
    assert inside.returncode == 2 and "inside the project" in inside.stderr
    assert not (TREE / "work").exists()


def test_the_workspace_is_found_from_below(home):
    (home / "deeper").mkdir()
    done = command("start", "0", cwd=home / "deeper")
    assert done.returncode == 0 and (home / "ch00_warmup.py").exists()


def test_nothing_but_the_workspace_is_written(home, tmp_path):
    """The home folder, the temporary folder and the current one stay as they were."""
    elsewhere = {name: tmp_path / name for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    for folder in elsewhere.values():
        folder.mkdir()
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    given = {name: str(folder) for name, folder in elsewhere.items()}
    given["PYTHONDONTWRITEBYTECODE"] = "1"
    package = contents(ROOT / "chapters")
    for arguments in (["start", "0"], ["check", "0"], ["hint", "0.1"], ["run", "0"], ["list"]):
        command(*arguments, home=home, cwd=cwd, **given)
    assert not any(list(folder.rglob("*")) for folder in [*elsewhere.values(), cwd])
    after = contents(ROOT / "chapters")
    assert {k: v for k, v in after.items() if "__pycache__" not in k} == {
        k: v for k, v in package.items() if "__pycache__" not in k
    }


def test_on_a_terminal_there_is_colour_and_in_a_pipe_none(home):
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals on this system")
    command("start", "0", home=home)
    assert "\x1b[" not in command("check", "0.1", home=home).stdout
    leader, follower = pty.openpty()
    environment = os.environ | {"CHAPTERS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {"TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "chapters", "check", "0.1"],
        env=environment,
        cwd=ROOT,
        stdout=follower,
        stdin=follower,
    ) as running:
        os.close(follower)
        shown = b""
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:
                break
            if not data:
                break
            shown += data
        assert running.wait(60) == 1
    os.close(leader)
    assert b"\x1b[" in shown and b"NaN or infinite" in shown
