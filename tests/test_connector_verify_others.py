"""Somebody else's image tower with a mistake in one place, judged by its states or its vector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from towers import random_tower

from connector.twin import behind
from connector.verify import record, verify, verify_module

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "clip-tiny" / "hf-full"


def twin(folder: Path, **changes: object) -> Any:
    options = {"attn_implementation": "eager"} | changes
    kind = transformers.CLIPVisionModelWithProjection
    return kind.from_pretrained(folder, **options).eval()


class Gives(nn.Module):
    """A tower that returns nothing but its states, or its vector."""

    def __init__(self, inner: Any, what: str) -> None:
        super().__init__()
        inner.config.output_hidden_states = True
        self.inner, self.what = inner, what

    def forward(self, pixels: Tensor) -> Any:
        output = self.inner(pixels)
        return list(output.hidden_states) if self.what == "states" else output.image_embeds


def blocks(model: Any) -> Any:
    return model.vision_model.encoder.layers


def in_block_1(model: Any) -> None:
    blocks(model)[1].mlp.activation_fn = nn.GELU()


def in_the_norms_of_blocks(model: Any) -> None:
    for block in blocks(model):
        block.layer_norm1.eps = block.layer_norm2.eps = 1e-3


def before_the_blocks(model: Any) -> None:
    model.vision_model.pre_layrnorm.eps = 1e-3


WRONG: dict[str, Callable[[Any], Any]] = {
    "gelu-exact@1": in_block_1,
    "eps-1e-3@blocks": in_the_norms_of_blocks,
    "eps-1e-3@ln_pre": before_the_blocks,
    "weights-in-bfloat16": lambda model: model.bfloat16().float(),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_one_place_has_a_name(folder: Path, name: str) -> None:
    model = twin(folder)
    WRONG[name](model)
    for what in ("states", "vector"):
        report = verify_module(Gives(model, what), folder)
        assert report.code == 1 and report.diagnosis is not None
        assert report.diagnosis.steps == ((name,),), str(report)


@pytest.mark.parametrize(("heads", "name"), [(1, "1-heads"), (8, "twice-the-heads")])
def test_another_number_of_heads_is_a_mistake_and_no_misfit(
    folder: Path, heads: int, name: str
) -> None:
    model = twin(folder, num_attention_heads=heads)
    report = verify_module(model, folder, behind("vision_model."))
    assert report.code == 1 and report.first_jump == "layer00.weights"
    assert report.diagnosis is not None and report.diagnosis.steps == ((name,),)


def test_twice_the_heads_need_not_fit_the_width(tmp_path: Path) -> None:
    """A width of 30 and 6 heads: 12 can't share it, so nobody has that mistake there."""
    random_tower(width=30, heads=6, layers=1).save(tmp_path)
    wrong = random_tower(width=30, heads=6, layers=1)
    with torch.no_grad():
        wrong.transformer.resblocks[0].mlp.c_fc.weight[0, 0] += 1.0
    report = verify_module(wrong, tmp_path)
    assert report.code == 1 and "none of the" in str(report)


def test_nan_among_the_states_is_told(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.npz"
    record(folder, file)
    with np.load(file) as held:
        arrays: dict[str, Any] = {name: held[name] for name in held.files}
    arrays["hidden_states_01"][0, 0, 0] = np.nan
    np.savez(file, **arrays)
    report = verify(folder, file)
    assert report.code == 1 and "Why, in theirs.npz: hidden_states_01 holds NaN, 1 of" in str(
        report
    )


def test_a_state_too_few_or_too_many_is_told(folder: Path, tmp_path: Path) -> None:
    """All that are there may be right."""
    file = tmp_path / "theirs.npz"
    record(folder, file)
    with np.load(file) as held:
        states = np.stack([held[f"hidden_states_0{n}"] for n in range(4)])
        given = {"pixel_values": held["pixel_values"]}
    for count in (3, 4, 5):
        shown = np.concatenate([states, states[-1:]])[:count]
        np.savez(file, hidden_states=shown, **given)

        class Tower(nn.Module):
            def __init__(self, shown: Any) -> None:
                super().__init__()
                self.shown = [torch.from_numpy(state) for state in shown]

            def forward(self, pixels: Tensor) -> list[Tensor]:
                return self.shown

        for report in (verify(folder, file), verify_module(Tower(shown), folder)):
            assert report.code == (count != 4), str(report)
            assert (f"{count} states were returned, wanted 4" in str(report)) == (count != 4)
