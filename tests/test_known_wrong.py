"""The contracts of the other tests, judged: each must reject the mistakes that are its to see.

`python -m pytest tests/test_known_wrong.py -k table -s` shows where each mistake is first seen.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PATHS, gap, present, random_ids, random_model, recorded, stir
from torch.nn import functional as F

from gpt2_scratch import model as model_file
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.mistakes import MISTAKES, Mistake, attention, layer_norm, masking
from gpt2_scratch.model import GPT2
from weights.planting import rebound

ATOL = 1e-4  # of the golden tests: rounding is below 1e-5
MARGIN = 10  # a mistake is at least so many tolerances away; exact GELU, the smallest, is 15

# The contracts, each a function of a config's attention path: how far the model is from right.
Contract = Callable[[str], float]
NAMES = [mistake.name for mistake in MISTAKES]


@pytest.fixture(scope="module")
def tiny_a(golden: Path) -> Path:
    return golden / "tiny-a"


@pytest.fixture(scope="module")
def oracle(tiny_a: Path) -> dict[str, torch.Tensor]:
    with np.load(tiny_a / "oracle.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def twelve_blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A folder of transformers' with 12 blocks, and its logits of `random_ids(2, 7)`."""
    transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
    folder = tmp_path_factory.mktemp("twelve")
    sizes = {"vocab_size": 31, "n_positions": 13, "n_embd": 21, "n_head": 3, "n_layer": 12}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    stir(model)
    model.save_pretrained(folder)
    with torch.no_grad():
        return folder, model(random_ids(2, 7)).logits


@pytest.fixture(scope="module")
def contracts(
    tiny_a: Path,
    oracle: dict[str, torch.Tensor],
    twelve_blocks: tuple[Path, torch.Tensor],
) -> dict[str, Contract]:
    def model_of(path: str) -> GPT2:
        return load_gpt2(tiny_a / "hf-prefixed", attention=path)

    def logits(path: str) -> float:
        return gap(model_of(path)(oracle["full.tokens"]), oracle["full.logits"])

    def keys(path: str) -> float:
        return gap(present(model_of(path), oracle["full.tokens"]), oracle["full.present"])

    def cache(path: str) -> float:
        model, ids, split = model_of(path), oracle["full.tokens"], int(oracle["past.split"])
        held = KVCache(model.config, 2)
        model.forward_embeddings(model.embed(ids[:, :split]), cache=held)
        got = model.forward_embeddings(model.embed(ids[:, split:]), cache=held)
        return gap(got, oracle["past.logits"])

    def mask(path: str) -> float:
        """0 if the softmax gets -inf at every future key and nowhere else, or else 1."""
        seen: list[torch.Tensor] = []
        right = torch.softmax

        def spy(scores: torch.Tensor, dim: int) -> torch.Tensor:
            seen.append(scores)
            return right(scores, dim)

        with rebound(torch, "softmax", spy):
            model_of(path)(oracle["short.tokens"])
        future = torch.ones(11, 11, dtype=torch.bool).triu(1)
        assert len(seen) == 3 or path == "sdpa"
        return float(any(not torch.equal(s == -torch.inf, future.expand_as(s)) for s in seen))

    def padding(path: str) -> float:
        ids = F.pad(oracle["short.tokens"], (4, 0), value=7)
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[:, :4] = True
        return gap(model_of(path)(ids, hidden)[:, 4:], oracle["short.logits"])

    def depth(path: str) -> float:
        folder, wanted = twelve_blocks
        return gap(load_gpt2(folder, attention=path)(random_ids(2, 7)), wanted)

    def causality(path: str) -> float:
        """How much another last token changes what came before it."""
        model, ids = model_of(path), oracle["short.tokens"]
        other = ids.clone()
        other[:, -1] += 1
        return gap(model(ids)[:, :-1], model(other)[:, :-1])

    def layer_norms(path: str) -> float:
        norm, x = model_file.LayerNorm(23).double(), 1e-2 * random_normal(5, 23)
        return gap(norm(x), F.layer_norm(x, (23,), eps=1e-5))

    def gelus(path: str) -> float:
        x = random_normal(5, 23)
        return gap(model_file.gelu(x), F.gelu(x, approximate="tanh"))

    found: tuple[Any, ...] = (
        logits,
        keys,
        cache,
        mask,
        padding,
        depth,
        causality,
        layer_norms,
        gelus,
    )
    return {contract.__name__: contract for contract in found}


def random_normal(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Contracts that see mistakes beside the ones that are planted for them.
ALSO_SEEN = {
    "causality": [
        *("mask-with-0", "mask-with-10", "no-causal-mask", "one-token-ahead"),
        "softmax-over-queries",
    ],
    "layer_norms": ["eps-outside-root", "eps-1e-6", "eps-1e-12", "sample-variance", "no-mean"],
    "gelus": ["gelu-exact", "gelu-quick", "relu"],
    "mask": ["mask-with-0", "mask-with-10", "no-causal-mask", "one-token-ahead"],
}


def named(name: str) -> Mistake:
    return next(mistake for mistake in MISTAKES if mistake.name == name)


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
def test_every_contract_passes_what_is_right(contracts: dict[str, Contract], path: str) -> None:
    far = {name: contract(path) for name, contract in contracts.items()}
    assert max(far.values()) < ATOL / MARGIN, far


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_each_mistake_is_rejected(contracts: dict[str, Contract], name: str) -> None:
    mistake = named(name)
    for path in PATHS:
        with mistake.planted():
            far = contracts[mistake.shows_in](path)
        assert far > MARGIN * ATOL, f"{path}: {far:.1e}, in {mistake.shows_in}"


@torch.no_grad()
@pytest.mark.parametrize(
    ("contract", "name"), [(c, name) for c, names in ALSO_SEEN.items() for name in names]
)
def test_properties_and_formulas_reject_theirs(
    contracts: dict[str, Contract], contract: str, name: str
) -> None:
    with named(name).planted():
        far = contracts[contract]("explicit")
    assert far > ATOL, f"{far:.1e}"  # the pieces are float64: 1e-4 is 10^10 roundings away


@torch.no_grad()
@pytest.mark.parametrize("name", [m.name for m in MISTAKES if m.shows_in != "logits"])
def test_logits_alone_would_not_do(contracts: dict[str, Contract], name: str) -> None:
    """Why there are the other contracts: one batch's logits let these mistakes pass."""
    with named(name).planted():
        assert contracts["logits"]("explicit") < ATOL


def test_a_scaffold_with_nothing_wrong_is_right(contracts: dict[str, Contract]) -> None:
    """So what its arguments plant is one mistake, not two."""
    for plant in (layer_norm(), attention(), masking()):
        scaffold = Mistake("none", "none", plant)
        for path in PATHS:
            with scaffold.planted(), torch.no_grad():
                far = {name: contract(path) for name, contract in contracts.items()}
            assert max(far.values()) < ATOL / MARGIN, far


def test_names_are_unique_and_every_mistake_says_a_fact() -> None:
    assert Counter(NAMES).most_common(1)[0][1] == 1
    for mistake in MISTAKES:
        assert mistake.name == mistake.name.lower() and " " not in mistake.name
        assert mistake.says.endswith(".") and len(mistake.says) > 20


def attributes() -> dict[tuple[str, str], int]:
    """What each name in the model's file, and in its classes, is bound to."""
    owners = {"model": vars(model_file)} | {
        name: vars(value)
        for name, value in vars(model_file).items()
        if isinstance(value, type) and value.__module__ == model_file.__name__
    }
    return {
        (owner, name): id(value) for owner, names in owners.items() for name, value in names.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("mistake", MISTAKES, ids=NAMES)
def test_nothing_is_left_behind(mistake: Mistake) -> None:
    model, ids, before = random_model(n_layer=11), random_ids(2, 5), attributes()
    right = model(ids)
    with mistake.planted():
        assert attributes() != before
        model(ids, torch.zeros(2, 5, dtype=torch.bool))
    assert attributes() == before
    with pytest.raises(ZeroDivisionError), mistake.planted():
        raise ZeroDivisionError
    assert attributes() == before
    assert torch.equal(model(ids), right)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_mistakes_work_with_gradients_and_a_cache() -> None:
    """They serve where models train and generate, too."""
    config = GPT2Config(n_vocab=31, n_ctx=13, n_embd=21, n_head=3, n_layer=2, dropout=0.1)
    for mistake in MISTAKES:
        model, ids = GPT2(config), random_ids(2, 5)
        with mistake.planted():
            model(ids).square().mean().backward()
            with torch.no_grad():
                cache = KVCache(config, 2)
                for t in range(5):
                    x = model.embed(ids[:, t : t + 1])
                    logits = model.forward_embeddings(x, cache=cache)
        assert logits.shape == (2, 1, 31), mistake.name


@torch.no_grad()
def test_table_of_first_sites(oracle: dict[str, torch.Tensor], tiny_a: Path) -> None:
    """Walks the intermediates in the order in which they are computed: a mistake has a place."""
    model = load_gpt2(tiny_a / "hf-prefixed", attention="explicit")
    sites = {}
    for mistake in MISTAKES:
        with mistake.planted(), recorded(model) as seen:
            logits = model(oracle["full.tokens"])
        seen["logits"] = logits
        order = [n.removeprefix("full.") for n in oracle if n.startswith("full.")]
        far = {name: gap(seen[name], oracle[f"full.{name}"]) for name in order if name in seen}
        first = next((name for name, value in far.items() if value > ATOL), None)
        sites[mistake.name] = first
        says = f"{first} {far[first]:.1e}" if first else f"not here, but in: {mistake.shows_in}"
        sys.stdout.write(f"{mistake.name:26} {says}\n")
    assert sites["positions-from-1"] == "embed"
    assert sites["eps-1e-6"] == sites["no-mean"] == "layer00.ln_1"
    assert sites["no-scale"] == sites["no-causal-mask"] == "layer00.attn"
    assert sites["no-residual-attention"] == "layer00.resid_attn"
    assert sites["gelu-exact"] == "layer00.mlp"
    assert sites["no-residual-mlp"] == "layer00.resid"
    assert sites["no-last-norm"] == "ln_f"
    assert sites["head-untied"] == "logits"
    assert sites["no-key-bias"] is None
