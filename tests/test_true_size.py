"""The benchmark of the true size, on the embedded model's: the same code, other sizes."""

import json

import pytest
import torch
from PIL import Image

from benchmarks.true_size import TrueSize, caption, twin
from captioning.presets import PRESETS

THREADS = torch.get_num_threads()


def settings(**changes):
    return TrueSize(preset="scenes", new_tokens=4, threads=THREADS, **changes)


@pytest.mark.parametrize("what", ["bf16", "fp32"])
def test_a_picture_is_captioned_and_everything_counted(what, tmp_path):
    Image.new("RGB", (50, 30), (200, 30, 60)).save(tmp_path / "red.png")
    found = caption(settings(picture=tmp_path / "red.png"), what)
    assert found["parameters"] == PRESETS["scenes"].parameters()
    assert found["image_tokens"] == 37
    assert 0 < found["model_gb"] < found["build_peak_gb"] <= found["peak_gb"]
    assert found["tokens_a_second"] > 0 and isinstance(found["caption"], str)
    json.dumps(found)


def test_transformers_says_the_same():
    pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
    found = twin(settings(), "twin")
    assert found["same_greedy_caption"]
    assert max(found["relative_difference"].values()) < 1e-5  # rounding; see test_hf_twin
    json.dumps(found)
