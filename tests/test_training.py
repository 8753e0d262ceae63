"""The training loop: its schedule, its groups, and that a kill costs nothing but time."""

import csv
import math

import pytest
import torch
from tiny_run import CONFIG, batches, losses, run
from torch import nn

from gpt2_scratch.model import GPT2
from gpt2_scratch.training import checkpoint
from gpt2_scratch.training.log import Table
from gpt2_scratch.training.loop import TrainingConfig, begin, train, train_step
from gpt2_scratch.training.loss import next_token_loss
from gpt2_scratch.training.optim import build_optimizers, parameter_groups, rate_at
from gpt2_scratch.training.recompute import recomputing


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


def test_identities_are_what_they_were_before_there_was_more_to_choose():
    """A checkpoint of an earlier version is still taken up."""
    config = TrainingConfig(300, 32, rates={"": 2e-3}, matrix_rate=0.02, schedule="linear")
    assert config.identity("1/3 language model") == (
        "1/3 language model: {'steps': 300, 'batch': 32, 'rates': {'': 0.002},"
        " 'matrix_rate': 0.02, 'schedule': 'linear', 'warmup': 0.05, 'weight_decay': 0.01,"
        " 'betas': (0.9, 0.98), 'clip': 1.0, 'precision': 'bf16', 'seed': 0}"
    )


def test_a_checkpoint_and_log_of_an_earlier_version_are_taken_up(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "old", stop_at=6)
    path = tmp_path / "old" / checkpoint.LAST
    state = torch.load(path, weights_only=True)
    for later in ("best", "scaler", "random_cuda"):
        del state[later]
    torch.save(state, path)
    log = tmp_path / "old" / "log.csv"
    rows = [row.split(",")[:4] for row in log.read_text().splitlines()]
    assert rows[0] == ["step", "loss", "gradient_norm", "seconds"]
    log.write_text("".join(",".join(row) + "\n" for row in rows))
    resumed = run(tmp_path / "old")
    assert losses(tmp_path / "old") == losses(tmp_path / "whole")
    assert torch.equal(whole.wte.weight, resumed.wte.weight)
    with log.open() as file:
        assert len(list(csv.DictReader(file, strict=True))) == 12
    assert all(line.count(",") == 3 for line in log.read_text().splitlines())


def test_each_row_of_the_log_can_be_read_at_once(tmp_path):
    with Table(tmp_path / "log.csv", ("step", "loss"), 0) as table:
        for step in (1, 2):
            table.write({"step": step, "loss": 0.5})
            assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + step


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(tmp_path, steps=3)
    with pytest.raises(ValueError, match="of another run"):
        run(tmp_path, steps=4)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path, steps=3)
    (tmp_path / checkpoint.LAST).write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match=r"checkpoint\.pt can't be read"):
        run(tmp_path, steps=3)
    for other in ({"model": {}}, torch.zeros(3)):  # of that name, by another program
        torch.save(other, tmp_path / checkpoint.LAST)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is no checkpoint of this project"):
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


# ---- accumulation --------------------------------------------------------------------------------


def masked_loss(model):
    """Rows of unequal lengths: the mean over a part is not the mean over the step."""

    def loss_of(batch):
        ids, lengths = batch
        logits = model(ids[:, :-1])
        counted = torch.arange(ids.shape[1] - 1) < lengths[:, None]
        total = nn.functional.cross_entropy(logits[counted], ids[:, 1:][counted], reduction="sum")
        return total, counted.sum()

    return loss_of


def after_one_step(parts):
    """Parameters of a tiny model in float64 after one step of plain gradient descent."""
    torch.manual_seed(3)
    model = GPT2(CONFIG).double().eval()
    config = TrainingConfig(1, 4, precision="fp32", clip=1e9)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    result = train_step(model, masked_loss(model), parts, [sgd], config, scaler)
    return model, result


def test_a_steps_gradient_is_exact_in_tokens_however_its_rows_are_parted():
    ids = torch.randint(31, (4, 11), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([10, 1, 2, 7])
    whole, (loss, norm, tokens) = after_one_step([(ids, lengths)])
    assert tokens == 20
    for sizes in ([1, 1, 1, 1], [2, 2], [1, 3]):
        parts = list(zip(ids.split(sizes), lengths.split(sizes), strict=True))
        parted, (part_loss, part_norm, part_tokens) = after_one_step(parts)
        assert part_tokens == 20
        assert part_loss == pytest.approx(loss, rel=1e-12)  # float64
        assert part_norm == pytest.approx(norm, rel=1e-12)
        for (name, a), b in zip(whole.named_parameters(), parted.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13, msg=name)


def test_a_part_without_tokens_changes_nothing():
    ids = torch.randint(31, (4, 11), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([0, 10, 3, 5])
    whole, _ = after_one_step([(ids, lengths)])
    parted, _ = after_one_step(list(zip(ids.split(1), lengths.split(1), strict=True)))
    torch.testing.assert_close(whole.wte.weight, parted.wte.weight, rtol=1e-10, atol=1e-13)


def test_an_interrupted_run_with_accumulation_goes_on_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=10, accumulate=2)  # the second part of step 5
    resumed = run(tmp_path / "cut", accumulate=2)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert torch.equal(whole.wte.weight, resumed.wte.weight)


def test_batches_that_end_too_soon_are_told(tmp_path):
    model = GPT2(CONFIG)
    config = TrainingConfig(5, 4, precision="fp32", accumulate=2)
    with pytest.raises(ValueError, match="ended at step 3 of 5"):
        train(
            model,
            lambda ids: next_token_loss(model, ids),
            lambda n: [torch.zeros(4, 5, dtype=torch.long)] * 7,
            config,
            tmp_path,
        )


# ---- precision and memory ------------------------------------------------------------------------


def gradients(model, compute):
    torch.manual_seed(11)
    model.train()
    model.zero_grad()
    compute()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_recomputed_blocks_give_the_very_same_gradients_with_dropout_on():
    torch.manual_seed(0)
    model = GPT2(CONFIG)
    names = set(model.state_dict())
    ids = torch.randint(31, (3, 9))
    kept = gradients(model, lambda: next_token_loss(model, ids)[0].backward())
    calls = []
    hook = model.h[1].ln_2.register_forward_hook(lambda *_: calls.append(1))
    with recomputing(model.h):
        assert set(model.state_dict()) == names
        again = gradients(model, lambda: next_token_loss(model, ids)[0].backward())
        assert len(calls) == 2  # forwards, and once more on the way back
        model.eval()
        with torch.no_grad():
            model(ids)
        assert len(calls) == 3  # nothing to go back for
    hook.remove()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert "forward" not in vars(model.h[0])


def test_logits_in_chunks_give_the_same_loss_and_gradients():
    torch.manual_seed(0)
    model = GPT2(CONFIG).double().eval()
    ids = torch.randint(31, (3, 9))
    whole, count = next_token_loss(model, ids)
    whole.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    parted, same = next_token_loss(model, ids, chunk=7)  # 24 tokens: 7, 7, 7, 3
    parted.backward()
    assert count == same == 24
    torch.testing.assert_close(parted, whole, rtol=1e-6, atol=0)  # the loss itself is float32
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-5, atol=1e-7, msg=name)


def test_fp16_scales_its_loss_and_goes_on_with_its_scale(tmp_path):
    options = {"precision": "fp16", "steps": 30}
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "fp32", steps=30)
    rows, wide = ([float(row[1]) for row in losses(tmp_path / f)] for f in ("whole", "fp32"))
    assert rows != wide
    # The same losses but for fp16's 11 bits; a step too few or too many shows by 1e-2.
    assert rows == pytest.approx(wide, abs=2e-3)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in whole.parameters())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=9, **options)
    resumed = run(tmp_path / "cut", **options)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert torch.equal(whole.wte.weight, resumed.wte.weight)
    scales = [
        torch.load(tmp_path / folder / checkpoint.LAST, weights_only=True)["scaler"]
        for folder in ("cut", "whole")
    ]
    assert scales[0] == scales[1] and scales[1]["_growth_tracker"] == 30


def test_an_overflow_of_fp16s_scale_skips_the_step_and_halves_the_scale():
    model = GPT2(CONFIG).eval()
    run = begin(model, TrainingConfig(1, 4, precision="fp16"), "")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = model.wte.weight.clone()
    ids = next(batches(0))
    config = TrainingConfig(1, 4, precision="fp16")
    loss, norm, _ = train_step(
        model, lambda ids: next_token_loss(model, ids), [ids], run.optimizers, config, run.scaler
    )
    assert math.isfinite(loss) and not math.isfinite(norm)
    assert torch.equal(model.wte.weight, before)
    assert run.scaler.get_scale() == 2.0**39
