"""What learns and what does not: flags, modes, gradients, groups, and a step."""

from typing import get_args

import pytest
import torch
from small_captioners import batch, small_captioner
from torch import nn

from captioning.config import Rates, Trained
from captioning.scenes.draw import draw
from captioning.trained import prepare
from connector.config import ReducerConfig
from gpt2_scratch.training.lora import LoRAConfig, adapted, merge_lora, remove_lora
from gpt2_scratch.training.optim import parameter_groups

TRAINED = get_args(Trained)
PARTS = {
    "connector": ("connector.",),
    "connector+lora": ("connector.", "lora"),
    "connector+gpt2": ("connector.", "gpt2."),
    "all": ("connector.", "gpt2.", "vision."),
}
UNREAD = ("vision.ln_post.", "vision.proj")  # behind the states that captions are made of


def learns(name, trained):
    """Whether the parameter of this name is to learn, told from the names alone."""
    if ".lora_" in name:
        return trained == "connector+lora"
    return name.startswith(PARTS[trained]) and not name.startswith(UNREAD)


def prepared(trained, variant="article", **changes):
    captioner = small_captioner(variant, **changes)
    rates = prepare(captioner, trained, generator=torch.Generator().manual_seed(1))
    return captioner, rates


@pytest.mark.parametrize("trained", TRAINED)
def test_exactly_the_named_parts_learn(trained):
    captioner, _ = prepared(trained)
    for name, parameter in captioner.named_parameters():
        assert parameter.requires_grad == learns(name, trained), name
    assert any(adapted(captioner.gpt2)) == (trained == "connector+lora")


@pytest.mark.parametrize("trained", TRAINED)
def test_frozen_parts_stay_in_eval_mode(trained):
    captioner, _ = prepared(trained)
    assert not any(module.training for module in captioner.modules())
    nn.ModuleDict({"wrapped": captioner}).train()  # as a wrapper for several processes does
    for name, module in captioner.named_modules():
        held = list(module.parameters())
        if held:
            assert module.training == any(p.requires_grad for p in held), name
    modes = {name: getattr(captioner, name).training for name in ("vision", "connector", "gpt2")}
    assert modes == {
        "vision": trained == "all",
        "connector": True,
        "gpt2": trained != "connector",
    }
    dropout = captioner.connector.dense.projection[1]
    assert isinstance(dropout, nn.Dropout) and dropout.training
    captioner.eval()
    assert not any(module.training for module in captioner.modules())


def test_a_frozen_language_model_drops_nothing():
    captioner, _ = prepared("connector")
    captioner.train()
    captioner.connector.eval()
    pixels, ids, lengths = batch(captioner)
    first, second = (captioner.loss_sum(pixels, ids, lengths)[0] for _ in range(2))
    assert torch.equal(first, second)
    captioner, _ = prepared("connector+gpt2")
    captioner.train()
    captioner.connector.eval()
    first, second = (captioner.loss_sum(pixels, ids, lengths)[0] for _ in range(2))
    assert not torch.equal(first, second)


VARIANTS = [("article", "article"), ("last", "pool"), ("dci", "pool"), ("sci", "conv")]
VARIANTS += [("sti", "none")]
REDUCERS = {
    "article": ReducerConfig(strides=(2, 2)),
    "conv": ReducerConfig(kind="conv", strides=(3, 2)),
    "pool": ReducerConfig(kind="pool"),
    "none": ReducerConfig(kind="none"),
}


@pytest.mark.parametrize(("variant", "reducer"), VARIANTS)
@pytest.mark.parametrize("trained", TRAINED)
def test_what_learns_has_a_gradient_and_nothing_else(trained, variant, reducer):
    """Both ways: processes that share a run wait for the gradient of whatever is to learn."""
    captioner, _ = prepared(trained, variant, reducer=REDUCERS[reducer])
    captioner.train()
    captioner.loss_sum(*batch(captioner))[0].backward()
    for name, parameter in captioner.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None and not name.endswith("lora_a"):  # B is zero at first
            assert parameter.grad.abs().max() > 0, name


def test_a_frozen_tower_is_computed_as_without_gradients():
    seen = []
    for trained in ("connector+gpt2", "all"):
        captioner, _ = prepared(trained)
        block = captioner.vision.transformer.resblocks[0]
        block.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
        pixels, *_ = batch(captioner)
        states = captioner.hidden_states(pixels)
        assert all(state.requires_grad == (trained == "all") for state in states)
        states = captioner.hidden_states(pixels.requires_grad_())
        assert all(state.requires_grad for state in states)  # whoever asks for the pixels' gets it
        assert torch.is_grad_enabled()
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("trained", TRAINED)
def test_groups_have_their_parts_rates_and_no_decay_on_norms_and_biases(trained):
    captioner, rates = prepared(trained)
    assert rates == Rates().by_prefix(trained)
    groups = parameter_groups(captioner, rates, weight_decay=0.07)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    for name, parameter in captioner.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found
            continue
        part = name.partition(".")[0]
        rate = getattr(Rates(), "lora" if ".lora_" in name else part)
        still = "ln_" in name or name.endswith(("bias", ".b", ".g", "class_embedding"))
        still |= name == "connector.dense.projection.2.weight"  # the LayerNorm's
        assert found[id(parameter)] == (rate, 0.0 if still else 0.07), name


@pytest.mark.parametrize("trained", TRAINED)
def test_a_step_moves_what_learns_and_only_that(trained):
    captioner, rates = prepared(trained)
    before = {name: p.detach().clone() for name, p in captioner.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(captioner, rates, 0.01))
    for _ in range(2):  # in the first step A of LoRA has no gradient yet
        captioner.train().loss_sum(*batch(captioner))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in captioner.named_parameters():
        assert torch.equal(parameter, before[name]) != learns(name, trained), name


def test_lora_takes_its_settings_and_can_be_merged():
    captioner = small_captioner()
    prepare(captioner, "connector+lora", lora=LoRAConfig(rank=2, linears=("attn.c_attn",)))
    assert [name for name, _ in adapted(captioner.gpt2)] == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    assert all(part.lora_a.shape[1] == 2 for _, part in adapted(captioner.gpt2))
    for _, part in adapted(captioner.gpt2):
        nn.init.normal_(part.lora_b)
    with_adapters = captioner.eval().loss_sum(*batch(captioner))[0]
    merge_lora(captioner.gpt2)
    remove_lora(captioner.gpt2)
    torch.testing.assert_close(captioner.loss_sum(*batch(captioner))[0], with_adapters)


def test_what_is_trained_can_change_between_runs():
    captioner, _ = prepared("connector+lora")
    held = dict(adapted(captioner.gpt2))
    prepare(captioner, "connector+lora")
    assert dict(adapted(captioner.gpt2)) == held  # the adapters that were there
    prepare(captioner, "connector")
    assert not any(p.requires_grad for p in captioner.gpt2.parameters())
    with pytest.raises(ValueError, match=r"has LoRA adapters.*merge_lora, remove_lora"):
        prepare(captioner, "all")
    remove_lora(captioner.gpt2)
    prepare(captioner, "all")
    assert all(p.requires_grad for p in captioner.gpt2.parameters())


def test_another_word_is_refused_and_changes_nothing():
    captioner = small_captioner()
    with pytest.raises(ValueError, match=r"trained='clip': choose of .'connector'"):
        prepare(captioner, "clip")
    assert all(p.requires_grad for p in captioner.parameters())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trained", TRAINED)
def test_what_learns_is_float32_and_the_rest_stays_narrow(trained, half):
    captioner = small_captioner().to(half)
    prepare(captioner, trained)
    for name, parameter in captioner.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else half), name


@pytest.mark.parametrize("trained", TRAINED)
def test_parts_of_two_widths_still_caption_and_learn(trained):
    """As between two validations of a run whose frozen parts are bfloat16."""
    captioner = small_captioner().to(torch.bfloat16)
    prepare(captioner, trained)
    assert len(captioner.caption([draw(0).image], max_new_tokens=3)) == 1
    pixels, ids, lengths = batch(captioner)
    pixels = pixels.to(captioner.vision.positional_embedding.dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = captioner.train().loss_sum(pixels, ids, lengths)
    loss.backward()
    assert torch.isfinite(loss)


def test_float64_stays_float64():
    captioner = small_captioner().double()
    prepare(captioner, "all")
    assert {p.dtype for p in captioner.parameters()} == {torch.float64}
