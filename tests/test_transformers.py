"""GPT-2 against `transformers` on random tiny sizes, there and back through both file layouts."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import PATHS, gap, grad, random_ids, random_model, stir

from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.model import GPT2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")

# Everything is float64: rounding is about 1e-14 here, and the smallest planted mistake above 1e-5.
ATOL = 1e-10

SIZES = {  # n_vocab, n_ctx, n_embd, n_head, n_layer
    "primes": (31, 13, 21, 3, 2),
    "one head, one block": (17, 11, 19, 1, 1),
    "as many heads as channels": (29, 7, 5, 5, 3),
    "more than ten blocks": (23, 11, 14, 2, 12),
}


@pytest.fixture(scope="module", params=list(SIZES.values()), ids=list(SIZES))
def theirs(request: pytest.FixtureRequest) -> Any:
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    sizes = dict(zip(names, request.param, strict=True))
    config = transformers.GPT2Config(
        **sizes, bos_token_id=0, eos_token_id=0, attn_implementation="eager"
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    stir(model)
    return model


@pytest.fixture(scope="module")
def saved(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(folder)
    return folder


def ids_for(model: GPT2) -> torch.Tensor:
    return random_ids(3, model.config.n_ctx, model.config.n_vocab)


def their_name(name: str) -> str:
    """Hugging Face's name of one of our parameters, spelled out once more for the tests."""
    stem, leaf = name.rsplit(".", 1)
    return f"transformer.{stem}.{'bias' if leaf == 'b' else 'weight'}"


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_logits_are_theirs(theirs: Any, saved: Path, path: str) -> None:
    ours = load_gpt2(saved, attention=path)
    assert ours.wte.weight.dtype == torch.float64 and not ours.training
    ids = ids_for(ours)
    assert gap(ours(ids), theirs(ids).logits) < ATOL


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_logits_are_theirs_with_left_padding(theirs: Any, saved: Path, path: str) -> None:
    ours = load_gpt2(saved, attention=path)
    ids = ids_for(ours)
    real = torch.ones_like(ids)
    real[0, :3], real[1, :1] = 0, 0
    positions = (real.cumsum(1) - 1).clamp(min=0)
    wanted = theirs(ids, attention_mask=real, position_ids=positions).logits
    got = ours(ids, real == 0)
    assert gap(got[real == 1], wanted[real == 1]) < ATOL


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_of_every_parameter_is_theirs(theirs: Any, saved: Path, path: str) -> None:
    ours = load_gpt2(saved, attention=path)
    ids = ids_for(ours)
    ours(ids).square().sum().backward()
    theirs.zero_grad()
    theirs(ids).logits.square().sum().backward()
    wanted = {name: grad(parameter) for name, parameter in theirs.named_parameters()}
    got = {their_name(name): grad(parameter) for name, parameter in ours.named_parameters()}
    assert got.keys() == wanted.keys()
    for name in wanted:
        far = gap(got[name], wanted[name]) / wanted[name].abs().max().item()
        assert far < ATOL, (name, far)


@torch.no_grad()
def test_ours_saved_loads_in_theirs(tmp_path: Path) -> None:
    ours = random_model(n_layer=11)
    save_gpt2(ours, tmp_path)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"]
    ids = ids_for(ours)
    assert gap(theirs.eval()(ids).logits, ours(ids)) < ATOL


@torch.no_grad()
def test_there_and_back_changes_no_weight(theirs: Any, saved: Path, tmp_path: Path) -> None:
    save_gpt2(load_gpt2(saved), tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    wanted = theirs.state_dict()
    got = again.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    ids = random_ids(2, 5, theirs.config.vocab_size)
    assert gap(again(ids).logits, theirs(ids).logits) < ATOL
