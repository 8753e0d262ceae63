import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest
import torch
from helpers import random_model, tiny_config

from gpt2_scratch.config import PRESETS, GPT2Config
from gpt2_scratch.model import GPT2

# Counted by hand from the published shapes: 2 embeddings, 12 tensors a block, 2 of the last norm.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


def test_every_preset_is_a_published_one() -> None:
    assert list(PRESETS) == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name: str) -> None:
    config = GPT2Config.preset(name)
    with torch.device("meta"):
        model = GPT2(config)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    assert config.parameters == PUBLISHED[name]
    assert (config.n_vocab, config.n_ctx, config.head_size) == (50257, 1024, 64)


def test_the_count_of_parameters_holds_for_other_sizes() -> None:
    model = random_model(n_vocab=37, n_ctx=11, n_embd=34, n_head=17, n_layer=3)
    assert sum(p.numel() for p in model.parameters()) == model.config.parameters


def test_large_is_the_default() -> None:
    assert GPT2Config() == GPT2Config.preset("gpt2-large")
    large = GPT2Config()
    assert (large.n_layer, large.n_head, large.n_embd, large.head_size) == (36, 20, 1280, 64)
    assert (large.dropout, large.attention) == (0.1, "sdpa")


def test_a_preset_takes_changes() -> None:
    changed = GPT2Config.preset("gpt2", attention="explicit", dropout=0.0)
    assert (changed.n_embd, changed.attention, changed.dropout) == (768, "explicit", 0.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_embd": 1281}, r"n_embd=1281 cannot be shared by n_head=20 heads.*1280 / 20 = 64"),
        ({"n_layer": 0}, r"n_layer=0 is not a size.*from 1 up"),
        ({"n_ctx": 1024.0}, r"n_ctx=1024.0 is not a size"),
        ({"n_vocab": True}, r"n_vocab=True is not a size"),
        ({"n_head": "20"}, r"n_head='20' is not a size"),
        ({"n_vocab": 10**30}, r"n_vocab=10+ is not a size"),
        ({"dropout": None}, r"dropout=None is not in"),  # as a damaged config.json has it
        ({"dropout": "0.1"}, r"dropout='0.1' is not in"),
        ({"dropout": 1.0}, r"dropout=1.0 is not in \[0, 1\)"),
        ({"dropout": float("nan")}, r"dropout=nan is not in"),
        ({"attention": "flash"}, r"attention='flash' is unknown.*explicit.*sdpa"),
    ],
)
def test_a_config_that_cannot_be_says_why(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GPT2Config(**changes)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'gpt3'.*gpt2, gpt2-medium, gpt2-large, gpt2-xl"):
        GPT2Config.preset("gpt3")


def test_a_config_is_frozen_and_goes_through_json() -> None:
    config = tiny_config()
    with pytest.raises(FrozenInstanceError):
        config.n_embd = 22  # type: ignore[misc]
    assert GPT2Config(**json.loads(json.dumps(asdict(config)))) == config


def test_the_config_module_imports_no_torch(root: Path) -> None:
    code = "import sys, gpt2_scratch.config; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
