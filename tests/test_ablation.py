"""`benchmarks/ablation.py`: the same tokens for every connector, and runs that are done once."""

import json
import re
from dataclasses import replace

import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import VARIANTS, Ablation, connector_config
from captioning.build import new_connector
from captioning.scenes.batches import captions
from captioning.scenes.recipe import LANGUAGE, VISION
from connector.vision import ClipVision
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer


def test_every_connector_gives_as_many_tokens():
    sizes = {variant: connector_config(variant) for variant in VARIANTS}
    assert {size.tokens for size in sizes.values()} == {15}
    assert {variant: size.tokens_in for variant, size in sizes.items()} == {
        **{"article": 145, "dci": 144, "sci": 144, "sti": 180, "last": 145},
    }
    assert all(size.reducer.picks for size in sizes.values())


@pytest.fixture
def small(tmp_path):
    """40 pictures, parts from random numbers in place of the first two stages."""
    common = tmp_path / "common"
    common.mkdir()
    BPETokenizer.train(captions(0, 0, 30), LANGUAGE.n_vocab).save(common)
    torch.manual_seed(0)
    torch.save(GPT2(LANGUAGE).state_dict(), common / "gpt2.pt")
    torch.save(ClipVision(VISION).state_dict(), common / "vision.pt")
    made = Ablation(out=tmp_path, seeds=2, steps=2, batch=4, pictures=60, variants=("sti", "last"))
    ablation.prepare_common(made)
    for variant in made.variants:
        ablation.fill_cache((made, variant))
    return made


def test_runs_learn_are_measured_and_done_once(small, monkeypatch):
    cells = [(small, variant, seed) for seed in range(2) for variant in small.variants]
    for cell in cells:
        found = ablation.run_cell(cell)
        assert found["tokens"] == 15 and 0 <= found["facts F1"] <= 1
    before = ablation.build(small, "last", 1)
    state = torch.load(small.out / "last-1" / "checkpoint.pt", weights_only=True)["module"]
    assert not any(name.startswith("vision.") for name in state)  # frozen
    for part in ("connector.dense.projection.0.weight", "gpt2.wte.weight"):
        assert not torch.equal(state[part], before.state_dict()[part])
    begun = [new_connector(connector_config("last"), 1.0, seed) for seed in (0, 1)]
    assert not torch.equal(*(one.dense.projection[0].weight for one in begun))
    table = ablation.as_table(small)
    assert len(re.findall(r"\d\.\d{4} \(\d\.\d{4} to", table)) == 8 and "15 image tokens" in table
    monkeypatch.setattr(ablation, "build", None)  # nothing is trained, or captioned, again
    for cell in cells:
        ablation.run_cell(cell)
    with pytest.raises(TypeError):
        ablation.run_cell((replace(small, steps=3), "last", 0))


def test_the_measures_of_what_was_said():
    right = "In this image there is a small red star at the top. In the background there is sand."
    wrong = right.replace("red", "blue")
    rows = [{"caption": text, "references": [right]} for text in (right, wrong)]
    found = ablation.measures(json.loads(json.dumps(rows)))
    # Six facts a scene: how many, the background, size, colour, shape, place.
    assert found["facts F1"].items == [1, 5 / 6] and found["exact"].value == 0.5
    assert found["facts F1"].value == 11 / 12
