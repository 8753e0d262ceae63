"""`verify_module`: anybody's image tower, in code that shares no line with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from towers import random_tower

from connector.sites import OPEN_CLIP, TRANSFORMERS
from connector.twin import behind
from connector.verify import verify_module
from connector.vision import ClipVision

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def tiny(golden: Path) -> Path:
    return golden / "clip-tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_tower(layers=2).save(tmp_path / "tower")
    return tmp_path / "tower"


def twin(folder: Path, **changes: object) -> nn.Module:
    """transformers' tower of a folder, which is somebody else's implementation here."""
    options = {"attn_implementation": "eager"} | changes
    kind = transformers.CLIPVisionModelWithProjection
    return kind.from_pretrained(folder, **options).eval()


def open_clips(folder: Path, **changes: Any) -> VisionTransformer:
    """open_clip's tower with the numbers of a folder, which say QuickGELU."""
    tower = ClipVision.from_folder(folder)
    c = tower.config
    sizes = (c.image_size, c.patch_size, c.width, c.layers, c.heads, c.mlp_ratio)
    other = VisionTransformer(*sizes, output_dim=c.projection, **changes).eval()
    other.load_state_dict(tower.state_dict())
    return other


def test_anybodys_module_passes_with_and_without_sites(tiny: Path) -> None:
    theirs = twin(tiny / "hf-full")
    report = verify_module(theirs, tiny / "open_clip")
    assert report.passed, str(report)
    report = verify_module(theirs, tiny / "hf-full", behind("vision_model."))
    assert report.passed and report.comparison is not None
    assert (
        len(report.comparison.differences) == 3 + 3 * 10 + 3
    )  # and the last state, ln_post, image
    bare = transformers.CLIPVisionModel.from_pretrained(tiny / "hf-vision").eval()
    sites = {site: place for site, place in TRANSFORMERS.items() if ".weights" not in site}
    assert verify_module(bare, tiny / "open_clip", sites).passed
    assert verify_module(ClipVision.from_folder(tiny / "open_clip"), tiny / "hf-full").passed


def test_all_hidden_states_of_transformers_are_looked_at(tiny: Path) -> None:
    theirs: Any = twin(tiny / "hf-full")
    theirs.config.output_hidden_states = True
    report = verify_module(theirs, tiny / "hf-full")
    assert report.comparison is not None and report.passed
    sites = [d.site for d in report.comparison.differences]
    assert sites == [*(f"hidden_states_0{n}" for n in range(4)), "image_features"]


def test_open_clips_tower_and_its_well_known_mistake(tiny: Path) -> None:
    """open_clip builds plain GELU for a local file of OpenAI's weights."""
    from open_clip.transformer import QuickGELU

    assert verify_module(
        open_clips(tiny / "open_clip", act_layer=QuickGELU), tiny / "hf-full", OPEN_CLIP
    ).passed
    report = verify_module(open_clips(tiny / "open_clip"), tiny / "hf-full", OPEN_CLIP)
    assert report.first_jump == "layer00.mlp"
    assert report.diagnosis is not None and report.diagnosis.names == ("gelu-exact",)
    alone = verify_module(open_clips(tiny / "open_clip"), tiny / "hf-full")  # one vector
    assert alone.diagnosis is not None and alone.diagnosis.names == ("gelu-exact",)


def test_open_clips_intermediates_are_no_hidden_states(tiny: Path) -> None:
    """Index i there is hidden_states[i + 1]; with its option, ln_post is applied to each."""
    from open_clip.transformer import QuickGELU

    class Intermediates(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.visual = open_clips(tiny / "open_clip", act_layer=QuickGELU)
            self.options = options

        def forward(self, pixels: Tensor) -> list[Tensor]:
            found = self.visual.forward_intermediates(
                pixels, output_fmt="NLC", output_extra_tokens=True, **self.options
            )
            pairs = zip(
                found["image_intermediates_prefix"], found["image_intermediates"], strict=True
            )
            return [torch.cat(pair, 1) for pair in pairs]

    report = verify_module(Intermediates(), tiny / "hf-full")
    assert report.diagnosis is not None
    assert report.diagnosis.names == ("states-from-block-1",)
    report = verify_module(Intermediates(normalize_intermediates=True), tiny / "hf-full")
    assert report.diagnosis is not None
    assert report.diagnosis.names == ("normed-states-from-block-1",)


@pytest.mark.parametrize(
    ("change", "name", "site"),
    [
        ({"hidden_act": "gelu"}, "gelu-exact", "layer00.mlp"),
        ({"hidden_act": "gelu_new"}, "gelu-tanh", "layer00.mlp"),
        ({"layer_norm_eps": 1e-6}, "eps-1e-6", "ln_pre"),
        ({"layer_norm_eps": 1e-3}, "eps-1e-3", "ln_pre"),
        ({"num_attention_heads": 2}, "half-the-heads", "layer00.weights"),
        ({"num_attention_heads": 8}, "twice-the-heads", "layer00.weights"),
    ],
)
def test_somebody_elses_mistake(tiny: Path, change: dict[str, Any], name: str, site: str) -> None:
    """Made in code that shares no line with ours; with the image's vector alone it has a name."""
    config = transformers.CLIPVisionConfig.from_pretrained(tiny / "hf-full")
    for field, value in change.items():
        setattr(config, field, value)
    theirs = twin(tiny / "hf-full", config=config)
    report = verify_module(theirs, tiny / "open_clip", behind("vision_model."))
    assert report.first_jump == site
    assert report.diagnosis is not None and report.diagnosis.names == (name,), str(report)
    if name == "eps-1e-6":
        return  # its 1.8e-5 at the end is within what rounding may do there
    alone = verify_module(theirs, tiny / "hf-full")
    assert alone.diagnosis is not None and alone.diagnosis.names == (name,), str(alone)


@pytest.mark.parametrize(
    ("mean", "turn", "name"),
    [
        ((0.485, 0.456, 0.406), False, "imagenet-mean"),
        (None, True, "bgr"),
    ],
)
def test_preprocessing_of_ones_own(
    tiny: Path, mean: tuple[float, ...] | None, turn: bool, name: str
) -> None:
    """A tower with its preprocessing, as transformers' processor with another library's numbers."""
    from connector import preprocess

    def prepare(pictures: Any) -> Tensor:
        cut = np.stack([preprocess.resize_and_crop(picture, 28) for picture in pictures])
        x = torch.from_numpy(cut[..., ::-1].copy() if turn else cut).permute(0, 3, 1, 2) / 255
        deviation = preprocess.DEVIATION if mean is None else (0.229, 0.224, 0.225)
        centre, spread = (
            torch.tensor(three).view(3, 1, 1) for three in (mean or preprocess.MEAN, deviation)
        )
        return (x - centre) / spread

    report = verify_module(twin(tiny / "hf-full"), tiny / "hf-full", prepare=prepare)
    assert report.first_jump == "pixel_values"
    assert report.diagnosis is not None and report.diagnosis.names == (name,)


def test_autocast_is_named(tiny: Path) -> None:
    class Autocast(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(pixels).image_embeds.float()

    report = verify_module(Autocast(twin(tiny / "hf-full")), tiny / "open_clip")
    assert report.diagnosis is not None and report.diagnosis.names == ("bfloat16",)


def test_a_site_is_a_path_an_input_a_pair_or_a_function(folder: Path) -> None:
    def embed(module: nn.Module, pixels: Tensor) -> Tensor:
        assert isinstance(module, ClipVision)
        patches = module.conv1(pixels).flatten(2).transpose(1, 2)
        first = module.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], 1) + module.positional_embedding

    sites = {
        "embed": embed,
        "layer{}.resid_attn": "transformer.resblocks.{}.ln_2.input",
        "patches": ("conv1", lambda y: y.flatten(2).transpose(1, 2)),
        "hidden_states_{+1}": "transformer.resblocks.{}",
    }
    report = verify_module(ClipVision.from_folder(folder), folder, sites)  # type: ignore[arg-type]
    assert report.comparison is not None and report.passed, str(report)
    assert [d.site for d in report.comparison.differences] == [
        *("patches", "embed", "hidden_states_00", "layer00.resid_attn"),
        *("hidden_states_01", "layer01.resid_attn", "hidden_states_02"),
    ]


def test_dropout_that_eval_does_not_stop(folder: Path) -> None:
    class Dropping(nn.Module):
        def __init__(self, inner: ClipVision) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pixels: Tensor) -> Tensor:
            return torch.dropout(self.inner.image_features(pixels), 0.1, True)

    report = verify_module(Dropping(ClipVision.from_folder(folder)), folder)
    assert not report.passed and "Two runs differ" in str(report)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"layer{}.ln_1": "transformer.resblocks.{}.ln1"}, "no submodule"),
        ({"embed": ("conv1", lambda y: None)}, "embed gave a NoneType"),
        ({"ln_pre": "conv1"}, r"ln_pre is \(2, 24, 3, 3\), wanted \(2, 10, 24\)"),
        ({"layer0.ln_1": "ln_pre"}, "did you mean layer00.ln_1"),
    ],
)
def test_wrong_places_are_told(folder: Path, sites: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_module(ClipVision.from_folder(folder), folder, sites)


def test_what_is_unknown_is_not_given_a_name(folder: Path) -> None:
    report = verify_module(random_tower(seed=1, layers=2), folder)
    assert report.code == 1 and report.diagnosis is not None
    assert report.diagnosis.steps == ()
    assert "Is it the same checkpoint" in str(report)
