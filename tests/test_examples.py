"""The article's two loops: the same as each other, and the same as the loop that does the work."""

import pytest
import torch
from small_captioners import batch, small_captioner

from captioning.examples.inference import inference, inference2
from gpt2_scratch.generate import generate

BOTH = pytest.mark.parametrize("loop", [inference, inference2])


@pytest.fixture(scope="module")
def captioner():
    return small_captioner()


def one(captioner, row=0):
    return batch(captioner)[0][row : row + 1]


@BOTH
@pytest.mark.parametrize("row", [0, 1, 2])
def test_at_temperature_0_they_are_the_loop_with_the_cache(captioner, loop, row):
    pixels = one(captioner, row)
    wanted = generate(captioner.gpt2, captioner.image_tokens(pixels), 50)
    found = loop(captioner, pixels)
    assert found == wanted[0].tolist() and len(set(found)) > 1


@BOTH
def test_at_temperature_0_they_say_what_caption_says(captioner, loop):
    pixels = one(captioner)
    ids = loop(captioner, pixels, max_length=20)
    said = ids[: ids.index(captioner.tokenizer.end)] if captioner.tokenizer.end in ids else ids
    (text, _), *_ = captioner.say(captioner.image_tokens(pixels), max_new_tokens=20)
    assert captioner.tokenizer.decode(said).strip() == text


@pytest.mark.parametrize("top_k", [None, 5, 10**6])
def test_with_one_seed_they_draw_the_same(captioner, top_k):
    pixels = one(captioner)
    options = {"temperature": 0.8, "top_k": top_k}
    found = [
        loop(captioner, pixels, 20, generator=torch.Generator().manual_seed(4), **options)
        for loop in (inference, inference2)
    ]
    assert found[0] == found[1] != inference(captioner, pixels, 20)
    ours = generate(
        captioner.gpt2,
        captioner.image_tokens(pixels),
        20,
        generator=torch.Generator().manual_seed(4),
        **options,
    )
    assert found[0] == ours[0].tolist()


@BOTH
def test_one_likeliest_token_is_temperature_0(captioner, loop):
    pixels = one(captioner)
    assert loop(captioner, pixels, 9, temperature=0.7, top_k=1) == loop(captioner, pixels, 9)


def test_what_the_article_may_have_seen_dropout_makes_them_differ():
    """Two runs of one loop differ in train mode: so can two loops that are the same."""
    captioner = small_captioner().train()
    pixels = one(captioner)
    torch.manual_seed(0)
    first, second = (inference(captioner, pixels, 20) for _ in range(2))
    assert first != second


@BOTH
def test_nothing_is_asked_nothing_is_said(captioner, loop):
    assert loop(captioner, one(captioner), max_length=0) == []
