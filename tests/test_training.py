"""The training loop: its schedule, its groups, and that a kill costs nothing but time."""

import math
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2
from gpt2_scratch.training import checkpoint
from gpt2_scratch.training.loop import TrainingConfig, train
from gpt2_scratch.training.loss import next_token_loss
from gpt2_scratch.training.optim import build_optimizers, parameter_groups, rate_at

CONFIG = GPT2Config(n_vocab=31, n_ctx=16, n_embd=12, n_head=3, n_layer=2, dropout=0.1)


def batches(step):
    """Batch i is drawn from i, so that a resumed run sees what it would have seen."""
    while True:
        yield torch.randint(31, (4, 11), generator=torch.Generator().manual_seed(step))
        step += 1


def run(folder, steps=12, stop_at=None, **changes):
    """Train a tiny GPT-2, dropout on; `stop_at` raises in the middle of that step."""
    torch.manual_seed(5)
    model = GPT2(CONFIG)
    config = TrainingConfig(
        steps, 4, rates={"": 1e-2}, checkpoint_seconds=0, precision="fp32", **changes
    )
    calls = 0

    def loss_of(ids):
        nonlocal calls
        calls += 1
        if stop_at is not None and calls == stop_at:
            raise KeyboardInterrupt
        return next_token_loss(model, ids)

    train(model, loss_of, batches, config, folder, title="tiny")
    return model


def losses(folder):
    rows = (folder / "log.csv").read_text().splitlines()[1:]
    return [tuple(row.split(",")[:3]) for row in rows]


@pytest.mark.parametrize("optimizer", [{}, {"matrix_rate": 0.02}])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, optimizer):
    whole = run(tmp_path / "whole", **optimizer)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=6, **optimizer)
    resumed = run(tmp_path / "cut", **optimizer)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_finished_run_is_not_done_again(tmp_path):
    model = run(tmp_path)
    again = run(tmp_path, stop_at=1)  # a single step would raise
    assert torch.equal(model.wte.weight, again.wte.weight)


KILLED = """
import sys, time, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_training as t
from gpt2_scratch.training import loop
t.run(Path(sys.argv[1]), steps=2000)
"""


def test_sigkill_leaves_a_checkpoint_that_reads(tmp_path, root):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), str(root / "tests")], cwd=root
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / checkpoint.FILE).is_file() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.05)
    time.sleep(0.5)  # somewhere among the steps and the writes
    process.kill()
    process.wait()
    state = torch.load(tmp_path / checkpoint.FILE, weights_only=True)
    assert 1 <= state["step"] < 2000


def test_a_write_that_fails_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, steps=3)
    before = (tmp_path / checkpoint.FILE).read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    model = GPT2(CONFIG)
    optimizers = build_optimizers(
        model, {"": 1e-3}, weight_decay=0.0, betas=(0.9, 0.98), matrix_rate=None
    )
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_checkpoint(tmp_path, 4, model, optimizers, "other")
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.FILE, "log.csv"]


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(tmp_path, steps=3)
    with pytest.raises(ValueError, match="of another run"):
        run(tmp_path, steps=4)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, steps=3)
    (tmp_path / checkpoint.FILE).write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match=r"checkpoint\.pt can't be read"):
        run(tmp_path, steps=3)


def test_a_step_without_a_finite_loss_changes_nothing_and_ten_stop_the_run(tmp_path):
    model = GPT2(CONFIG)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = TrainingConfig(20, 4, precision="fp32")

    def loss_of(ids):
        total, count = next_token_loss(model, ids)
        return total * math.nan, count

    with pytest.raises(FloatingPointError, match="10 steps in a row"):
        train(model, loss_of, batches, config, tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_it_learns_one_batch_by_heart(tmp_path):
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    ids = torch.randint(31, (4, 11))

    def same(step):
        while True:
            yield ids

    config = TrainingConfig(150, 4, rates={"": 1e-2}, precision="fp32", schedule="constant")
    train(model, lambda ids: next_token_loss(model, ids), same, config, tmp_path)
    total, count = next_token_loss(model, ids)
    assert total / count < 0.1  # from ln 31 = 3.4


def test_the_loss_is_torchs_own(tmp_path):
    torch.manual_seed(1)
    model = GPT2(CONFIG).double().eval()
    ids = torch.randint(31, (3, 7))
    total, count = next_token_loss(model, ids)
    logits = model(ids)[:, :-1]
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    assert count == expected.numel() == 18
    torch.testing.assert_close(total.double(), expected.sum(), rtol=1e-6, atol=0)  # in float32


def test_rates_rise_fall_and_end_at_zero():
    linear = [rate_at(i, 100, warmup=0.1, schedule="linear") for i in range(100)]
    assert linear[0] == pytest.approx(0.1) and linear[9] == 1.0 and linear[10] == 1.0
    assert linear[55] == pytest.approx(0.5) and linear[99] == pytest.approx(1 / 90)
    cosine = [rate_at(i, 100, warmup=0.1, schedule="cosine") for i in range(100)]
    assert cosine[55] == pytest.approx(0.5) and cosine[32] > linear[32] and cosine[90] < linear[90]
    assert rate_at(99, 100, warmup=0.1, schedule="constant") == 1.0


def test_groups_have_their_own_rates_and_vectors_no_decay():
    model = nn.ModuleDict({"gpt2": GPT2(CONFIG), "head": nn.Linear(3, 2)})
    model["head"].weight.requires_grad_(False)
    groups = parameter_groups(model, {"": 1.0, "gpt2": 2.0, "gpt2.wte": 3.0}, weight_decay=0.1)
    held = {
        name: (group["lr"], group["weight_decay"])
        for name, parameter in model.named_parameters()
        for group in groups
        if any(parameter is p for p in group["params"])
    }
    assert held["gpt2.wte.weight"] == (3.0, 0.1)
    assert held["gpt2.h.0.attn.c_attn.w"] == (2.0, 0.1)
    assert held["gpt2.h.0.attn.c_attn.b"] == held["gpt2.ln_f.g"] == (2.0, 0.0)
    assert held["head.bias"] == (1.0, 0.0)
    assert "head.weight" not in held  # frozen
    assert len(held) == len(list(model.parameters())) - 1
    with pytest.raises(ValueError, match=r"No rate was given for head\.bias"):
        parameter_groups(model, {"gpt2": 1.0}, weight_decay=0.1)


def test_muon_takes_the_matrices_and_adamw_the_rest():
    model = GPT2(CONFIG)
    muon, adamw = build_optimizers(
        model, {"": 1e-3}, weight_decay=0.01, betas=(0.9, 0.98), matrix_rate=0.02
    )
    names = {id(p): name for name, p in model.named_parameters()}
    in_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    in_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert in_muon == {name for name in names.values() if name.endswith(".w")}
    assert in_muon | in_adamw == set(names.values()) and not in_muon & in_adamw


def test_a_prefix_has_one_share_of_both_rates():
    model = nn.ModuleDict({"slow": nn.Linear(3, 2), "fast": nn.Linear(3, 2)})
    muon, adamw = build_optimizers(
        model, {"": 1e-3, "slow.": 2e-4}, weight_decay=0.01, betas=(0.9, 0.98), matrix_rate=0.05
    )
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {
        names[id(p)]: group["initial_lr"]
        for group in (*muon.param_groups, *adamw.param_groups)
        for p in group["params"]
    }
    assert rates == pytest.approx(
        {"slow.weight": 0.01, "slow.bias": 2e-4, "fast.weight": 0.05, "fast.bias": 1e-3}
    )
