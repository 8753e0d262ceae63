"""The trained captioner that comes with the code does what its card says."""

import re
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from captioning.evaluate import evaluate_scenes
from captioning.model import Captioner, load_captioner
from captioning.pictures import open_picture
from captioning.scenes.draw import draw
from captioning.scenes.facts import read_facts
from captioning.scenes.recipe import HELD_OUT_SCENES, HELD_OUT_SEED
from gpt2_scratch.generate import generate
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import embedded


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return load_captioner("scenes")


def on_card(figure: str) -> float:
    """A figure of the model card's tables."""
    row = re.search(rf"^\| {figure} \| ([0-9.]+) \|$", card(), re.MULTILINE)
    assert row, f"the card has no row {figure!r}"
    return float(row[1])


def card() -> str:
    return (embedded("scenes") / "README.md").read_text("utf-8")


def test_it_is_small_enough_to_come_along():
    size = sum(path.stat().st_size for path in embedded("scenes").rglob("*") if path.is_file())
    assert size <= 12 * 2**20


def test_it_captions_what_it_sees(captioner):
    figures = evaluate_scenes(captioner, n=60, seed=11)
    # 60 scenes hold about 700 facts; 0.05 is over four standard errors below the card's figure
    assert figures["facts_f1"] > on_card("facts F1") - 0.05
    assert figures["facts_f1_shuffled"] < figures["facts_f1"] - 0.3
    assert figures["facts_f1_blank"] < figures["facts_f1"] - 0.3


@pytest.mark.slow
def test_the_cards_figures_are_measured_again(captioner):
    figures = evaluate_scenes(captioner, HELD_OUT_SCENES, HELD_OUT_SEED)
    # Another processor may round a near tie the other way: a few captions of a thousand.
    assert figures["facts_f1"] == pytest.approx(on_card("facts F1"), abs=3e-3)
    assert figures["exact_match"] == pytest.approx(on_card("exact match"), abs=6e-3)


def test_the_card_reaches_the_facts_that_are_required():
    assert on_card("facts F1") >= 0.98


def test_the_card_reaches_the_exact_match_that_is_required():
    assert on_card("exact match") >= 0.90


def test_its_language_model_writes_captions():
    folder = embedded("scenes") / "language-model"
    model, tokenizer = load_gpt2(folder), BPETokenizer.load(folder)
    prompt = torch.tensor([[tokenizer.end]]).expand(5, 1)
    generator = torch.Generator().manual_seed(0)
    rows = generate(
        model, prompt, 100, temperature=0.7, end=tokenizer.end, generator=generator
    ).tolist()
    for row in rows:
        assert tokenizer.end in row, "a caption ends"
        facts, background = read_facts(tokenizer.decode(row[: row.index(tokenizer.end)]))
        assert facts and background


def photographs(shared) -> Iterator[Image.Image]:
    for folder in ("photos_coco", "photos_misc"):
        for path in sorted((shared / "data" / folder).iterdir()):
            if path.suffix in (".jpg", ".png"):
                yield open_picture(path)


def scores(captioner: Captioner, images: list[Image.Image]) -> torch.Tensor:
    with torch.inference_mode():
        states = captioner.vision.hidden_states(captioner.pixels(images))
        return captioner.familiarity(states)[0]


def test_it_knows_scenes(captioner):
    familiar = scores(captioner, [draw((2, 5, i)).image for i in range(200)]) >= 0.5
    assert familiar.float().mean() >= 0.97  # calibrated for 0.99 or more; 200 draws of it


def test_it_says_of_photographs_that_it_does_not_know_them(captioner, shared):
    known = scores(captioner, [draw((2, 3, i)).image for i in range(500)])
    unknown = torch.cat([scores(captioner, [photo]) for photo in photographs(shared)])
    assert len(unknown) == 180
    # The area under the ROC curve: how often a scene scores higher than a photograph.
    above = (known[:, None] > unknown).double() + 0.5 * (known[:, None] == unknown).double()
    assert above.mean() >= 0.97
    assert (unknown < 0.5).double().mean() >= 0.9
