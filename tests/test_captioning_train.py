"""`python -m captioning train`: what it learns, what it leaves behind, and what it refuses."""

import json

import pytest
import torch
from caption_run import (
    COLOURS,
    WHERE,
    arguments,
    caption,
    checkpoint,
    data_set,
    losses,
    parts,
    table,
)
from data_sets import put
from PIL import Image

from captioning import load_captioner
from captioning.__main__ import main
from captioning.training import run
from captioning.training.curves import columns, smoothed, steps_skipped
from captioning.training.looks import COLUMNS, Looker
from gpt2_scratch.training.plan import SHARE, planned
from weights.store import read_config

FAST = ["--rates.connector", "1e-2", "--rates.gpt2", "3e-3"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set of 30 pictures, and the options of a tiny tower and GPT-2."""
    folder = tmp_path_factory.mktemp("made")
    return data_set(folder / "data"), parts(folder)


def go(made, out, *more):
    data, names = made
    return main(arguments(names, data, out, *more))


def told(capsys):
    """What stderr got, as one line."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1 or error.startswith("╭")
    return " ".join(error.replace("│", " ").split())


# ---- what comes out ------------------------------------------------------------------------------


def test_it_learns_to_say_what_is_in_a_picture(made, tmp_path, capsys):
    data, _ = made
    out = tmp_path / "run"
    more = ["--split", "none", "--steps", "300", "--dropout", "0", "--batch", "6", "--samples", "6"]
    rates = ["--rates.connector", "1e-2", "--rates.gpt2", "1e-2"]
    assert go(made, out, *more, *rates, "--validate-every", "50") == 0
    said = capsys.readouterr().out
    assert "Data: 30 captions to train on, 0 to validate on" in said
    assert f"{out}/model: the best weights, of step 300 of 300: loss 0.0" in said
    # First it learns the words, and says of each picture the same.
    assert "Warning: captions do not depend on the picture yet" in said
    assert "Warning: captions have collapsed: 6 of 6 pictures got 'a " in said
    rows = table(out / "validation.csv")
    assert [row["step"] for row in rows] == [str(step) for step in range(0, 301, 50)]
    assert float(rows[0]["loss"]) > 4 and float(rows[-1]["loss"]) < 0.1
    looks = table(out / "looks.csv")
    assert list(looks[0]) == list(COLUMNS)
    last = {name: float(value) for name, value in looks[-1].items()}
    assert last["free BLEU-4"] > 0.9 and last["teacher-forced accuracy"] > 0.95
    assert last["loss of shuffled pictures"] > last["loss"] + 0.3
    captioner = load_captioner(out / "model")
    images = [Image.open(data / f"{n:03}.png").convert("RGB") for n in range(30)]
    wanted = [
        caption(list(COLOURS)[n % 3], WHERE[n // 3 % 2], n % 3 // 2) for n in range(len(images))
    ]
    right = sum(a == b for a, b in zip(captioner.caption(images), wanted, strict=True))
    assert right >= 24
    samples = (out / "samples.txt").read_text()
    assert samples.count("--- step ") == 7 and samples.count("refe: a ") == 42
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn = columns(out / "log.csv")
    assert len(drawn["step"]) == 300 and (drawn["memory"] > 0).all()
    assert checkpoint(out)["step"] == 300


def test_validation_is_on_pictures_never_trained_on(made, tmp_path, capsys, monkeypatch):
    out, room = tmp_path / "run", []
    monkeypatch.setattr(run, "check_space", lambda path, size: room.append((path, size)))
    assert go(made, out, "--steps", "2") == 0
    ((asked, size),) = room  # before the model is written, frozen parts and all
    assert asked == out / "model"
    assert size < (asked / "model.safetensors").stat().st_size < size + 10_000
    said = capsys.readouterr().out
    assert "Data: 24 captions to train on, 1 to validate on, 5 kept for the test." in said
    assert "step 2 of 2: validation loss" in said
    assert not (out / "looks.csv").exists()  # one picture can't be shuffled
    held = json.loads((out / "config.json").read_text())
    assert held["asked"]["captions trained on"]["number"] == 24
    assert held["chosen"] == {
        **{"precision": "fp32", "micro_batch": 4, "checkpointing": False},
        "features": False,
    }


@pytest.mark.parametrize("what", ["connector", "connector+lora", "connector+gpt2", "all"])
def test_only_what_is_to_learn_changes_and_is_in_the_checkpoint(made, tmp_path, what):
    out = tmp_path / "run"
    assert go(made, out, "--steps", "3", "--train", what, "--rates.vision", "1e-3") == 0
    held = set(checkpoint(out)["module"])
    starts = {name.partition(".")[0] for name in held}
    learns = {"connector": {"connector"}, "all": {"connector", "gpt2", "vision"}}
    assert starts == learns.get(what, {"connector", "gpt2"})
    if what == "connector+lora":
        assert all("lora_" in name for name in held if name.startswith("gpt2."))
        assert read_config(out / "adapters")["rank"] == 8
    model, before = load_captioner(out / "model"), run.open_captioner
    captioner, _ = before(run.CaptionTraining(**options(made)), "cpu")
    then = captioner.state_dict()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, then[name])
    }
    assert {name.partition(".")[0] for name in changed} == starts
    assert not any("lora" in name for name in model.state_dict())
    if what == "all":
        assert not any(".ln_post" in name or name == "vision.proj" for name in changed)


def options(made):
    """The same parts as settings."""
    _, (_, gpt2, _, tower) = made
    return {"gpt2": gpt2, "tower": tower}


def test_a_captioner_is_taken_up_and_goes_on(made, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert go(made, first, "--steps", "30", "--train", "connector", *FAST) == 0
    start = ["train", "--model", str(first / "model"), "--data", str(made[0]), "--out", str(second)]
    more = ["--batch", "4", "--workers", "0", "--samples", "0", "--device", "cpu", "--steps", "2"]
    assert main([*start, *more, "--no-tensorboard"]) == 0
    best = min(float(row["loss"]) for row in table(first / "validation.csv"))
    assert float(table(second / "validation.csv")[0]["loss"]) == best


def test_tensorboard_is_written_where_it_is_there(made, tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: pip install tensorboard",
    )
    data, names = made
    words = [w for w in arguments(names, data, tmp_path / "run") if w != "--no-tensorboard"]
    assert main([*words, "--steps", "3", "--split", "none"]) == 0
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "validation/loss", "free WER", "teacher-forced WER"} <= set(tags)
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]


def test_without_tensorboard_it_is_said_once(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "board_writer", lambda: None)
    data, names = made
    words = [w for w in arguments(names, data, tmp_path / "run") if w != "--no-tensorboard"]
    assert main([*words, "--steps", "2"]) == 0
    assert capsys.readouterr().out.count("TensorBoard is not installed") == 1


# ---- how it is computed --------------------------------------------------------------------------


def test_parts_recomputing_and_kept_features_change_nothing_but_rounding(made, tmp_path, capsys):
    ways = {
        "whole": [],
        "parts": ["--micro-batch", "1"],
        "again": ["--checkpointing", "on"],
        "features": ["--features", "on"],
        "live": ["--features", "off"],
    }
    rows = {}
    for name, more in ways.items():
        out = tmp_path / name
        assert go(made, out, "--steps", "4", "--dropout", "0", *FAST, *more) == 0
        rows[name] = [float(number) for row in losses(out) for number in row[1:]]
    said = capsys.readouterr().out
    assert said.count("Features: of 25 pictures") == 1
    assert (tmp_path / "features" / "features" / "key.json").is_file()
    assert not (tmp_path / "whole" / "features").exists()  # four steps see no picture twice
    for name in ("parts", "again", "live"):
        assert rows[name] == pytest.approx(rows["whole"], rel=1e-5), name  # float32, four steps
    assert rows["features"] == pytest.approx(rows["whole"], rel=2e-3)  # kept in float16
    assert rows["features"] != rows["whole"]


def test_kept_features_are_taken_where_pictures_come_twice(made, tmp_path, capsys, monkeypatch):
    calls = []
    from connector.vision import ClipVision

    whole = ClipVision.forward
    monkeypatch.setattr(
        ClipVision, "forward", lambda self, *a: calls.append(len(a[0])) or whole(self, *a)
    )
    monkeypatch.setattr(run, "seconds_per_step", lambda *a, **k: 1.0)
    assert go(made, tmp_path / "run", "--steps", "14", "--samples", "0") == 0
    assert "Features: of 25 pictures" in capsys.readouterr().out
    assert sum(calls) == 25  # each picture once, for all 14 steps and the validations


def test_half_precision_is_near(made, tmp_path):
    for precision in ("fp32", "bf16", "fp16"):
        more = ["--precision", precision, "--steps", "3", "--dropout", "0", "--samples", "0"]
        assert go(made, tmp_path / precision, *more) == 0
    whole, *others = (
        [(float(r[1]), float(r[2])) for r in losses(tmp_path / p)] for p in ("fp32", "bf16", "fp16")
    )
    for other in others:
        for (loss, norm), (wanted, other_norm) in zip(other, whole, strict=True):
            assert loss == pytest.approx(wanted, abs=0.05)  # 8 and 11 bits
            assert norm == pytest.approx(other_norm, rel=0.05)
        # Of so small a model the losses may agree to the last printed digit, the norms don't.
        assert [norm for _, norm in other] != [norm for _, norm in whole]


def test_what_does_not_fit_is_told_before_anything_is_loaded(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "free_memory", lambda device: 10_000)
    monkeypatch.setattr(run, "open_captioner", None)
    assert go(made, tmp_path / "run") == 2
    error = told(capsys)
    assert "even one picture at a time" in error and "--train connector+lora" in error
    assert not (tmp_path / "run").exists()


def test_as_much_at_once_as_fits(made, tmp_path, capsys, monkeypatch):
    sizes = run.sizes_of(run.CaptionTraining(**options(made)))
    settings = run.CaptionTraining(**options(made), batch=4)
    load = run.load_of(sizes, settings, "fp32", "cpu", rows=1, longest=24)
    one = planned(load, 4).memory.total
    monkeypatch.setattr(run, "free_memory", lambda device: 1.02 * one / SHARE)
    assert go(made, tmp_path / "run", "--steps", "2", "--samples", "0") == 0
    assert " a step, 1 at once; fp32" in capsys.readouterr().out


# ---- bad data ------------------------------------------------------------------------------------


def test_bad_pictures_and_captions_are_left_out_counted_and_listed(made, tmp_path, capsys):
    data = data_set(tmp_path / "data", 12)
    put(data / "003.png", b"")
    put(data / "004.png", (data / "005.png").read_bytes()[:60])
    put(data / "006.txt", "  \n")
    put(data / "007.txt", "a red half " * 60)
    out = tmp_path / "run"
    more = ["--split", "none", "--epochs", "2", "--features", "off"]
    assert main(arguments(made[1], data, out, *more)) == 0
    said = capsys.readouterr().out
    assert "1 empty caption" in said and "1 long caption" in said
    listed = (out / "left-out.txt").read_text()
    for what in ("003.png", "004.png", "empty caption", "long caption"):
        assert listed.count(what) == 1, what
    assert main(arguments(made[1], data, out, *more)) == 0  # which finds nothing new to do
    assert (out / "left-out.txt").read_text() == listed
    assert all(float(row[1]) > 0 for row in losses(out))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--preset", "huge"], "There is no preset 'huge'"),
        (["--batch", "0"], "wanted at least 1"),
        (["--micro-batch", "3"], "wanted a divisor of --batch 4"),
        (["--features", "on", "--augment"], "--features on is for a frozen tower"),
        (["--model", "scenes"], "--model brings all its parts"),
        (["--workers", "-1"], "wanted 0 or more"),
        (["--split", "official"], "none of the rows belongs to an official split"),
        (["--longest", "2"], "none of the 30 rows"),
        (["--resume"], "holds no run to resume"),
        (["--device", "cuda:77"], "can't be used"),
        (["--rates.gpt2", "0"], "must be above 0"),
    ],
)
def test_mistakes_are_told_in_a_line(made, tmp_path, capsys, more, match):
    assert go(made, tmp_path / "run", *more) == 2
    assert match in told(capsys)
    assert not (tmp_path / "run" / "config.json").exists()


def test_no_data_and_no_captions_are_told(made, tmp_path, capsys):
    assert main(["train", *made[1], "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "Name captioned pictures with --data" in told(capsys)
    assert main(arguments(made[1], tmp_path, tmp_path / "run")) == 2
    assert told(capsys)


# ---- the small parts -----------------------------------------------------------------------------


def test_smoothed_is_a_mean_of_those_before_and_passes_over_nan():
    import numpy as np

    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_allclose(smoothed(values, 2), [1, 2, 3, 5, 6])
    assert np.isnan(smoothed(np.array([np.nan]), 3)).all()


def test_skipped_steps_are_counted_over_all_starts(tmp_path):
    assert steps_skipped(tmp_path) == 0
    put(tmp_path / "log.csv", "step,loss,gradient_norm\n1,2,3\n2,nan,1\n3,2,inf\n4,inf,nan\n")
    assert steps_skipped(tmp_path) == 3


def test_pictures_that_do_not_matter_and_captions_that_collapse_are_told():
    from captioning.training.looks import Look

    said = [(str(i), "a dog", "a cat") for i in range(5)]
    look = Look({"loss": 2.0, "loss of shuffled pictures": 2.001}, said)
    warnings = list(look.warnings())
    assert len(warnings) == 2
    assert "with shuffled pictures the loss is +0.001" in warnings[0]
    assert "5 of 5 pictures got 'a cat'" in warnings[1]
    various = [(str(i), "a dog", f"cat {i}") for i in range(5)]
    assert not list(Look({"loss": 2.0, "loss of shuffled pictures": 2.3}, various).warnings())


def test_the_look_is_what_the_model_says(made, tmp_path):
    """Its loss is the training loss of these captions; shuffled is that of the wrong pictures."""
    from captioning.data.batches import Batch
    from captioning.data.build import open_index
    from captioning.data.transforms import Transform
    from captioning.training.forward import computing_loss
    from captioning.training.looks import pictures_spread
    from connector.preprocess import normalise

    captioner, _ = run.open_captioner(run.CaptionTraining(**options(made)), "cpu")
    index = open_index(made[0], tmp_path / "index", split="none", tokenizer=captioner.tokenizer)
    pictures = pictures_spread(index, "train", 7)
    assert [p.image for p in pictures] == [
        "000.png",
        "004.png",
        "008.png",
        "012.png",
        "017.png",
        "021.png",
        "025.png",
    ]
    look = Looker(captioner, pictures, Transform(28, "squash"))()
    rows = [[*captioner.tokenizer.encode(p.captions[0]), captioner.tokenizer.end] for p in pictures]
    images = [Image.open(p.place.path).convert("RGB") for p in pictures]
    pixels = captioner.pixels(images)
    assert normalise is not None and look is not None

    def mean(pixels):
        total = number = 0.0
        with torch.no_grad(), computing_loss(captioner.eval()) as loss_of:
            for row, one in zip(rows, pixels, strict=True):
                batch = Batch(one[None], torch.tensor([row]), torch.tensor([len(row)]), [""], [])
                loss, count = loss_of(batch)
                total, number = total + loss.item(), number + count.item()
        return total / number

    assert look.values["loss"] == pytest.approx(mean(pixels), rel=1e-5)
    assert look.values["loss of shuffled pictures"] == pytest.approx(
        mean(pixels.roll(1, 0)), rel=1e-5
    )
    assert [said for *_, said in look.said] == captioner.caption(images)
