"""Every layout that GPT-2 is published in becomes the same model, to the bit.

Oracles: OpenAI's own code on the files that TensorFlow wrote, transformers on everything else.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import gap, present, random_ids, random_model
from layouts import (
    LAYOUTS,
    huggingface_name,
    openai_name,
    write_layout,
    write_tensorflow,
)
from safetensors.torch import load_file

from gpt2_scratch.generate import generate
from gpt2_scratch.loader import load_gpt2, to_our_name
from gpt2_scratch.model import GPT2

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")

# Rounding stays below 1e-5; the smallest of the real mistakes tried, exact GELU, makes 1.5e-3.
ATOL = 1e-4

Arrays = dict[str, torch.Tensor]


def read_oracle(folder: Path) -> Arrays:
    with np.load(folder / "oracle.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


# --- OpenAI's own files -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_a(golden: Path) -> Arrays:
    return read_oracle(golden / "tiny-a")


@torch.no_grad()
@pytest.mark.parametrize("batch", ["full", "short"])
@pytest.mark.parametrize("layout", ["openai", "openai-2shard"])
def test_tensorflows_files_compute_what_openais_code_did(
    golden: Path, tiny_a: Arrays, layout: str, batch: str
) -> None:
    model = load_gpt2(golden / "tiny-a" / layout)
    ids = tiny_a[f"{batch}.tokens"]
    assert gap(model(ids), tiny_a[f"{batch}.logits"]) < ATOL
    # Logits don't show the key part of c_attn's bias, keys do.
    assert gap(present(model, ids), tiny_a[f"{batch}.present"]) < ATOL


def greedy(model: GPT2, oracle: Arrays) -> torch.Tensor:
    """The context and what the model puts behind it, as `greedy.tokens` is."""
    context, wanted = oracle["greedy.context"], oracle["greedy.tokens"]
    new = generate(model, context, wanted.shape[1] - context.shape[1])
    return torch.cat([context, new], 1)


@pytest.mark.parametrize("layout", ["openai", "openai-2shard"])
def test_greedy_tokens_are_openais(golden: Path, tiny_a: Arrays, layout: str) -> None:
    model = load_gpt2(golden / "tiny-a" / layout)
    assert greedy(model, tiny_a).equal(tiny_a["greedy.tokens"])


def test_the_safetensors_are_the_tensorflow_files_to_the_bit(golden: Path) -> None:
    folders = ("openai", "openai-2shard", "hf-prefixed", "hf-legacy")
    first, *others = (load_gpt2(golden / "tiny-a" / folder) for folder in folders)
    for other in others:
        for (name, one), two in zip(first.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two), name


@torch.no_grad()
@pytest.mark.parametrize("batch", ["full", "short"])
def test_tiny_b_with_gpt2s_vocabulary(shared: Path, batch: str) -> None:
    folder = shared / "oracle" / "tiny-b"
    oracle, model = read_oracle(folder), load_gpt2(folder / "openai")
    ids = oracle[f"{batch}.tokens"]
    logits = model(ids)
    assert gap(logits[..., oracle["logits_cols"]], oracle[f"{batch}.logits_cols"]) < ATOL
    assert gap(logits.double().logsumexp(-1), oracle[f"{batch}.logits_logsumexp"]) < ATOL
    top = logits.gather(-1, oracle[f"{batch}.logits_top10_ids"])
    assert gap(top, oracle[f"{batch}.logits_top10"]) < ATOL
    assert gap(present(model, ids), oracle[f"{batch}.present"]) < ATOL
    if batch == "full":
        assert gap(logits[:, -1], oracle["full.logits_last"]) < ATOL
        assert greedy(model, oracle).equal(oracle["greedy.tokens"])


# --- other sizes, against transformers --------------------------------------------------------

SIZES = {  # n_vocab, n_ctx, n_embd, n_head, n_layer
    "h10 before h2": (47, 19, 28, 4, 12),
    "primes": (31, 13, 21, 3, 2),
    "one head, one block": (263, 11, 19, 1, 1),
}


@pytest.fixture(scope="module", params=list(SIZES.values()), ids=list(SIZES))
def theirs(request: pytest.FixtureRequest) -> Any:
    n_vocab, n_ctx, n_embd, n_head, n_layer = request.param
    config = transformers.GPT2Config(
        vocab_size=n_vocab,
        n_positions=n_ctx,
        n_embd=n_embd,
        n_head=n_head,
        n_layer=n_layer,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # wide enough that every number counts
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def twin(theirs: Any) -> GPT2:
    """The same weights in our class, put there by names spelled out in the tests."""
    c = theirs.config
    sizes = {"n_vocab": c.vocab_size, "n_ctx": c.n_positions, "n_embd": c.n_embd}
    model = random_model(dtype=torch.float32, n_head=c.n_head, n_layer=c.n_layer, **sizes)
    state = theirs.transformer.state_dict()
    model.load_state_dict({name: state[huggingface_name(name)] for name in model.state_dict()})
    return model


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_model_to_the_bit(
    theirs: Any, twin: GPT2, tmp_path: Path, layout: str
) -> None:
    model = load_gpt2(write_layout(layout, twin, tmp_path))
    assert not model.training
    for (name, one), two in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert one.dtype == torch.float32 and one.requires_grad and torch.equal(one, two), name
    ids = random_ids(3, model.config.n_ctx, model.config.n_vocab)
    known = theirs(ids, use_cache=True)
    assert gap(model(ids), known.logits) < ATOL
    cached = [torch.stack([layer.keys, layer.values]) for layer in known.past_key_values.layers]
    assert gap(present(model, ids), torch.stack(cached).permute(2, 0, 1, 3, 4, 5)) < ATOL


@torch.no_grad()
def test_greedy_tokens_are_theirs(theirs: Any, twin: GPT2, tmp_path: Path) -> None:
    write_tensorflow(twin, tmp_path, shards=2)
    ids = random_ids(2, 3, twin.config.n_vocab)
    new = generate(load_gpt2(tmp_path), ids, 7)
    for _ in range(7):
        ids = torch.cat([ids, theirs(ids).logits[:, -1:].argmax(-1)], 1)
    assert new.equal(ids[:, 3:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["no prefix, with masks", "bin", "openai", "old bin"])
def test_the_files_dtype_stays_unless_another_is_asked_for(
    tmp_path: Path, layout: str, dtype: torch.dtype
) -> None:
    twin = random_model(dtype=torch.float32, n_layer=11)
    if layout != "openai":  # TensorFlow's were never published in half
        twin = twin.to(dtype)
    model = load_gpt2(write_layout(layout, twin, tmp_path))
    assert {p.dtype for p in model.parameters()} == {twin.wte.weight.dtype}
    for wanted in (torch.float32, dtype):
        model = load_gpt2(tmp_path, dtype=wanted)
        for (name, one), two in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert one.dtype == wanted and torch.equal(one, two.to(wanted)), name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model/wte", "wte.weight"),
        ("model/wpe", "wpe.weight"),
        ("model/h0/attn/c_attn/w", "h.0.attn.c_attn.w"),
        ("model/h10/ln_1/g", "h.10.ln_1.g"),
        ("model/h2/mlp/c_proj/b", "h.2.mlp.c_proj.b"),
        ("model/ln_f/b", "ln_f.b"),
    ],
)
def test_openais_names(theirs: str, ours: str) -> None:
    assert to_our_name(theirs) == ours
    assert openai_name(ours) == theirs  # of the tests, by the way


# --- the file and the model -------------------------------------------------------------------

MAPPED = ["openai", "safetensors", "bin"]


@pytest.mark.parametrize("layout", MAPPED)
def test_training_in_place_leaves_the_file_alone(tmp_path: Path, layout: str) -> None:
    twin = random_model(dtype=torch.float32)
    write_layout(layout, twin, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    model = load_gpt2(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(random_ids(2, 7)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.wte.weight, twin.wte.weight)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert torch.equal(load_gpt2(tmp_path).wte.weight, twin.wte.weight)


@torch.no_grad()
@pytest.mark.skipif(os.name == "nt", reason="a mapped file stays there. Run on POSIX: make test")
@pytest.mark.parametrize("layout", MAPPED)
def test_a_model_outlives_its_files(tmp_path: Path, layout: str) -> None:
    twin = random_model(dtype=torch.float32)
    model = load_gpt2(write_layout(layout, twin, tmp_path / "one"))
    other = load_gpt2(write_layout(layout, twin, tmp_path / "two"))
    shutil.rmtree(tmp_path / "one")
    write_layout(layout, random_model(1, torch.float32), tmp_path / "new")
    for path in (tmp_path / "new").iterdir():
        path.replace(tmp_path / "two" / path.name)
    for name, wanted in twin.state_dict().items():
        assert torch.equal(model.get_parameter(name), wanted), name
        assert torch.equal(other.get_parameter(name), wanted), name


def test_what_transformers_saves_in_shards(tmp_path: Path, theirs: Any) -> None:
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    model = load_gpt2(tmp_path)
    wte = theirs.transformer.wte.weight
    assert torch.equal(model.wte.weight, wte)
    held = {name for shard in shards for name in load_file(shard)}
    assert len(held) == 4 + 12 * model.config.n_layer
