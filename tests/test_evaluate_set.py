"""`evaluate --data`: a set captioned, scored and shown, and what RUN says about it."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data_sets import narrative, picture_bytes, pictures, put

import captioning.model
from captioning import Caption
from captioning.__main__ import main
from captioning.commands.shared import load, model_of, settings_of
from captioning.data.build import open_index
from captioning.data.packing import pack
from captioning.data.split import hash_side
from captioning.metrics import score

N = 40
SAID = "A dog and a cat on a bench."


class Fake:
    """Says `SAID` of every picture, and remembers how many it saw."""

    config = SimpleNamespace(
        vision=SimpleNamespace(image_size=4), resize="squash", knows="drawn scenes"
    )
    device = torch.device("cpu")

    def __init__(self):
        self.seen = 0

    def describe(self, images, **options):
        self.seen += len(images)
        self.options = options
        return [Caption(SAID, -1.0, 0.5, True) for _ in images]


@pytest.fixture
def fake(monkeypatch):
    captioner = Fake()
    captioner.loaded = []

    def found(name, **_):
        captioner.loaded.append(name)
        return captioner

    monkeypatch.setattr(captioning.model, "load_captioner", found)
    return captioner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two captions of each of N pictures, one picture broken, one caption of nothing."""
    folder = tmp_path_factory.mktemp("set")
    names = [f"p{n}" for n in range(N)]
    pictures(folder, [f"{name}.jpg" for name in names])
    lines = [narrative(n, f"A dog on bench number {n}, {turn}.") for n in names for turn in "ab"]
    put(folder / "a.jsonl", "".join([*lines, narrative("gone", "Nothing.")]))
    put(folder / f"{side(names, 'test')[1]}.jpg", "no picture")
    return folder


def side(names, wanted):
    return [name for name in names if hash_side(name) == wanted]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_test_side_is_captioned_scored_and_shown(fake, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--data", str(folder), "--out", str(out), "--json"]) == 1
    printed, err = capsys.readouterr()
    names = side([f"p{n}" for n in range(N)], "test")
    broken, whole = names[1], [names[0], *names[2:]]
    assert len(names) > 2 and fake.seen == len(whole)
    said, wanted = read(out / "predictions.jsonl"), read(out / "references.jsonl")
    assert [row["image_id"] for row in said] == [row["image_id"] for row in wanted] == whole
    assert all(len(row["captions"]) == 2 for row in wanted)
    (failed,) = read(out / "predictions.failed.jsonl")
    assert failed["image_id"] == broken
    result = json.loads(printed)
    direct = score([SAID] * len(whole), [row["captions"] for row in wanted])
    assert {name: result[name] for name in direct} == direct
    assert result["intervals"]["BLEU-1"][0] <= result["BLEU-1"] <= result["intervals"]["BLEU-1"][1]
    held = json.loads((out / "metrics.json").read_text())
    assert held["about"]["side"] == "test" and held["BLEU-1"] == result["BLEU-1"]
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<img") >= len(whole) and SAID in page and "cat" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"1 of {len(names)} pictures could not be used" in err
    assert "1 of 81 rows" in err and "report.html" in err
    # Once more: nothing is captioned again, and the figures are the same.
    assert main(["evaluate", "--data", str(folder), "--out", str(out), "--json"]) == 1
    assert capsys.readouterr().out == printed and fake.seen == len(whole)
    # And `score` takes the two files.
    files = [str(out / "predictions.jsonl"), str(out / "references.jsonl")]
    assert main(["score", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["CIDEr-D"] == result["CIDEr-D"]


def test_pictures_in_shards_are_captioned_and_shown(fake, folder, tmp_path, capsys):
    with open_index(folder, tmp_path / "index.sqlite") as index:
        pack(index, tmp_path / "shards")
    out = tmp_path / "out"
    words = ["evaluate", "--data", str(tmp_path / "shards"), "--split", "all", "--out", str(out)]
    assert main(words) == 0
    assert "39 images" in capsys.readouterr().out
    assert len(read(out / "predictions.jsonl")) == N - 1
    assert "no picture p" not in (out / "report.html").read_text("utf-8")


def test_a_run_brings_its_data_and_its_curves(fake, folder, tmp_path, monkeypatch, capsys, root):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(root / "weights" / "embedded" / "scenes" / name, run / "model")
    put(run / "curves.png", picture_bytes(5))
    held = {"settings": {"data": str(folder), "images": None, "split": "none"}}
    put(run / "config.json", json.dumps(held))
    assert model_of(str(run)) == str(run / "model") == model_of(str(run / "model"))
    assert settings_of(str(run)) == held["settings"] and settings_of("scenes") == {}
    assert main(["evaluate", "--model", str(run)]) == 1
    out = run / "evaluation-test"
    # "none": every caption was trained on, so there is no side to choose.
    assert len(read(out / "predictions.jsonl")) == N - 1
    assert 'alt="curves"' in (out / "report.html").read_text("utf-8")
    assert fake.loaded == [str(run / "model")]
    capsys.readouterr()
    pictures(tmp_path / "other", ["1.jpg", "2.jpg"])
    put(tmp_path / "other" / "a.tsv", "1\tA dog.\n2\tA cat.\n")
    words = ["evaluate", "--model", str(run), "--data", str(tmp_path / "other"), "--split"]
    assert main([*words, "all", "--out", str(tmp_path / "b")]) == 0
    about = json.loads((tmp_path / "b" / "metrics.json").read_text())["about"]
    assert about["data"] == "other"
    missing = next(s for s in ("train", "validation", "test") if s not in map(hash_side, "12"))
    assert main([*words, missing, "--out", str(tmp_path / "c")]) == 2
    assert f"no picture for {missing}" in capsys.readouterr().err
    load(str(run), "cpu")
    assert fake.loaded[-1] == str(run / "model")


def test_differences_from_another_system(fake, folder, tmp_path, capsys):
    words = ["evaluate", "--data", str(folder), "--json", "--resamples", "99", "--split", "train"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    rows = read(tmp_path / "a" / "predictions.jsonl")
    better = [{**row, "caption": f"A dog on bench number {row['image_id']}, a."} for row in rows]
    other = put(tmp_path / "b.jsonl", "".join(json.dumps(row) + "\n" for row in better))
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "a"), "--against", str(other)]) == 0
    found = json.loads(capsys.readouterr().out)["against"]["BLEU-1"]
    assert found["difference"] < -0.3 and found["interval"][1] < 0 and found["p"] <= 0.02
    put(other, json.dumps(better[0]) + "\n")
    assert main([*words, "--out", str(tmp_path / "a"), "--against", str(other)]) == 2
    assert "wanted all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data nowhere", "nowhere is not there"),
        ("--data . --scenes 9", "wanted one of them"),
        ("--data . --batch-size 0", "--batch-size"),
        ("--data . --workers 0", "--workers"),
        ("--data . --resamples 0", "--resamples"),
        ("--out there", "--out, which is for a set"),
    ],
)
def test_mistakes_are_exit_code_2(fake, tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words.split()]) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err
    assert os.listdir(tmp_path) == []
