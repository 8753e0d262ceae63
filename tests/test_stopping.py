"""What ends a run before its end: kills, signals, a full disk, another process, bad numbers."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import torch
from filelock import FileLock
from tiny_run import CONFIG, batches, losses, run

from gpt2_scratch.model import GPT2
from gpt2_scratch.training import checkpoint
from gpt2_scratch.training.loop import TrainingConfig, begin, train
from gpt2_scratch.training.loss import next_token_loss
from gpt2_scratch.training.stopping import Stopped, noting_signals

STEPS = 40
START = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny_run import run
from gpt2_scratch.training import checkpoint
folder = Path(sys.argv[1])
"""
GO = f"run(folder, steps={STEPS})"


def start(folder, root, *code):
    """A process of its own that does the tiny run."""
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join([START, *code]), str(folder), str(root / "tests")],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupted: its parameters and its losses."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, steps=STEPS).state_dict(), losses(folder)


def goes_on_bit_for_bit(folder, whole):
    state, rows = whole
    resumed = run(folder, steps=STEPS).state_dict()
    assert losses(folder) == rows
    for name, tensor in state.items():
        assert torch.equal(tensor, resumed[name]), name
    assert not list(folder.glob(".*.pt.*")), "half a checkpoint was left behind"


# ---- kills ---------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_write(tmp_path, root, whole):
    process = start(
        tmp_path,
        root,
        "save, calls = checkpoint.torch.save, []",
        "def half(state, path):",
        "    calls.append(1)",
        "    save(state, path)",
        "    if len(calls) == 7:",
        "        path.write_bytes(path.read_bytes()[:1000])",
        "        os.kill(os.getpid(), signal.SIGKILL)",
        "checkpoint.torch.save = half",
        GO,
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".checkpoint.pt.*"))) == 1  # the half, which is cleared away
    state = torch.load(tmp_path / checkpoint.LAST, weights_only=True)
    assert state["step"] == 6
    goes_on_bit_for_bit(tmp_path, whole)


def test_killed_anywhere(tmp_path, root, whole):
    process = start(tmp_path, root, GO.replace(str(STEPS), "100_000"))
    deadline = time.monotonic() + 60
    while not (tmp_path / checkpoint.LAST).is_file() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.3)  # somewhere among the steps and the writes
    process.kill()
    process.communicate()
    state = torch.load(tmp_path / checkpoint.LAST, weights_only=True)
    assert 1 <= state["step"] < 100_000
    log = (tmp_path / "log.csv").read_text().splitlines()
    assert len(log) > state["step"]  # what a checkpoint has done is in the log


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_says_how_to_go_on(tmp_path, root, whole, ending):
    process = start(
        tmp_path,
        root,
        "import tiny_run, gpt2_scratch.training.stopping as s",
        "whole = tiny_run.next_token_loss",
        "calls = []",
        "def told(model, ids):",
        "    calls.append(1)",
        f"    if len(calls) == 5: os.kill(os.getpid(), {int(ending)})",
        "    return whole(model, ids)",
        "tiny_run.next_token_loss = told",
        f"try: run(folder, steps={STEPS}, checkpoint_seconds=1e9)",
        "except s.Stopped as stopped: print(stopped, file=sys.stderr); raise",
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + ending
    line = f"tiny stopped at step 5 of {STEPS}, which is saved in {tmp_path}. The same command"
    assert error.strip() == f"{line} goes on from there."
    assert torch.load(tmp_path / checkpoint.LAST, weights_only=True)["step"] == 5
    goes_on_bit_for_bit(tmp_path, whole)


def test_a_second_signal_acts_at_once():
    with pytest.raises(KeyboardInterrupt), noting_signals() as came:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        assert came == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_stopped_ends_a_process_that_does_not_catch_it():
    with pytest.raises(SystemExit) as ended:
        raise Stopped("so far", signal.SIGTERM)
    assert ended.value.code == 143


# ---- the disk ------------------------------------------------------------------------------------


def test_a_disk_too_small_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**5))
    with pytest.raises(OSError, match=r"has 0\.00 GB free, wanted 0\.00 GB for checkpoint\.pt\."):
        run(tmp_path, stop_at=1)  # a single step would raise KeyboardInterrupt


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(tmp_path, monkeypatch, whole):
    usage = namedtuple("usage", "total used free")
    space = iter([10**9] * 4 + [10**5])  # before the first step, after three steps, and no more
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, next(space)))
    with pytest.raises(OSError, match=r"checkpoint\.pt as last written is kept"):
        run(tmp_path, steps=STEPS)
    assert torch.load(tmp_path / checkpoint.LAST, weights_only=True)["step"] == 3
    monkeypatch.undo()
    goes_on_bit_for_bit(tmp_path, whole)


def test_a_write_that_fails_halfway_keeps_the_checkpoint_before(tmp_path, root, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, steps=STEPS, stop_at=4)
    size = (tmp_path / checkpoint.LAST).stat().st_size
    process = start(  # no file may grow beyond half a checkpoint: a full disk, as torch sees it
        tmp_path,
        root,
        "import resource",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))",
        f"try: run(folder, steps={STEPS})",
        "except OSError as error: sys.exit(str(error))",
    )
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"{checkpoint.LAST} could not be written" in error and "it is kept" in error
    assert error.count("\n") == 1
    assert torch.load(tmp_path / checkpoint.LAST, weights_only=True)["step"] == 3
    goes_on_bit_for_bit(tmp_path, whole)


def test_the_size_of_a_checkpoint_is_known_before_it_is_written(tmp_path):
    model = run(tmp_path, steps=3)
    config = TrainingConfig(3, 4)
    guessed = checkpoint.checkpoint_size(begin(model, config, ""))
    written = (tmp_path / checkpoint.LAST).stat().st_size
    assert guessed < written < guessed + checkpoint.SPARE


# ---- others --------------------------------------------------------------------------------------


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    with (
        FileLock(tmp_path / checkpoint.LOCK),
        pytest.raises(ValueError, match="is in use: another process trains in it"),
    ):
        run(tmp_path)
    run(tmp_path, steps=2)


def test_numbers_that_are_not_finite_stop_the_run_with_the_part_where_they_began(tmp_path):
    model = GPT2(CONFIG)
    config = TrainingConfig(20, 4, precision="fp32")

    def go(folder):
        train(model, lambda ids: next_token_loss(model, ids % 30), batches, config, folder)

    with torch.no_grad():
        model.wte.weight[30] = math.inf  # never an input: only the head meets it
    with pytest.raises(FloatingPointError, match=r"step 10; it began in what follows ln_f\. Lower"):
        go(tmp_path / "head")
    with torch.no_grad():
        model.h[1].mlp.c_fc.w[3, 5] = math.inf
    with pytest.raises(FloatingPointError, match=r"step 10; it began in h\.1\.mlp\.c_fc\. Lower"):
        go(tmp_path / "block")
