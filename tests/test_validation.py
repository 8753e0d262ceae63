"""Validation while a run goes on: what it says, what it keeps, and that it changes nothing."""

import pytest
import torch
from tiny_run import CONFIG, batches, losses, run

from gpt2_scratch.model import GPT2
from gpt2_scratch.training import checkpoint
from gpt2_scratch.training.loop import TrainingConfig, mean_loss
from gpt2_scratch.training.loss import next_token_loss

# Of unequal sizes: the mean over tokens is not the mean over batches.
HELD_OUT = [
    torch.randint(31, shape, generator=torch.Generator().manual_seed(9))
    for shape in ((4, 11), (1, 3))
]


def heard(**more):
    said = []
    options = {
        "validation": lambda: HELD_OUT,
        "on_validation": lambda step, loss: said.append((step, loss)),
    }
    return said, options | more


def test_it_is_the_mean_over_all_tokens_without_dropout():
    torch.manual_seed(0)
    model = GPT2(CONFIG).train()
    config = TrainingConfig(1, 4, precision="fp32")
    got = mean_loss(model, lambda ids: next_token_loss(model, ids), HELD_OUT, config)
    assert model.training and model.h[0].mlp.training
    model.eval()
    each = [
        torch.nn.functional.cross_entropy(
            model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        for ids in HELD_OUT
    ]
    assert got == pytest.approx(torch.cat(each).mean().item(), rel=1e-6)  # float32


def test_it_changes_nothing_of_the_training(tmp_path):
    plain = run(tmp_path / "plain")
    said, options = heard()
    validated = run(tmp_path / "validated", options=options, validate_every=5)
    assert [step for step, _ in said] == [0, 5, 10, 12]
    assert losses(tmp_path / "plain") == losses(tmp_path / "validated")
    assert torch.equal(plain.wte.weight, validated.wte.weight)
    rows = (tmp_path / "validated" / "validation.csv").read_text().splitlines()
    assert rows == ["step,loss", *(f"{step},{loss:.6g}" for step, loss in said)]
    assert not (tmp_path / "plain" / "validation.csv").exists()


def test_the_best_is_kept_and_an_interrupted_run_keeps_the_same(tmp_path):
    # On random ids there is nothing to learn: the loss goes up and down.
    settings = {"steps": 20, "validate_every": 3, "rates": {"": 0.05}, "schedule": "constant"}
    said, options = heard()
    whole = run(tmp_path / "whole", options=options, **settings)
    loss, step = min((loss, step) for step, loss in said if step)
    assert 3 < step < 20, "the best must be neither the first nor the last, or this shows nothing"
    again, options = heard()
    with pytest.raises(KeyboardInterrupt):  # in step 18; each of six validations asks twice
        run(tmp_path / "cut", stop_at=17 + 12 + 1, options=options, **settings)
    assert len(again) == 6
    run(tmp_path / "cut", options=options, **settings)
    assert dict(again) == dict(said)
    best = {}
    for folder in ("whole", "cut"):
        model = GPT2(CONFIG)
        assert checkpoint.load_best(tmp_path / folder, model) == (loss, step)
        config = TrainingConfig(1, 4, precision="fp32")
        got = mean_loss(model, lambda ids, m=model: next_token_loss(m, ids), HELD_OUT, config)
        assert got == loss
        best[folder] = model
    assert torch.equal(best["whole"].wte.weight, best["cut"].wte.weight)
    assert not torch.equal(best["whole"].wte.weight, whole.wte.weight)


def test_without_validation_there_is_no_best(tmp_path):
    model = run(tmp_path, steps=2)
    assert checkpoint.load_best(tmp_path, model) is None


def test_frozen_parameters_are_in_no_checkpoint_and_stay(tmp_path):
    model = GPT2(CONFIG)
    model.wte.weight.requires_grad_(False)
    state = checkpoint.trained_state(model)
    assert "wte.weight" not in state and "wpe.weight" in state
    other = GPT2(CONFIG)
    other.wte.weight.requires_grad_(False)
    kept = other.wte.weight.clone()
    checkpoint.load_trained(other, state)
    assert torch.equal(other.wte.weight, kept)
    assert torch.equal(other.wpe.weight, model.wpe.weight)
    del state["ln_f.g"]
    with pytest.raises(ValueError, match=r"it lacks \['ln_f\.g'\]"):
        checkpoint.load_trained(other, state)


def test_nothing_to_validate_on_is_told(tmp_path):
    with pytest.raises(ValueError, match="nothing to validate on"):
        run(tmp_path, options={"validation": lambda: []})


def test_batches_of_validation_do_not_move_the_data_position(tmp_path):
    _, options = heard(validation=lambda: [next(batches(99))])
    run(tmp_path / "a", options=options, validate_every=1)
    run(tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_a_validation_in_the_first_step_keeps_the_row_before_it(tmp_path):
    said, options = heard()
    run(tmp_path, steps=2, options=options, validate_every=1)
    rows = (tmp_path / "validation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2"] and len(said) == 3
