"""A learner who knows everything goes through the course: in order, out of order, to the end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from course import ROOT, answer, command, solved

from chapters.runner.catalog import Entry, entries, folders
from chapters.runner.graduation import GOLDEN, wanted

pytestmark = pytest.mark.slow
NUMBERS = list(folders())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but what the course keeps for itself."""
    kept = ("state.json", "stubs", "trash")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in kept
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """The project as an install would have it, where nothing can be written."""
    copy = tmp_path_factory.mktemp("installed") / "tree"
    skip = shutil.ignore_patterns(
        "__pycache__", ".git", ".venv", "build", "demo", "*.egg-info", ".*_cache", "tests"
    )
    shutil.copytree(ROOT, copy, ignore=skip)
    for path in copy.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return copy


def run(package: Path, home: Path, *arguments: str) -> tuple[int, object]:
    done = subprocess.run(
        [sys.executable, "-B", "-m", "chapters", *arguments, "--json"],
        env=os.environ | {"PYTHONPATH": str(package), "CHAPTERS_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_all_chapters_in_order_from_a_read_only_tree_then_graduation(package, tmp_path):
    home = tmp_path / "work"
    home.mkdir()
    before = tree(package)
    assert run(package, home, "init", str(home))[0] == 0
    for number in NUMBERS:
        assert run(package, home, "start", str(number))[0] == 0
        path = home / f"{folders()[number]}.py"
        stubs = path.read_text()
        code, found = run(package, home, "check", str(number))
        for each in [found] if isinstance(found, dict) else found:
            assert each["verdict"] != "right", each["id"]
        path.write_text(solved(number))
        code, found = run(package, home, "check", str(number))
        outcomes = [found] if isinstance(found, dict) else found
        assert code == 0, [each for each in outcomes if each["code"]]
        for each in outcomes:
            assert not each["borrowed"], each
            assert each["file"] == str(path) and each["line"] and each["hash"]
            assert each["seconds"] < 1.0, each
        assert stubs != path.read_text() == solved(number)
    written = {f"{folders()[number]}.py" for number in NUMBERS} | {"chapters.toml"}
    assert set(tree(home)) == written
    assert run(package, home, "next")[1] is None
    if wanted(1):
        goal = home / "my_gpt2.py"
        code, found = run(package, home, "graduate", "--bundle", str(goal))
        assert code == 0 and found["passed"] and not found["borrowed"], found
        assert len(found["text"].split()) > 8
        check_bundle(goal, tmp_path)
    assert tree(package) == before


def check_bundle(goal: Path, tmp_path: Path) -> None:
    """One file, no project: the golden logits."""
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(goal, alone)
    shutil.copytree(GOLDEN, alone / "tiny")
    assert "gpt2_scratch" not in goal.read_text().replace("gpt2_scratch.", "")
    done = subprocess.run(
        [sys.executable, "-I", goal.name, "tiny/hf-prefixed", "tiny/oracle.npz"],
        cwd=alone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.split("at most ")[1].split()[0]) < 1e-4  # float32 rounding: 3e-6


@pytest.mark.parametrize("number", NUMBERS)
def test_any_chapter_can_be_the_first(number, tmp_path):
    home = tmp_path / "work"
    command("init", str(home))
    (home / f"{folders()[number]}.py").write_text(solved(number))
    code, found = answer("check", str(number), home=home)
    outcomes = [found] if isinstance(found, dict) else found
    assert code == 0, [each for each in outcomes if each["code"]]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_any_exercise_can_be_the_first(entry: Entry, tmp_path):
    """Its neighbours are still stubs: they are borrowed."""
    from course import with_solution

    from chapters.runner.stub import chapter_text

    home = tmp_path / "work"
    command("init", str(home))
    path = home / f"{entry.folder}.py"
    path.write_text(with_solution(chapter_text(entry.number), entry))
    code, found = answer("check", entry.id, home=home)
    assert code == 0, found
