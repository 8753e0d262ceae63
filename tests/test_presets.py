"""The table of presets: the article's sizes, counts without torch, and how it is shown."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from small_captioners import LANGUAGE, VISION, small_preset

from captioning.__main__ import main
from captioning.build import count_parts
from captioning.config import CaptionerConfig, Rates, Trained
from captioning.model import Captioner, join
from captioning.presets import PRESETS, Preset, find_preset
from captioning.trained import prepare
from connector.config import ReducerConfig
from gpt2_scratch.tokenizer import BPETokenizer
from gpt2_scratch.training.settings import LoRAConfig
from weights.manifest import entries
from weights.store import embedded, read_json

LARGE = [preset for preset in PRESETS.values() if preset.name != "scenes"]


def weightless(preset: Preset) -> Captioner:
    with torch.device("meta"):
        return join(preset.sizes, BPETokenizer([]))


def test_the_article_is_as_the_article_says():
    sizes = PRESETS["article"].sizes
    vision, connector, gpt2 = sizes.vision, sizes.connector, sizes.gpt2
    assert (vision.image_size, vision.patch_size, vision.patches) == (336, 14, 576)
    assert (vision.width, vision.layers + 1, vision.quick_gelu) == (1024, 25, True)
    assert connector.class_token and connector.tokens_in == 577
    assert (connector.features, connector.out, connector.tokens) == (3072, 1280, 58)
    assert connector.reducer.picks
    assert (gpt2.n_layer, gpt2.n_embd, gpt2.n_vocab, gpt2.n_ctx) == (36, 1280, 50257, 1024)
    assert sizes.resize == "squash" and sizes.tokenizer == "gpt2"


@pytest.mark.parametrize(
    ("name", "variant", "tokens", "gpt2"),
    [
        ("article-small", "article", 58, 124_439_808),
        ("dci", "dci", 576, 774_030_080),
        ("sci", "sci", 576, 774_030_080),
        ("sti", "sti", 720, 774_030_080),
        ("efficient", "dci", 36, 774_030_080),
        ("scenes", "article", 37, 660_608),
    ],
)
def test_the_others_differ_in_what_they_are_named_for(name, variant, tokens, gpt2):
    preset = PRESETS[name]
    assert (preset.sizes.connector.variant, preset.sizes.connector.tokens) == (variant, tokens)
    assert preset.parameters()["gpt2"] == gpt2


@pytest.mark.parametrize("preset", LARGE, ids=lambda preset: preset.name)
def test_the_large_can_be_fetched_and_share_one_tower(preset):
    assert {preset.clip, preset.gpt2} <= entries().keys()
    assert preset.sizes.vision == PRESETS["article"].sizes.vision


def test_scenes_is_the_embedded_model():
    held = read_json(embedded("scenes") / "config.json")
    assert CaptionerConfig.from_dict(held, source="") == PRESETS["scenes"].sizes
    assert held == json.loads(json.dumps(PRESETS["scenes"].sizes.to_dict()))


KINDS = [small_preset("last"), small_preset("sti", ReducerConfig(kind="none"))]
KINDS += [small_preset(reducer=ReducerConfig(strides=(3, 2), kernels=(2, 1)))]
KINDS += [small_preset("sci", ReducerConfig(kind="conv", strides=(3, 2)))]
KINDS += [small_preset(vision=replace(VISION, projection=0, mlp_ratio=2.5))]


@pytest.mark.parametrize("preset", [*PRESETS.values(), *KINDS], ids=lambda preset: preset.name)
def test_the_counts_are_those_of_the_modules(preset):
    captioner = weightless(preset)
    for name, count in preset.parameters().items():
        assert count == sum(p.numel() for p in getattr(captioner, name).parameters()), name


@pytest.mark.parametrize("trained", get_args(Trained))
@pytest.mark.parametrize("preset", [*PRESETS.values(), *KINDS], ids=lambda preset: preset.name)
def test_what_learns_is_counted_as_it_is_prepared(preset, trained):
    lora = LoRAConfig(rank=3, linears=("attn.c_attn", "mlp.c_proj"))
    captioner = weightless(preset)
    prepare(captioner, trained, lora=lora)
    counts = {name: count.trainable for name, count in count_parts(captioner).items()}
    assert counts == preset.trainable(trained, lora)


def test_an_unknown_name_is_told_with_a_near_one():
    with pytest.raises(ValueError, match=r"no preset 'artcle'.*sti.*Did you mean article"):
        find_preset("artcle")


@pytest.mark.parametrize("trained", get_args(Trained))
def test_each_part_that_learns_has_a_rate(trained):
    rates = Rates(connector=1.0, gpt2=2.0, lora=3.0, vision=4.0).by_prefix(trained)
    wanted = {"connector.": 1.0}
    wanted |= {"connector": {}, "connector+lora": {"gpt2.": 3.0}}.get(trained, {"gpt2.": 2.0})
    assert rates == wanted | ({"vision.": 4.0} if trained == "all" else {})


@pytest.mark.parametrize("wrong", [0.0, -1e-4, float("nan"), float("inf")])
def test_a_rate_is_above_zero(wrong):
    with pytest.raises(ValueError, match=r"vision=.*above 0"):
        Rates(vision=wrong)


def test_the_command_shows_all_in_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["presets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRESETS)
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "774.03" in shown and "58" in shown


def test_the_command_gives_json_and_takes_names(capsys):
    assert main(["presets", "sti", "article", "--json"]) == 0
    sti, article = json.loads(capsys.readouterr().out)
    assert (sti["name"], sti["image_tokens"]) == ("sti", 720)
    assert article["parameters"] == PRESETS["article"].parameters()
    assert article["trainable"]["connector"] == {"vision": 0, "connector": 7_215_360, "gpt2": 0}
    assert CaptionerConfig.from_dict(article["sizes"], source="") == PRESETS["article"].sizes
    assert main(["presets", "nonsense"]) == 2
    assert "no preset 'nonsense'" in capsys.readouterr().err


def test_captions_may_be_longer_than_the_article_s_fifty_tokens():
    for preset in PRESETS.values():
        sizes = preset.sizes
        assert sizes.connector.tokens + sizes.max_new_tokens <= sizes.gpt2.n_ctx
    assert PRESETS["article"].sizes.max_new_tokens > 50
    assert LANGUAGE.n_ctx > small_preset().sizes.max_new_tokens
