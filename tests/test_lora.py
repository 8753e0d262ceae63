"""LoRA: the paper's formula, nothing changed at first, merged and unmerged, saved alone."""

import json

import pytest
import torch
from helpers import gap, random_ids, random_model

from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.model import Conv1D
from gpt2_scratch.training.loop import TrainingConfig, train
from gpt2_scratch.training.lora import (
    LoRAConfig,
    LoRAConv1D,
    add_lora,
    load_lora,
    lora_state,
    merge_lora,
    remove_lora,
    save_lora,
    unmerge_lora,
)
from gpt2_scratch.training.loss import next_token_loss
from gpt2_scratch.training.settings import LINEARS


def adapted_model(seed=0, stirred=True, dtype=torch.float64, **settings):
    """A tiny GPT-2 with adapters of rank 5; `stirred`: B is no longer zero."""
    model = random_model(seed, dtype)
    add_lora(model, LoRAConfig(**{"rank": 5, "alpha": 7.0} | settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in lora_state(model).items():
            tensor.data = tensor.to(dtype)
            if stirred and name.endswith("lora_b"):
                tensor.normal_(generator=generator)
    return model


def test_the_formula_is_the_papers():
    torch.manual_seed(0)
    base = Conv1D(3, 11).double()
    base.w.data.normal_()
    base.b.data.normal_()
    lora = LoRAConv1D(base, LoRAConfig(rank=2, alpha=6.0)).double()
    lora.lora_b.data.normal_()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    a, b = lora.lora_a, lora.lora_b
    assert a.shape == (3, 2) and b.shape == (2, 11)
    # h = W0 x + alpha / r B A x for columns x; rows here, so all is transposed.
    wanted = (base.w.T @ x.mT + 6.0 / 2 * (b.T @ (a.T @ x.mT))).mT + base.b
    torch.testing.assert_close(lora(x), wanted, rtol=1e-10, atol=1e-12)


def test_at_first_nothing_is_changed_and_names_stay():
    plain = random_model()
    ids = random_ids(2, 7)
    names, wanted = list(plain.state_dict()), plain(ids)
    model = adapted_model(stirred=False)
    assert torch.equal(model(ids), wanted)
    assert [name for name in model.state_dict() if ".lora_" not in name] == names
    added = {name for name in model.state_dict() if ".lora_" in name}
    assert added == {
        f"h.{i}.{linear}.lora_{leaf}" for i in range(2) for linear in LINEARS for leaf in "ab"
    }
    assert set(lora_state(model)) == added


def test_only_the_adapters_learn(tmp_path):
    model = adapted_model(stirred=False, dtype=torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = TrainingConfig(5, 2, rates={"": 1e-2}, precision="fp32", weight_decay=0.0)
    train(
        model,
        lambda ids: next_token_loss(model, ids),
        lambda n: [random_ids(2, 8)] * 5,
        config,
        tmp_path,
    )
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert torch.equal(parameter, before[name]) == (".lora_" not in name), name
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["module"]
    assert set(held) == set(lora_state(model))  # of the frozen 20,000 not one


def test_merged_is_the_same_model_and_unmerged_the_one_before():
    model = adapted_model()
    ids = random_ids(2, 7)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    wanted = model(ids)
    assert gap(wanted, random_model()(ids)) > 1e-3  # the adapters do something
    merge_lora(model)
    merge_lora(model)  # once is enough
    assert gap(model(ids), wanted) < 1e-10  # float64
    w = model.h[1].mlp.c_fc.w
    assert gap(w, before["h.1.mlp.c_fc.w"]) > 1e-3
    unmerge_lora(model)
    unmerge_lora(model)
    for name, tensor in model.state_dict().items():
        assert gap(tensor, before[name]) < 1e-14, name
    assert torch.equal(model(ids), wanted) or gap(model(ids), wanted) < 1e-10


def test_merged_it_learns_nothing_and_says_so():
    model = adapted_model()
    merge_lora(model)
    with pytest.raises(ValueError, match="Unmerge it first"):
        model.train()(random_ids(1, 3))


def test_merged_and_removed_it_is_a_plain_gpt2_on_disk(tmp_path):
    model = adapted_model(dtype=torch.float32)
    ids = random_ids(2, 7)
    wanted = model(ids)
    merge_lora(model)
    with pytest.raises(ValueError, match=r"nothing was written\. Merge adapters and take them off"):
        save_gpt2(model, tmp_path)
    assert not list(tmp_path.iterdir())
    remove_lora(model)
    assert not any(isinstance(part, LoRAConv1D) for part in model.modules())
    assert not lora_state(model)
    save_gpt2(model, tmp_path)
    assert gap(load_gpt2(tmp_path)(ids), wanted) < 1e-4  # float32, logits of about 30


def test_removed_unmerged_it_is_the_model_before():
    model = adapted_model()
    remove_lora(model)
    assert torch.equal(model(random_ids(2, 7)), random_model()(random_ids(2, 7)))


def test_adapters_are_saved_and_loaded_alone(tmp_path):
    model = adapted_model(dtype=torch.float32, linears=("attn.c_attn", "mlp.c_proj"), dropout=0.3)
    save_lora(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["linears"] == [
        "attn.c_attn",
        "mlp.c_proj",
    ]
    other = random_model(dtype=torch.float32)
    load_lora(other, tmp_path)
    assert torch.equal(other(random_ids(2, 7)), model(random_ids(2, 7)))
    part = other.h[0].attn.c_attn
    assert isinstance(part, LoRAConv1D) and part.config == model.h[0].attn.c_attn.config
    assert [n for n, p in other.named_parameters() if p.requires_grad] == list(lora_state(model))


def test_adapters_of_another_size_leave_the_model_as_it_was(tmp_path):
    save_lora(adapted_model(), tmp_path)
    other = random_model(n_embd=15)
    with pytest.raises(ValueError, match=r"mis-shaped: h\.0\.attn\.c_attn\.lora_a \(21, 5\)"):
        load_lora(other, tmp_path)
    assert not lora_state(other)
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_missing_and_unexpected_adapters_are_told(tmp_path):
    save_lora(adapted_model(), tmp_path)
    with pytest.raises(ValueError, match=r"unexpected: h\.1"):
        load_lora(random_model(n_layer=1), tmp_path)
    with pytest.raises(ValueError, match=r"missing: h\.2"):
        load_lora(random_model(n_layer=3), tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    save_gpt2(random_model(dtype=torch.float32), tmp_path)
    with pytest.raises(ValueError, match="not one of LoRA adapters"):
        load_lora(random_model(), tmp_path)


def test_dropout_acts_in_training_only():
    model = adapted_model(dropout=0.5)
    ids = random_ids(2, 7)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert gap(model(ids), model(ids)) > 1e-6


def test_a_model_in_bfloat16_takes_adapters_in_float32():
    model = random_model(dtype=torch.bfloat16)
    add_lora(model, LoRAConfig(rank=3))
    assert {t.dtype for t in lora_state(model).values()} == {torch.float32}
    assert model(random_ids(2, 7)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rank": 0}, "rank=0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"linears": ()}, "given no linears"),
        ({"linears": ("c_nothing",)}, "called c_nothing"),
    ],
)
def test_settings_that_can_not_be_are_told(settings, match):
    with pytest.raises(ValueError, match=match):
        add_lora(random_model(), LoRAConfig(**settings))


def test_adapters_upon_adapters_are_refused():
    with pytest.raises(ValueError, match="already"):
        add_lora(adapted_model(), LoRAConfig())
