"""`python -m connector verify`: what it prints, what it reads and writes, and its exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from towers import random_tower

from connector.__main__ import main
from connector.mistakes import MISTAKES
from connector.reference import site_names
from connector.verify import record

PLANTED = {mistake.name: mistake for mistake in MISTAKES}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_tower(layers=2).save(tmp_path / "tower")
    return tmp_path / "tower"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: object) -> tuple[int, str, str]:
        code = main(["verify", *map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def test_the_command_prints_every_site_and_a_verdict(run: Run, golden: Path) -> None:
    code, out, err = run(golden / "clip-tiny" / "open_clip")
    assert (code, err) == (0, "")
    printed = [line.split()[0] for line in out.splitlines() if line]
    assert [name for name in printed if name in site_names(3)] == site_names(3)
    assert out.splitlines()[-1] == "PASS: 40 of 40 sites pass."
    with PLANTED["gelu-exact"].planted():
        code, out, _ = run(golden / "clip-tiny" / "open_clip")
    assert code == 1
    (arrow,) = [line for line in out.splitlines() if "FIRST JUMP" in line]
    assert arrow.startswith("layer00.mlp")
    assert "Why, in this model: gelu-exact." in out
    assert out.splitlines()[-1].startswith("FAIL: ")


def test_the_name_that_comes_with_the_code(run: Run) -> None:
    code, out, _ = run("clip-tiny")
    assert code == 0
    assert out.splitlines()[-1].startswith("PASS: 40 of 40 sites pass; published figures: 0 pass")
    code, out, _ = run("clip-tiny", "--against", "golden")
    assert code == 0 and "oracle.npz" in out
    assert out.splitlines()[-1].startswith("PASS: 7 of 7 sites pass; published figures: 0 pass")
    with PLANTED["ln-post-on-last-state"].planted():
        code, out, _ = run("clip-tiny", "--against", "golden")
    assert code == 1 and "Why, in this model: ln-post-on-last-state." in out


def test_a_folder_about_which_nothing_is_published(run: Run, folder: Path) -> None:
    code, out, _ = run(folder, "--against", "golden")
    assert code == 2 and out.splitlines()[-1].startswith("NOT RUN: published figures: 0 pass")


def test_json(run: Run, golden: Path) -> None:
    words = (golden / "clip-tiny" / "hf-full", "--json", "--against", "transformers")
    with PLANTED["no-class-token"].planted():
        code, out, _ = run(*words)
    told = json.loads(out)
    assert code == 1 and told["passed"] is False
    assert told["first_jump"] == "embed"
    assert told["diagnosis"][0]["steps"] == [["no-class-token"]]
    assert told["sites"][0].keys() >= {"site", "maximum", "relative", "allowed", "passed"}
    code, out, _ = run(*words)
    assert code == 0 and json.loads(out)["passed"] is True


def test_record_and_compare(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    code, out, _ = run(folder, "--record", file)
    assert code == 0 and "28 sites" in out
    with np.load(file) as held:
        assert held["pixel_values"].shape == (2, 3, 15, 15)
        assert held["pictures"].shape == (2, 22, 31, 3)
        assert held["layer01.weights"].shape == (2, 4, 10, 10)
        arrays = {name: held[name] for name in held.files}
    assert run(folder, "--against", file)[0] == 0
    # Another's, without pictures, under transformers' names, of one picture and without its axis.
    states = np.stack([arrays[f"hidden_states_0{n}"] for n in range(3)])
    np.savez(
        file,
        pixel_values=arrays["pixel_values"][0],
        hidden_states=states[:, :1],
        pooler_output=arrays["ln_post"][0],
        image_embeds=arrays["image_features"][:1],
    )
    code, out, _ = run(folder, "--against", file)
    assert code == 0 and out.splitlines()[-1] == "PASS: 5 of 5 sites pass."


def test_a_files_own_preprocessing_is_judged(run: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.npz"
    with PLANTED["imagenet-mean"].planted():
        record(folder, file)
    code, out, _ = run(folder, "--against", file)
    assert code == 1 and "Why, in theirs.npz: imagenet-mean." in out


def test_pictures_of_several_sizes(run: Run, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 50), "red").save(tmp_path / "a.png")
    Image.new("L", (90, 20), 40).save(tmp_path / "b.png")
    images = [word for name in "ab" for word in (tmp_path / f"{name}.png",)]
    code, out, _ = run(folder, "--image", *images)
    assert code == 0 and "30 x 50" in out
    file = tmp_path / "mine.npz"
    assert run(folder, "--record", file, "--image", *images)[0] == 0
    with np.load(file) as held:
        assert "pictures" not in held.files
    assert run(folder, "--against", file)[0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel_values": None}, "wanted `pixel_values`"),
        ({"pixel_values": np.zeros((2, 3, 16, 16))}, "Is the file another tower's?"),
        ({"pixel_values": np.zeros((2, 3, 15, 15), np.uint8)}, "of uint8, wanted (B, 3, 15, 15)"),
        ({"pictures": np.zeros((2, 22, 31, 3))}, "pictures is (2, 22, 31, 3) of float64"),
        ({"pictures": np.zeros((1, 22, 31, 3), np.uint8)}, "has 1 pictures and pixel_values of 2"),
        ({"embed": np.zeros((2, 10, 23))}, "embed is (2, 10, 23), wanted (2, 10, 24)"),
        ({"layer00.q": np.zeros((2, 9, 24))}, "layer00.q is (2, 9, 24), wanted (2, 10, 24)"),
    ],
)
def test_files_that_do_not_fit_are_told(
    run: Run, folder: Path, tmp_path: Path, change: dict, message: str
) -> None:
    file = tmp_path / "theirs.npz"
    record(folder, file)
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
        (["nowhere"], "is not there, wanted a folder with a CLIP"),
        (["clip-vit-l-14-336"], "python -m weights fetch clip-vit-l-14-336"),
        (["."], "holds no CLIP that can be read; needed: config.json"),
        (["FOLDER", "--against", "nonsense"], "wanted golden, reference, transformers"),
        (["FOLDER", "--against", "none.npz"], "does not exist"),
        (["FOLDER", "--against", "text.npz"], "no .npz of plain arrays"),
        (["FOLDER", "--record", "file.txt"], "wanted FILE.npz"),
        (["FOLDER", "--image", "text.npz"], "no picture that can be read"),
        (["FOLDER", "--image", "none.png"], "none.png"),
        (["FOLDER", "--image", "cut.png"], "cut.png is no picture that can be read"),
        (["FOLDER", "--image", "huge.png"], "huge.png is no picture that can be read"),
        (["FOLDER", "--gelu", "exact"], "says quick_gelu=True"),
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
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    Path("text.npz").write_text("no archive")
    Image.new("RGB", (50, 40)).save("huge.png")
    Path("cut.png").write_bytes(Path("huge.png").read_bytes()[:60])
    if "huge.png" in words:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # Pillow refuses twice as many
    code, out, err = run(*[str(folder) if word == "FOLDER" else word for word in words])
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err


def test_a_config_that_does_not_say_which_gelu(run: Run, golden: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(golden / "clip-tiny" / "open_clip", tmp_path / "clip")
    path = tmp_path / "clip" / "open_clip_config.json"
    config = json.loads(path.read_text())
    del config["model_cfg"]["quick_gelu"]
    path.write_text(json.dumps(config))
    code, _, err = run(tmp_path / "clip")
    assert code == 2 and "--gelu quick" in err
    assert run(tmp_path / "clip", "--gelu", "quick")[0] == 0
    assert run(tmp_path / "clip", "--gelu", "exact", "--against", "transformers")[0] == 0
    oracle = golden / "clip-tiny" / "oracle.npz"
    code, out, _ = run(tmp_path / "clip", "--gelu", "exact", "--against", oracle)
    assert code == 1 and "Why, in oracle.npz: gelu-quick." in out


def test_without_transformers_the_command_says_so(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = run(folder, "--against", "transformers")
    assert code == 2 and "pip install" in err
    assert run(folder)[0] == 0
