"""A run of `train` that is stopped, killed, taken up again, or done by several processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from caption_run import arguments, checkpoint, data_set, losses, parts, table, torchrun
from filelock import FileLock
from safetensors.torch import load_file

from captioning.__main__ import main
from captioning.training import run, sources

FAST = ["--rates.connector", "1e-2", "--rates.gpt2", "3e-3", "--validate-every", "4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return data_set(folder / "data"), parts(folder)


def go(made, out, *more):
    data, names = made
    return main(arguments(names, data, out, *FAST, *more))


def same_model(one, other):
    tensors = [load_file(out / "model" / "model.safetensors") for out in (one, other)]
    return all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[1])


def cut(made, out, monkeypatch, *more, at=3):
    """Ended without a word in its `at`-th validation, whose checkpoint is not written yet."""
    calls = []
    whole = run.draw_curves

    def draw(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(run, "draw_curves", draw)
    assert go(made, out, *more, "--checkpoint-minutes", "0") == 130
    monkeypatch.undo()


@pytest.mark.parametrize(
    "more",
    [
        ["--split", "none"],
        ["--micro-batch", "2", "--augment"],
        ["--features", "on", "--train", "connector+lora"],
        pytest.param(["--workers", "2", "--micro-batch", "2"], marks=pytest.mark.slow),
    ],
    ids=["plain", "parts, augmented", "features, LoRA", "workers"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(made, tmp_path, monkeypatch, capsys, more):
    """With dropout on: the random numbers go on too."""
    steps = ["--steps", "12", *more]
    assert go(made, tmp_path / "whole", *steps) == 0
    cut(made, tmp_path / "cut", monkeypatch, *steps)
    assert checkpoint(tmp_path / "cut")["step"] == 7
    capsys.readouterr()
    monkeypatch.setattr(sources, "ROOM", 0.0)  # as if its features had filled the disk
    halves = [tmp_path / "cut" / f".{name}.0123abcd" for name in ("curves.png", "index.sqlite")]
    for half in halves:  # as a kill in the middle of a write leaves them
        half.touch()
    resume = ["train", "--resume", "--out", str(tmp_path / "cut"), "--no-tensorboard"]
    workers = ["--workers", "0"] if "--workers" not in more else []
    assert main([*resume, *workers, "--device", "cpu"]) == 0  # by its own settings
    assert "Going on at step 7 of 12." in capsys.readouterr().out
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert not any(half.exists() for half in halves)
    for name in ("validation.csv", "looks.csv", "samples.txt"):
        if (tmp_path / "whole" / name).exists():
            assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert same_model(tmp_path / "cut", tmp_path / "whole")


def test_the_same_command_goes_on_too_and_other_settings_are_refused(made, tmp_path, capsys):
    out = tmp_path / "run"
    assert go(made, out, "--steps", "4") == 0
    assert go(made, out, "--steps", "4", "--micro-batch", "2") == 0
    assert "All 4 steps are done already." in capsys.readouterr().out
    assert go(made, out, "--steps", "5", "--longest", "20") == 2
    error = capsys.readouterr().err
    assert f"{out} holds a run with other settings: " in error
    for change in ("steps was 4, now 5", "longest was 256, now 20"):
        assert change in error
    resume = ["train", "--resume", "--out", str(out), "--no-tensorboard", "--device", "cpu"]
    assert main([*resume, "--steps", "5"]) == 2
    assert f"{out} holds a run with steps 4, now 5" in capsys.readouterr().err
    assert main([*resume, "--steps", "4", "--micro-batch", "1"]) == 0
    other = data_set(tmp_path / "data", 20)
    assert main(arguments(made[1], other, out, *FAST, "--steps", "4")) == 2
    assert "captions trained on.number was 24" in capsys.readouterr().err


def test_a_run_beside_another_writes_nothing_there(made, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"):
        assert go(made, out, "--steps", "2") == 2
    assert "is in use: another process trains in it" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_disk_that_is_full_is_told(made, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "draw_curves", full)
    assert go(made, tmp_path / "run", "--steps", "2") == 2
    error = capsys.readouterr().err
    assert "error: a disk is full: " in error and "goes on from its last checkpoint" in error


def test_a_run_goes_on_from_anywhere(made, tmp_path, monkeypatch):
    """Data and parts were named from another folder."""
    data, (_, gpt2, _, tower) = made
    monkeypatch.chdir(data.parent.parent)
    names = ["--gpt2", os.path.relpath(gpt2), "--tower", os.path.relpath(tower)]
    here, out = Path(os.path.relpath(data)), tmp_path / "run"
    assert main(arguments(names, here, out, "--steps", "2", "--samples", "0")) == 0
    monkeypatch.chdir(tmp_path)
    resume = ["train", "--resume", "--out", "run", "--device", "cpu"]
    assert main([*resume, "--gpt2", gpt2]) == 0


def test_steps_that_are_not_finite_change_nothing_are_named_and_end_the_run(made, tmp_path, capsys):
    assert go(made, tmp_path / "run", "--steps", "30", "--rates.gpt2", "1e30") == 2
    said = capsys.readouterr()
    assert "changed nothing: its loss or gradient was not finite; it began in " in said.out
    assert "not finite in 10 steps in a row" in said.err


def start(made, out, root, *more):
    data, names = made
    words = arguments(names, data, out, *FAST, *more)
    return subprocess.Popen(
        [sys.executable, "-m", "captioning", *words],
        cwd=root,
        # As many threads as the run beside it: with others, sums come in another order.
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(out, process, count=10, seconds=240):
    """Until a run has done so many, however fast the machine is."""
    deadline = time.monotonic() + seconds
    while not (out / "log.csv").is_file() or len(losses(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_ended_anywhere_it_goes_on_bit_for_bit(made, tmp_path, root, ending):
    steps = ["--steps", "300", "--validate-every", "100", "--samples", "0"]
    minutes = ["--checkpoint-minutes", "10" if ending == signal.SIGTERM else "0"]
    assert go(made, tmp_path / "whole", *steps) == 0
    out = tmp_path / "cut"
    process = start(made, out, root, *steps, *minutes)
    wait_for_steps(out, process)
    process.send_signal(ending)
    said, error = process.communicate(timeout=120)
    if ending == signal.SIGTERM:
        assert process.returncode == 143, error
        assert said.splitlines()[-1].startswith("captioner stopped at step ")
    assert 0 < checkpoint(out)["step"] < 300
    assert go(made, out, *steps) == 0
    assert losses(out) == losses(tmp_path / "whole")
    assert same_model(out, tmp_path / "whole")


# ---- several processes ---------------------------------------------------------------------------


def done(process, seconds=400):
    said, error = process.communicate(timeout=seconds)
    assert process.returncode == 0, error
    return said, error


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [[], ["--micro-batch", "1", "--precision", "bf16"], ["--train", "all", "--features", "off"]],
    ids=["plain", "parts in bf16", "all, sharded"],
)
def test_two_processes_have_the_losses_of_one(made, tmp_path, root, more):
    data, names = made
    words = [*FAST, "--steps", "6", "--dropout", "0", *more]
    assert main(arguments(names, data, tmp_path / "one", *words)) == 0
    said, error = done(torchrun(root, 2, arguments(names, data, tmp_path / "two", *words)))
    assert said.count("Plan: ") == 1  # one of them speaks
    assert "Warning" not in error and "Error" not in error
    one, two = ([list(map(float, row)) for row in losses(tmp_path / n)] for n in ("one", "two"))
    # float32: sums come in another order. bf16 rounds a whole batch otherwise than its halves.
    tolerance = 3e-3 if "bf16" in more else 1e-5
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=tolerance)
    validations = [table(tmp_path / n / "validation.csv")[-1]["loss"] for n in ("one", "two")]
    assert float(validations[0]) == pytest.approx(float(validations[1]), rel=tolerance)
    tensors = [load_file(tmp_path / n / "model" / "model.safetensors") for n in ("one", "two")]
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        torch.testing.assert_close(value, tensors[1][name], rtol=0, atol=5e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["connector+gpt2", "all"])
def test_two_processes_name_the_part_whose_numbers_are_not_finite(made, tmp_path, root, what):
    data, names = made
    more = ["--steps", "30", "--train", what, "--features", "off", "--samples", "0"]
    words = arguments(names, data, tmp_path / "run", *more, "--rates.gpt2", "1e30")
    process = torchrun(root, 2, words)
    said, error = process.communicate(timeout=400)
    assert process.returncode != 0 and "not finite in 10 steps in a row" in error
    assert said.count("its loss or gradient was not finite; it began in gpt2.") == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", ["connector+gpt2", "all"])
def test_two_processes_that_are_stopped_go_on_bit_for_bit(made, tmp_path, root, what):
    """With dropout on: each has random numbers of its own, and keeps them."""
    data, names = made
    more = ["--steps", "60", "--train", what, "--samples", "0", "--features", "off"]
    words = [*FAST, *more, "--validate-every", "30"]
    done(torchrun(root, 2, arguments(names, data, tmp_path / "whole", *words)))
    out = tmp_path / "cut"
    process = torchrun(root, 2, arguments(names, data, out, *words))
    wait_for_steps(out, process)
    process.send_signal(signal.SIGTERM)  # torchrun hands it on to both
    process.communicate(timeout=120)
    state = checkpoint(out)
    assert 0 < state["step"] < 60 and len(state["random_others"]) == 1
    done(torchrun(root, 2, arguments(names, data, out, *words)))
    assert losses(out) == losses(tmp_path / "whole")
    assert same_model(out, tmp_path / "whole")


@pytest.mark.slow
def test_finetune_in_two_processes_has_the_losses_of_one(tmp_path, root):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"one and {n} make {n + 1}.\n" for n in range(300)))
    new = ["--random-init", "2x32x2", "--train-tokenizer", "280", "--length", "16"]
    words = ["finetune", str(text), *new, "--steps", "6", "--dropout", "0", "--batch", "4"]
    words += ["--micro-batch", "1", "--device", "cpu"]
    from gpt2_scratch.__main__ import main as gpt2

    assert gpt2([*words, "--out", str(tmp_path / "one")]) == 0
    process = torchrun(root, 2, [*words, "--out", str(tmp_path / "two")], module="gpt2_scratch")
    done(process)
    one, two = ([list(map(float, row)) for row in losses(tmp_path / n)] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5)  # float32


def test_parts_that_do_not_part_a_processes_share_are_told(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "share_of", lambda batch: batch // 2)
    assert go(made, tmp_path / "run", "--batch", "12", "--micro-batch", "4") == 2
    assert "got --micro-batch 4, wanted a divisor of 6" in capsys.readouterr().err


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_told(made, tmp_path, root):
    data, names = made
    process = torchrun(root, 2, arguments(names, data, tmp_path / "run", "--batch", "5"))
    _, error = process.communicate(timeout=200)
    assert process.returncode != 0 and "got --batch 5 for 2 processes" in error
