"""`python -m captioning`: what comes out on which stream, in which order, with which exit code."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import captioning.model
from captioning import Caption
from captioning.__main__ import main
from captioning.commands import caption as caption_command
from captioning.evaluate import HELD_OUT
from captioning.scenes.draw import draw
from captioning.scenes.facts import read_facts, score_facts


class Fake:
    """Says a picture's size; one of odd width is unfamiliar. Remembers what it was asked."""

    config = SimpleNamespace(knows="drawn scenes")

    def __init__(self):
        self.batches = []
        self.options = []

    def describe(self, images, **options):
        self.batches.append([image.size for image in images])
        self.options.append(options)
        return [
            Caption(f"In this image\n{w} x {h}\t!\x1b", -0.5, 0.25, w % 2 == 0)
            for w, h in self.batches[-1]
        ]


@pytest.fixture
def fake(monkeypatch):
    captioner = Fake()
    loaded = []

    def load(name, *, device="cpu"):
        loaded.append((name, device))
        return captioner

    monkeypatch.setattr(captioning.model, "load_captioner", load)
    captioner.loaded = loaded
    return captioner


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Five pictures of even width in the current folder."""
    monkeypatch.chdir(tmp_path)
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        Image.new("RGB", (10 + 2 * i, 8)).save(name)
    return names


# ---- caption -----------------------------------------------------------------------------------


def test_a_line_a_picture(fake, pictures, capsys):
    assert main(["caption", *pictures]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{i}.png\tIn this image {10 + 2 * i} x 8 !\\x1b" for i in range(5)]
    assert err == ""
    assert fake.loaded == [("scenes", "cpu")]


def test_json_lines(fake, pictures, capsys):
    assert main(["caption", "1.png", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "path": "1.png",
        "caption": "In this image\n12 x 8\t!\x1b",
        "logprob": -0.5,
        "familiarity": 0.25,
        "familiar": True,
    }


def test_input_order_across_batches_and_folders(fake, pictures, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("b.png", "a.gif"):
        Image.new("RGB", (4, 4)).save(tmp_path / "folder" / name)
    assert main(["caption", "--batch-size", "2", "4.png", "folder", "0.png", "4.png"]) == 0
    paths = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    inside = [os.path.join("folder", name) for name in ("a.gif", "b.png")]
    assert paths == ["4.png", *inside, "0.png", "4.png"]
    assert [len(batch) for batch in fake.batches] == [2, 2, 1]


def test_lines_come_as_soon_as_their_batch(pictures, monkeypatch):
    held = io.BytesIO()  # behind a buffer, as a file or a pipe is
    printed = []

    class Watching(Fake):
        def describe(self, images, **options):
            printed.append(held.getvalue().count(b"\n"))
            return super().describe(images, **options)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held))
    monkeypatch.setattr(captioning.model, "load_captioner", lambda *_, **__: Watching())
    assert main(["caption", "--batch-size", "2", *pictures]) == 0
    assert printed == [0, 2, 4]


def test_pictures_are_opened_batch_by_batch(fake, pictures, monkeypatch):
    opened = []

    def opening(path):
        opened.append(len(fake.batches))
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(caption_command, "open_picture", opening)
    main(["caption", "--batch-size", "2", *pictures])
    assert opened == [0, 0, 1, 1, 2]


def test_large_pictures_make_small_batches(fake, pictures, monkeypatch):
    monkeypatch.setattr(caption_command, "MAX_PIXELS", 150)  # 10 x 8 + 12 x 8 reach it
    main(["caption", *pictures])
    assert [len(batch) for batch in fake.batches] == [2, 2, 1]


def test_a_bad_file_is_named_and_the_others_come(fake, pictures, tmp_path, capsys):
    (tmp_path / "notes.png").write_text("Dear diary")
    (tmp_path / "none").mkdir()
    assert main(["caption", "0.png", "notes.png", "missing.png", "none", "1.png"]) == 1
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == ["0.png", "1.png"]
    lines = err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["error:", name] for name in ("notes.png", "missing.png", "none")
    ]
    assert all("wanted a PNG, JPEG, WebP, GIF or BMP" in line for line in lines)


def test_nothing_readable_is_exit_code_2(fake, tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert main(["caption", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "a.png is empty" in err and "none of 1 files" in err
    assert fake.batches == []


def test_an_unfamiliar_picture_gets_one_honest_line(fake, pictures, capsys):
    Image.new("RGB", (11, 8)).save("odd.png")
    assert main(["caption", "0.png", "odd.png"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    (line,) = err.splitlines()
    assert line.startswith("note: odd.png does not look like drawn scenes")
    assert "0.25" in line


def test_options_reach_the_model(fake, pictures):
    words = "--temperature 0.7 --top-k 5 --top-p 0.9 --max-new-tokens 12 --seed 3 --model M"
    assert main(["caption", "0.png", *words.split()]) == 0
    (options,) = fake.options
    assert options.pop("generator").initial_seed() == 3
    assert options == {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "max_new_tokens": 12,
        "beams": 1,
    }
    assert fake.loaded == [("M", "cpu")]
    main(["caption", "0.png", "--beams", "4"])
    options = fake.options[1]
    assert (options["beams"], options["temperature"], options["max_new_tokens"]) == (4, 0.0, None)


@pytest.mark.parametrize(
    "words",
    [
        "caption",
        "caption 0.png --top-p 0",
        "caption 0.png --top-p 1.5",
        "caption 0.png --temperature -1",
        "caption 0.png --temperature nan",
        "caption 0.png --top-k 0",
        "caption 0.png --beams 0",
        "caption 0.png --max-new-tokens 0",
        "caption 0.png --batch-size 0",
        "caption 0.png --seed -1",
        "caption 0.png --seed x",
        "caption 0.png --nonsense",
        "evaluate --scenes 1",
        "demo --n 0",
        "draw --seed -4",
        "dream",
        "",
    ],
)
def test_mistakes_in_the_command_are_exit_code_2(fake, pictures, words, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err
    assert fake.batches == []


def test_a_device_that_is_not_there(fake, pictures, capsys):
    assert main(["caption", "0.png", "--device", "warp"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --device warp can't be used") and len(err.splitlines()) == 1


def test_a_model_that_is_not_there(pictures, capsys):
    assert main(["caption", "0.png", "--model", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: nowhere") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("got a,\nwanted b"), 2, "error: got a,\\nwanted b\n"),
        (PermissionError(13, "Permission denied", "x"), 2, None),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_leave_one_line_and_no_traceback(
    pictures, monkeypatch, capsys, error, code, message
):
    def load(*_, **__):
        raise error

    monkeypatch.setattr(captioning.model, "load_captioner", load)
    assert main(["caption", "0.png"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == message if message is not None else err.startswith("error: [Errno 13]")


def test_a_mistake_of_ours_keeps_its_traceback(pictures, monkeypatch):
    def load(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(captioning.model, "load_captioner", load)
    with pytest.raises(ZeroDivisionError):
        main(["caption", "0.png"])


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes: run this on Linux")
def test_names_that_are_no_utf_8_and_names_with_a_tab(fake, pictures, capfdbinary):
    names = [b"caf\xe9.png", "日本.png".encode(), b"a\tb\n.png"]
    for name in names:
        Image.new("RGB", (2, 2)).save(os.fsdecode(name))
    words = [os.fsdecode(name) for name in names]
    assert main(["caption", *words]) == 0
    out, err = capfdbinary.readouterr()
    paths = [line.split(b"\t")[0] for line in out.splitlines()]
    assert (paths, err) == ([names[0], names[1], b"a\\tb\\n.png"], b"")
    assert main(["caption", "--json", *words]) == 0
    out, err = capfdbinary.readouterr()
    assert out.isascii()
    assert [os.fsencode(json.loads(line)["path"]) for line in out.splitlines()] == names
    assert main(["caption", os.fsdecode(b"\xe9\n")]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b"" and err.startswith(b"error: \xe9\\n is not there")


def test_the_locale_does_not_matter(fake, pictures, monkeypatch):
    Image.new("RGB", (2, 2)).save("é.png")
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii"))
    assert main(["caption", "é.png"]) == 0
    assert held.getvalue().startswith("é.png\t".encode())


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there: run this on POSIX")
def test_a_reader_that_has_gone_is_no_error(fake, pictures, monkeypatch, capsys):
    there, here = os.pipe()
    os.close(there)
    with open(here, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["caption", *pictures]) == 141
        # and closing the stream, as Python does at exit, complains no more
    assert capsys.readouterr().err == ""


# ---- draw, and the embedded model itself -------------------------------------------------------


def test_draw_writes_scenes(tmp_path, capsys):
    assert main(["draw", "--n", "3", "--seed", "5", "--out", str(tmp_path / "s")]) == 0
    captions = Path(capsys.readouterr().out.strip())
    entries = [json.loads(line) for line in captions.read_text("utf-8").splitlines()]
    assert len(entries) == 3
    for i, entry in enumerate(entries):
        with Image.open(tmp_path / "s" / entry["file_name"]) as image:
            assert image.tobytes() == draw((5, i)).image.tobytes()
        assert entry["caption"] == draw((5, i)).caption


def test_the_embedded_model_from_any_folder(root, tmp_path):
    """No fake: four scenes and a bad file through the command, as a user would."""
    for i in range(4):
        draw((HELD_OUT, 99, i)).image.save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_text("no picture")
    words = [sys.executable, "-m", "captioning", "caption", ".", "--json", "--batch-size", "3"]
    places = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(words, capture_output=True, cwd=tmp_path, env=places)
    assert done.returncode == 1, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["path"] for entry in said] == ["0.png", "1.png", "2.png", "3.png"]
    assert b"4.png" in done.stderr and b"Traceback" not in done.stderr
    scores = []
    for i, entry in enumerate(said):
        scene = draw((HELD_OUT, 99, i))
        scores.append(score_facts(read_facts(entry["caption"]), (scene.facts, scene.background)))
        assert entry["logprob"] < 0 and 0 <= entry["familiarity"] <= 1
    # a blind model says a third rightly; how good this one is stands in test_embedded.py
    assert sum(score.right for score in scores) >= 0.85 * sum(score.drawn for score in scores)


def test_the_embedded_model_samples_and_searches(tmp_path, capsys):
    draw((HELD_OUT, 98, 0)).image.save(tmp_path / "a.png")

    def said(*words):
        assert main(["caption", str(tmp_path / "a.png"), "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    greedy, wild = said(), ("--temperature", "3", "--max-new-tokens", "20")
    assert said(*wild) == said(*wild)  # the seed has a default
    assert len({said(*wild, "--seed", seed)["caption"] for seed in "123"}) == 3
    assert said(*wild, "--top-k", "1")["caption"] == said("--max-new-tokens", "20")["caption"]
    assert said(*wild, "--top-p", "0.0001")["caption"] == said("--max-new-tokens", "20")["caption"]
    assert greedy["caption"].startswith(said("--max-new-tokens", "5")["caption"])
    # sums, not means, are what beam search raises; both captions are nearly as long
    assert said("--beams", "3")["logprob"] >= greedy["logprob"] - 0.05
    assert main(["caption", str(tmp_path / "a.png"), "--max-new-tokens", "100000"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_embedded_model_looks_at_the_picture(capsys):
    assert main(["evaluate", "--scenes", "40", "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["facts_f1"] > 0.95
    assert result["facts_f1"] > 0.3 + max(result["facts_f1_shuffled"], result["facts_f1_blank"])


def test_all_photographs_go_through_the_embedded_model(shared, capsys):
    folders = [str(shared / "data" / name) for name in ("photos_coco", "photos_misc")]
    assert main(["caption", *folders, "--json"]) == 0
    out, err = capsys.readouterr()
    said = [json.loads(line) for line in out.splitlines()]
    assert len(said) == 180
    # one honest line for each that is unfamiliar, and nothing else
    strange = [entry["path"] for entry in said if not entry["familiar"]]
    notes = err.splitlines()
    assert len(notes) == len(strange)
    for path, note in zip(strange, notes, strict=True):
        assert note.startswith(f"note: {path} does not look like drawn scenes")
    assert len(strange) > 90  # the rate itself is tested with the score


def test_a_folder_or_a_pipe_is_no_file_for_captions(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("", "a folder"), ("pipe", "a device or a pipe")):
        assert main(["caption", str(tmp_path), "--out", str(tmp_path / name)]) == 2
        assert f"which is {kind}, wanted a file" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pipe"]
