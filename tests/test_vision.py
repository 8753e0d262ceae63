"""CLIP's image tower against transformers and open_clip: states, features, every layout of file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from connector import vision
from connector.config import VisionConfig
from connector.loader import HF_DEFAULTS, OPEN_CLIP_DEFAULTS
from connector.vision import ClipVision

TINY = VisionConfig(
    image_size=28, patch_size=7, width=32, layers=3, heads=4, quick_gelu=True, projection=24
)
LARGE = VisionConfig(
    image_size=336, patch_size=14, width=1024, layers=24, heads=16, quick_gelu=True, projection=768
)
LAYOUTS = ("hf-vision", "hf-vision-noprefix", "hf-full", "open_clip")
TOLERANCE = 1e-4  # rounding is 5e-6 (states up to 12); GELU for QuickGELU is 7.5e-2


@pytest.fixture(scope="module")
def clip_tiny(golden) -> Path:
    return golden / "clip-tiny"


@pytest.fixture(scope="module")
def oracle(clip_tiny) -> dict[str, torch.Tensor]:
    with np.load(clip_tiny / "oracle.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def gaps(model: ClipVision, oracle: dict[str, torch.Tensor]) -> list[float]:
    """The largest difference of each hidden state, and of the image features where there are."""
    states = model.hidden_states(oracle["pixel_values"])
    wanted = [oracle[f"hidden_states_{i:02}"] for i in range(4)]
    if model.config.projection:
        states = [*states, model.image_features(states)]
        wanted = [*wanted, oracle["image_features"]]
    return [(a - b).abs().max().item() for a, b in zip(states, wanted, strict=True)]


def scrambled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Noise on every parameter, so that a missing or swapped one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_golden_states(clip_tiny, oracle, layout, training):
    model = ClipVision.from_folder(clip_tiny / layout).train(training)
    alone = layout.startswith("hf-vision")  # the tower alone comes without its projection
    assert model.config == replace(TINY, projection=0 if alone else 24)
    assert max(gaps(model, oracle)) < TOLERANCE
    with torch.no_grad():  # torch takes other kernels where no gradient is asked for
        assert max(gaps(model, oracle)) < TOLERANCE


def test_plain_gelu_is_seen(clip_tiny, oracle):
    right = ClipVision.from_folder(clip_tiny / "hf-full")
    wrong = ClipVision(replace(TINY, quick_gelu=False))
    wrong.load_state_dict(right.state_dict())
    first, *states, features = gaps(wrong, oracle)
    assert first < TOLERANCE  # no activation has been applied yet
    assert min(states) > 500 * TOLERANCE and features > 100 * TOLERANCE


def test_state_0_is_the_one_after_ln_pre(clip_tiny, oracle):
    model = ClipVision.from_folder(clip_tiny / "hf-full")
    states = model.hidden_states(oracle["pixel_values"])
    assert [state.shape for state in states] == [(2, 17, 32)] * 4
    embeddings = oracle["embeddings"]
    torch.testing.assert_close(states[0], model.ln_pre(embeddings), rtol=0, atol=TOLERANCE)
    # an index too high, the state before ln_pre: both are far away
    assert (states[0] - states[1]).abs().max() > 1
    assert (states[0] - embeddings).abs().max() > 1
    torch.testing.assert_close(states[3], oracle["last_hidden_state"], rtol=0, atol=TOLERANCE)
    for i in range(3):
        theirs = oracle[f"open_clip_intermediate_{i:02}"]
        torch.testing.assert_close(states[i + 1], theirs, rtol=0, atol=TOLERANCE)


def test_features_of_pixels_and_of_states_are_the_same(clip_tiny, oracle):
    model = ClipVision.from_folder(clip_tiny / "open_clip")
    pixels = oracle["pixel_values"]
    assert torch.equal(model.image_features(pixels), model.image_features(model(pixels)))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_open_clip_at_the_geometry_of_clip_large(quick_gelu):
    """577 tokens and 24 layers, narrow; the reference is open_clip's own way through its tower."""
    config = replace(LARGE, width=24, heads=3, projection=10, quick_gelu=quick_gelu)
    theirs = scrambled(
        VisionTransformer(
            336, 14, 24, 24, 3, 4.0, output_dim=10, act_layer=QuickGELU if quick_gelu else nn.GELU
        )
    )
    ours = ClipVision(config).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = ours.hidden_states(pixels)
        known = theirs.forward_intermediates(
            pixels, output_fmt="NLC", output_extra_tokens=True, normalize_intermediates=False
        )
    assert [state.shape for state in states] == [(2, 577, 24)] * 25
    pairs = zip(known["image_intermediates_prefix"], known["image_intermediates"], strict=True)
    for i, pair in enumerate(pairs):
        # rounding over 24 layers
        torch.testing.assert_close(states[i + 1], torch.cat(pair, 1), rtol=1e-4, atol=TOLERANCE)
    features = ours.image_features(states)
    torch.testing.assert_close(features, known["image_features"], rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_transformers_saves(tmp_path, whole, hidden_act):
    """A whole CLIP or its tower alone, of odd sizes: int(39 * (62 / 39)) is 61."""
    sizes = {"hidden_size": 39, "intermediate_size": 62, "num_hidden_layers": 5}
    sizes |= {"num_attention_heads": 3, "image_size": 30, "patch_size": 6}
    tower = CLIPVisionConfig(**sizes, hidden_act=hidden_act, projection_dim=7)
    if whole:
        text = {"hidden_size": 8, "intermediate_size": 9, "num_hidden_layers": 1, "vocab_size": 11}
        text |= {"num_attention_heads": 2, "max_position_embeddings": 5}
        config = CLIPConfig(vision_config=tower.to_dict(), text_config=text, projection_dim=7)
        theirs = scrambled(CLIPModel(config))
    else:
        theirs = scrambled(CLIPVisionModel(tower))
    theirs.save_pretrained(tmp_path)
    ours = ClipVision.from_folder(tmp_path)
    pixels = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model = theirs.vision_model if whole else theirs
        known = model(pixels, output_hidden_states=True)
        states = ours.hidden_states(pixels)
    assert ours.config.quick_gelu == (hidden_act == "quick_gelu") and len(states) == 6
    for got, wanted in zip(states, known.hidden_states, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=TOLERANCE)
    if whole:
        features = theirs.visual_projection(known.pooler_output)
        torch.testing.assert_close(ours.image_features(states), features, rtol=1e-4, atol=TOLERANCE)


def test_attention_in_steps_gives_the_same_numbers(monkeypatch, clip_tiny, oracle):
    model = ClipVision.from_folder(clip_tiny / "hf-full")
    monkeypatch.setattr(vision, "_slow_backward", lambda pixels: True)
    assert max(gaps(model, oracle)) < TOLERANCE


def test_attention_in_steps_is_for_training_on_a_cpu_in_bfloat16(clip_tiny, oracle):
    pixels = oracle["pixel_values"]
    assert not vision._slow_backward(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert vision._slow_backward(pixels)
        with torch.no_grad():
            assert not vision._slow_backward(pixels)
        states = ClipVision.from_folder(clip_tiny / "hf-full")(pixels)
    # bfloat16 keeps 8 bits: states of up to 12 are off by some 0.05
    assert (states[-1].float() - oracle["last_hidden_state"]).abs().max() < 0.3


def test_clip_large_has_its_states_and_parameters():
    with torch.device("meta"):
        model = ClipVision(LARGE)
        states = model(torch.empty(1, 3, 336, 336))
    assert [state.shape for state in states] == [(1, 577, 1024)] * 25
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert counts["proj"] == 1024 * 768
    assert sum(counts.values()) - counts["proj"] == 303_507_456  # transformers' CLIPVisionModel


# --- folders --------------------------------------------------------------------------------------


def test_our_own_layout_brings_everything_back(tmp_path, clip_tiny):
    model = ClipVision.from_folder(clip_tiny / "hf-full")
    model.save(tmp_path)
    back = ClipVision.from_folder(tmp_path)
    assert back.config == model.config
    assert {k: v.tolist() for k, v in back.state_dict().items()} == {
        k: v.tolist() for k, v in model.state_dict().items()
    }
    assert set(model.state_dict()) == {
        name.removeprefix("visual.")
        for name in load_file(clip_tiny / "open_clip" / "open_clip_model.safetensors")
        if name.startswith("visual.")
    }


def test_dtype_is_the_files_unless_asked_for(clip_tiny):
    folder = clip_tiny / "open_clip"
    assert ClipVision.from_folder(folder).proj.dtype == torch.float32
    assert ClipVision.from_folder(folder, dtype=torch.bfloat16).proj.dtype == torch.bfloat16


def test_what_a_missing_key_means_is_what_the_libraries_say():
    theirs = CLIPVisionConfig().to_dict()
    assert {name: theirs[name] for name in HF_DEFAULTS} == HF_DEFAULTS
    from open_clip.model import CLIPVisionCfg

    assert {name: getattr(CLIPVisionCfg(), name) for name in OPEN_CLIP_DEFAULTS} == (
        OPEN_CLIP_DEFAULTS
    )


def copied(source: Path, folder: Path, **changes) -> Path:
    """The folder with values of its config replaced, or taken out by None; `a.b` is nested."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = next(folder.glob("*config.json"))
    config = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        part = config
        for key in outer:
            part = part[key]
        part.pop(last, None)
        if value is not None:
            part[last] = value
    path.write_text(json.dumps(config))
    return folder


def test_open_clip_without_a_word_on_gelu_is_asked_about(tmp_path, clip_tiny, oracle):
    folder = copied(clip_tiny / "open_clip", tmp_path, model_cfg__quick_gelu=None)
    with pytest.raises(ValueError, match="Pass quick_gelu=True for OpenAI's"):
        ClipVision.from_folder(folder)
    assert max(gaps(ClipVision.from_folder(folder, quick_gelu=True), oracle)) < TOLERANCE
    assert max(gaps(ClipVision.from_folder(folder, quick_gelu=False), oracle)) > 500 * TOLERANCE


@pytest.mark.parametrize(
    ("layout", "changes", "says"),
    [
        ("hf-vision", {"model_type": "siglip_vision_model"}, "model_type='siglip_vision_model'"),
        ("hf-full", {"vision_config": None}, "wanted 'clip' with a vision_config"),
        ("hf-vision", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("hf-full", {"vision_config__layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06"),
        ("hf-vision", {"image_size": 30}, "image_size=30 is not a whole number"),
        ("hf-vision", {"num_attention_heads": 5}, "width=32 cannot be shared by heads=5"),
        ("open_clip", {"model_cfg__vision_cfg__timm_model_name": "vit"}, "timm_model_name"),
        ("open_clip", {"model_cfg__vision_cfg__layers": [3, 4, 6, 3]}, "layers="),
        ("open_clip", {"model_cfg__vision_cfg": None}, "vision_cfg"),
        ("open_clip", {"model_cfg__quick_gelu": False}, "says quick_gelu=False, the call says"),
    ],
)
def test_another_model_is_refused(tmp_path, clip_tiny, layout, changes, says):
    folder = copied(clip_tiny / layout, tmp_path, **changes)
    with pytest.raises(ValueError, match=says):
        ClipVision.from_folder(folder, quick_gelu=True if layout == "open_clip" else None)


def test_loading_is_all_or_nothing(tmp_path, clip_tiny):
    folder = copied(clip_tiny / "hf-vision", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    tensors["vision_model.encoder.layers.3.mlp.fc1.bias"] = torch.zeros(3)
    tensors["vision_model.post_layernorm.weight"] = torch.ones(31)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        ClipVision.from_folder(folder)
    for name in ("1.attn.in_proj_bias", "3.mlp.c_fc.bias", "ln_post.weight"):
        assert name in str(caught.value)


def test_an_empty_folder_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"needed: config\.json"):
        ClipVision.from_folder(tmp_path)


def test_a_tower_without_projection_says_so(clip_tiny, oracle):
    model = ClipVision.from_folder(clip_tiny / "hf-vision")
    with pytest.raises(ValueError, match="no projection"):
        model.image_features(oracle["pixel_values"])


@pytest.mark.parametrize("shape", [(2, 3, 28, 35), (2, 1, 28, 28), (3, 28, 28)])
def test_pixels_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(B, 3, 28, 28\)"):
        ClipVision(TINY)(torch.zeros(shape))


def test_quick_gelu_cannot_be_forgotten():
    with pytest.raises(TypeError, match="quick_gelu"):
        VisionConfig(image_size=28, patch_size=7, width=32, layers=3, heads=4, projection=24)
    with pytest.raises(ValueError, match="quick_gelu=None: must be True"):  # as JSON's null is read
        replace(LARGE, quick_gelu=None)


@pytest.mark.parametrize("wrong", [{"projection": 1.5}, {"mlp_ratio": 0}, {"image_size": 30}])
def test_a_wrong_size_is_told(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        replace(LARGE, **wrong)
