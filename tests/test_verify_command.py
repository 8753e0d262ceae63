"""`python -m gpt2_scratch verify`: what it prints, what it reads and writes, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_model

from gpt2_scratch.__main__ import main
from gpt2_scratch.loader import save_gpt2
from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.reference import site_names
from gpt2_scratch.verify import record

PLANTED = {mistake.name: mistake for mistake in MISTAKES}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gpt2(random_model(dtype=torch.float32), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: object) -> tuple[int, str, str]:
        code = main(["verify", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_the_command_prints_every_site_and_a_verdict(run: Run, golden: Path) -> None:
    code, out, err = run(golden / "tiny-a" / "openai")
    assert (code, err) == (0, "")
    printed = [line.split()[0] for line in out.splitlines() if line]
    assert [name for name in printed if name in site_names(3)] == site_names(3)
    assert out.splitlines()[-1] == "PASS: 39 of 39 sites pass."
    with PLANTED["one-token-ahead"].planted():
        code, out, _ = run(golden / "tiny-a" / "openai")
    assert code == 1
    (arrow,) = [line for line in out.splitlines() if "FIRST JUMP" in line]
    assert arrow.startswith("layer00.scores")
    assert "Why, in this model: one-token-ahead." in out
    assert out.splitlines()[-1].startswith("FAIL: ")


def test_json(run: Run, golden: Path) -> None:
    with PLANTED["gelu-exact"].planted():
        code, out, _ = run(golden / "tiny-a" / "openai", "--json", "--against", "transformers")
    told = json.loads(out)
    assert code == 1 and told["passed"] is False
    assert told["first_jump"] == "layer00.mlp"
    assert told["diagnosis"][0]["steps"] == [["gelu-exact"]]
    assert told["sites"][0].keys() >= {"site", "maximum", "relative", "allowed", "passed"}


def test_record_and_compare(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    code, out, _ = run(folder, "--record", file, "--tokens", 1, 2, 3, 30)
    assert code == 0 and "25 sites" in out
    with np.load(file) as held:
        assert held["tokens"].tolist() == [[1, 2, 3, 30]]
        assert held["layer01.weights"].shape == (1, 3, 4, 4)
        arrays = {name: held[name] for name in held.files}
    assert run(folder, "--against", file)[0] == 0
    # Another's logits alone, without an axis for the one row.
    np.savez(file, tokens=arrays["tokens"][0], logits=arrays["logits"][0])
    code, _, err = run(folder, "--against", file)
    assert code == 2 and "--logits-only" in err
    code, out, _ = run(folder, "--against", file, "--logits-only")
    assert code == 0
    assert run(folder, "--record", file, "--logits-only")[0] == 0
    with np.load(file) as held:
        assert set(held.files) == {"tokens", "logits"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": None}, "wanted `tokens`"),
        ({"tokens": np.array([[1.0, 2.0, 3.0]])}, "wanted whole numbers"),
        ({"tokens": np.array([[1, 2, 99]])}, "at most 13 tokens of 0 to 30"),
        ({"logits": None}, "has no logits"),
        ({"logits": np.zeros((1, 2, 31))}, "logits is (1, 2, 31), wanted (1, 3, 31)"),
        ({"layer00.q": np.zeros((1, 3, 20))}, "layer00.q is (1, 3, 20), wanted (1, 3, 21)"),
    ],
)
def test_files_that_do_not_fit_are_told(
    run: Run, folder: Path, tmp_path: Path, change: dict, message: str
) -> None:
    file = tmp_path / "theirs.npz"
    record(folder, file, tokens=[[1, 2, 3]])
    with np.load(file) as held:
        arrays = {name: held[name] for name in held.files} | change
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    code, out, err = run(folder, "--against", file)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err


def test_unknown_names_are_listed_with_the_one_that_was_meant(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "theirs.npz"
    record(folder, file)
    with np.load(file) as held:
        arrays = {name.replace("layer00.ln_1", "layer0.ln_1"): held[name] for name in held.files}
    np.savez(file, **arrays)
    code, out, _ = run(folder, "--against", file)
    assert code == 0
    assert (
        "layer0.ln_1 (did you mean layer00.ln_1?)" in out and "not in the file: layer00.ln_1" in out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is not a folder"),
        (["FOLDER", "--against", "nonsense"], "wanted golden, reference, transformers"),
        (["FOLDER", "--against", "none.npz"], "does not exist"),
        (["FOLDER", "--against", "text.npz"], "no .npz of plain arrays"),
        (["FOLDER", "--tokens", "1", "31"], "at most 13 of 0 to 30"),
        (["FOLDER", "--record", "file.txt"], "wanted FILE.npz"),
        (["FOLDER", "--against", "golden", "--file", "x=y"], "no figure 'x' takes a file"),
        (["FOLDER", "--against", "golden", "--file", "x"], "wanted FIGURE=PATH"),
        (["FOLDER", "--device", "abacus"], "can't be used"),
    ],
)
def test_what_cannot_run_is_exit_code_2_and_one_line(
    run: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.npz").write_text("no archive")
    code, out, err = run(*[str(folder) if word == "FOLDER" else word for word in words])
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err


def test_without_transformers_the_command_says_so(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = run(folder, "--against", "transformers")
    assert code == 2 and "pip install" in err
    assert run(folder)[0] == 0
