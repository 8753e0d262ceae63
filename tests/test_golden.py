"""GPT-2 against OpenAI's own code: `tiny-a` holds weights, every intermediate and the logits."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PATHS, gap, present, recorded

from gpt2_scratch.cache import KVCache
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.model import GPT2

# Rounding stays below 1e-5; the smallest of the real mistakes tried, exact GELU, makes 1.5e-3.
ATOL = 1e-4
LAYOUTS = ("hf-prefixed", "hf-legacy")


@pytest.fixture(scope="module")
def oracle(golden: Path) -> dict[str, torch.Tensor]:
    with np.load(golden / "tiny-a" / "oracle.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module", params=PATHS)
def model(request: pytest.FixtureRequest, golden: Path) -> GPT2:
    return load_gpt2(golden / "tiny-a" / "hf-prefixed", attention=request.param)


def test_the_fixture_is_whole(golden: Path) -> None:
    manifest = json.loads((golden / "tiny-a" / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (golden / "tiny-a" / name).read_bytes()
        assert sha256(content).hexdigest() == entry["sha256"], name


@torch.no_grad()
@pytest.mark.parametrize("batch", ["full", "short"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_openais(
    golden: Path, oracle: dict[str, torch.Tensor], layout: str, batch: str
) -> None:
    for attention in PATHS:
        model = load_gpt2(golden / "tiny-a" / layout, attention=attention)
        assert gap(model(oracle[f"{batch}.tokens"]), oracle[f"{batch}.logits"]) < ATOL


@torch.no_grad()
@pytest.mark.parametrize("batch", ["full", "short"])
def test_every_intermediate_is_openais(
    model: GPT2, oracle: dict[str, torch.Tensor], batch: str
) -> None:
    wanted = {
        name.removeprefix(f"{batch}."): value
        for name, value in oracle.items()
        if name.startswith(f"{batch}.")
        and name.split(".")[-1] not in ("tokens", "logits", "present")
    }
    with recorded(model) as got:
        model(oracle[f"{batch}.tokens"])
    assert len(wanted) == 2 + 3 * 6  # embed, ln_f, six places in each of three blocks
    assert got.keys() == wanted.keys()
    far = {name: gap(got[name], wanted[name]) for name in wanted}
    assert max(far.values()) < ATOL, {name: f"{value:.1e}" for name, value in far.items()}


@torch.no_grad()
@pytest.mark.parametrize("batch", ["full", "short"])
def test_keys_and_values_are_openais(
    model: GPT2, oracle: dict[str, torch.Tensor], batch: str
) -> None:
    assert gap(present(model, oracle[f"{batch}.tokens"]), oracle[f"{batch}.present"]) < ATOL


@torch.no_grad()
def test_going_on_from_a_cache_is_openais_past(
    model: GPT2, oracle: dict[str, torch.Tensor]
) -> None:
    ids, split = oracle["full.tokens"], int(oracle["past.split"])
    cache = KVCache(model.config, len(ids))
    model.forward_embeddings(model.embed(ids[:, :split]), cache=cache)
    logits = model.forward_embeddings(model.embed(ids[:, split:]), cache=cache)
    assert gap(logits, oracle["past.logits"]) < ATOL


def test_parameters_have_openais_names_and_shapes(model: GPT2) -> None:
    # As `tiny-a/README.md` lists the variables of the checkpoint, each `w` (1, in, out) there.
    block = {
        **{f"{norm}/{leaf}": (48,) for norm in ("ln_1", "ln_2") for leaf in "gb"},
        **{"attn/c_attn/w": (48, 144), "attn/c_attn/b": (144,)},
        **{"attn/c_proj/w": (48, 48), "attn/c_proj/b": (48,)},
        **{"mlp/c_fc/w": (48, 192), "mlp/c_fc/b": (192,)},
        **{"mlp/c_proj/w": (192, 48), "mlp/c_proj/b": (48,)},
    }
    variables = {
        **{"wte": (257, 48), "wpe": (32, 48), "ln_f/g": (48,), "ln_f/b": (48,)},
        **{f"h{layer}/{name}": shape for layer in range(3) for name, shape in block.items()},
    }

    def openais(name: str) -> str:
        stem = name.removesuffix(".weight") if name.startswith(("wte", "wpe")) else name
        return stem.replace("h.", "h", 1).replace(".", "/")

    state = {openais(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert state == variables
    assert len(variables) == 40
    assert not list(model.buffers())
