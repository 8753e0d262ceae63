"""Ours against transformers' CLIPVisionModel and GPT2LMHeadModel with the same random weights."""

import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import gap
from small_captioners import REDUCER, batch, small_captioner
from torch.nn import functional as F

import connector.dense as dense_module
import gpt2_scratch.model as gpt2_module
from captioning.model import Captioner
from captioning.scenes.draw import draw
from captioning.systems.hf_twin import HFTwin
from connector.config import ReducerConfig
from gpt2_scratch.generate import generate

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")

POOL, WHOLE = ReducerConfig(kind="pool"), ReducerConfig(kind="none")
KINDS = {
    "article": ("article", REDUCER),
    "article, read": ("article", ReducerConfig(strides=(3, 2), kernels=(2, 1))),
    "last": ("last", POOL),
    "dci": ("dci", POOL),
    "dci, picked": ("dci", ReducerConfig(strides=(3, 2))),
    "sci": ("sci", ReducerConfig(kind="conv", strides=(3, 2))),
    "sti": ("sti", WHOLE),
}


@pytest.fixture(scope="module", params=list(KINDS.values()), ids=list(KINDS))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Captioner, HFTwin]]:
    """In float32, as the weights are published."""
    variant, reducer = request.param
    ours = small_captioner(variant, reducer=reducer)
    yield ours, HFTwin(ours)


def far(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return gap(got, wanted) / wanted.abs().max().item()


# Rounding leaves less than 3e-6 in float32, and each planted mistake (see the end) more than 5e-4.
CLOSE = 2e-5


@torch.no_grad()
def test_image_tokens_are_theirs(pair):
    ours, twin = pair
    pixels, *_ = batch(ours)
    assert far(ours.image_tokens(pixels), twin.image_tokens(pixels)) < CLOSE


def furthest(ours: Captioner, twin: HFTwin, rows: Any = None) -> tuple[float, str]:
    """The worst of the loss and of every gradient, and its name."""
    rows = batch(ours) if rows is None else rows
    ours.zero_grad()
    twin.zero_grad()
    loss, theirs = ours.loss_sum(*rows)[0], twin.loss_sum(*batch(ours))
    loss.backward()
    theirs.backward()
    got = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    wanted = twin.gradients()
    gaps = {name: far(got[name], wanted[name]) for name in got.keys() & wanted.keys()}
    gaps |= dict.fromkeys(got.keys() ^ wanted.keys(), math.inf)
    gaps["loss"] = far(loss, theirs)
    worst = max(gaps, key=gaps.__getitem__)
    return gaps[worst], worst


def test_loss_and_every_gradient_are_theirs(pair):
    ours, twin = pair
    worst = furthest(ours, twin)
    sys.stdout.write(f"{worst}\n")
    assert worst[0] < CLOSE, worst
    assert int(ours.loss_sum(*batch(ours))[1]) == 17
    unread = {name for name, p in ours.named_parameters() if p.grad is None}
    assert all(name.startswith("vision.") for name in unread)


def test_greedy_ids_are_theirs(pair):
    ours, twin = pair
    pixels, *_ = batch(ours)
    prompt = ours.image_tokens(pixels)
    endless = generate(ours.gpt2, prompt, 20, end=ours.tokenizer.end)
    assert torch.equal(endless, twin.greedy(pixels, 20))
    twin.end = int(endless[1, 5])  # now a caption ends in the middle
    ended = generate(ours.gpt2, prompt, 20, end=twin.end)
    assert (ended[1, 6:] == twin.end).all()
    assert torch.equal(ended, twin.greedy(pixels, 20))
    twin.end = ours.tokenizer.end


def test_captions_of_pictures_are_theirs(pair):
    ours, twin = pair
    pictures = [draw(seed).image for seed in range(4)]
    ids = twin.greedy(ours.pixels(pictures), ours.config.max_new_tokens)
    texts = [ours.tokenizer.decode([i for i in row if i != twin.end]) for row in ids.tolist()]
    assert ours.caption(pictures) == [text.strip() for text in texts]
    assert len(set(texts)) > 1


def test_the_twin_takes_no_memory_of_its_own(pair):
    ours, twin = pair
    held = [t.untyped_storage().data_ptr() for t in ours.parameters()]
    for name, parameter in twin.named_parameters():
        assert parameter.untyped_storage().data_ptr() in held, name


def test_float64_leaves_no_more_than_float64_s_rounding():
    ours = small_captioner().double()
    twin = HFTwin(ours)
    pixels, *_ = batch(ours)
    with torch.no_grad():
        got = ours.image_tokens(pixels.double())
        assert far(got, twin.image_tokens(pixels.double())) < 1e-13


def exact_gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x)


def penultimate(states: Any, keep: slice = slice(None)) -> torch.Tensor:
    return dense_module_article(states[:-1], keep)


def halves_the_other_way(states: Any, keep: slice = slice(None)) -> torch.Tensor:
    last, low, high = dense_module_article(states, keep).chunk(3, -1)
    return torch.cat([last, high, low], -1)


dense_module_article = dense_module.article
MISTAKES = {
    "GPT-2's GELU": lambda patch: patch.setattr(gpt2_module, "gelu", exact_gelu),
    "one state too few": lambda patch: patch.setitem(dense_module.VARIANTS, "article", penultimate),
    "halves swapped": lambda patch: patch.setitem(
        dense_module.VARIANTS, "article", halves_the_other_way
    ),
    "CLIP's GELU": None,
    "the loss one position late": None,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_of_these_mistakes_would_show(name, monkeypatch):
    ours = small_captioner()
    twin = HFTwin(ours)
    rows = batch(ours)
    if name == "CLIP's GELU":
        for block in ours.vision.transformer.resblocks:
            block.mlp.gelu = torch.nn.GELU()
    elif name == "the loss one position late":
        pixels, ids, lengths = rows
        rows = pixels, ids.roll(-1, 1), lengths - 1
    else:
        MISTAKES[name](monkeypatch)
    worst = furthest(ours, twin, rows)
    sys.stdout.write(f"{name}: {worst}\n")
    assert worst[0] > 10 * CLOSE
