"""CLIP's tower from every file that it is published in: the same states, or a sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import save_legacy, write_shards
from safetensors.torch import load_file, save_file
from torchscript import Node, save_script

from connector.config import VisionConfig
from connector.vision import ClipVision

TOLERANCE = 1e-4  # rounding is 5e-6 (states up to 12); GELU for QuickGELU is 7.5e-2

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def clip_tiny(golden: Path) -> Path:
    return golden / "clip-tiny"


@pytest.fixture(scope="module")
def oracle(clip_tiny: Path) -> Tensors:
    with np.load(clip_tiny / "oracle.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def far(model: ClipVision, oracle: Tensors) -> float:
    """The largest difference of any hidden state, and of the image features where there are."""
    states = model.hidden_states(oracle["pixel_values"])
    wanted = [oracle[f"hidden_states_{i:02}"] for i in range(4)]
    if model.config.projection:
        states = [*states, model.image_features(states)]
        wanted = [*wanted, oracle["image_features"]]
    return max((a - b).abs().max().item() for a, b in zip(states, wanted, strict=True))


Save = Callable[[Tensors, Path], object]
BINS: dict[str, Save] = {
    "bin": lambda t, f: torch.save(t, f / "pytorch_model.bin"),
    "old bin": lambda t, f: save_legacy(t, f / "pytorch_model.bin"),
    "bin in shards": lambda t, f: write_shards(t, f, "pytorch_model.bin", torch.save),
    "safetensors in shards": lambda t, f: write_shards(t, f, "model.safetensors", save_file),
}


@torch.no_grad()
@pytest.mark.parametrize("files", BINS)
@pytest.mark.parametrize("layout", ["hf-vision", "hf-vision-noprefix", "hf-full"])
def test_transformers_files(
    clip_tiny: Path, oracle: Tensors, tmp_path: Path, layout: str, files: str
) -> None:
    """hf-full in a pytorch_model.bin is what openai/clip-vit-large-patch14-336 publishes."""
    shutil.copy(clip_tiny / layout / "config.json", tmp_path)
    BINS[files](load_file(clip_tiny / layout / "model.safetensors"), tmp_path)
    assert far(ClipVision.from_folder(tmp_path), oracle) < TOLERANCE


@torch.no_grad()
def test_open_clips_bin(clip_tiny: Path, oracle: Tensors, tmp_path: Path) -> None:
    shutil.copy(clip_tiny / "open_clip" / "open_clip_config.json", tmp_path)
    tensors = load_file(clip_tiny / "open_clip" / "open_clip_model.safetensors")
    torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    assert far(ClipVision.from_folder(tmp_path), oracle) < TOLERANCE


@torch.no_grad()
def test_a_published_folder_with_more_in_it(
    clip_tiny: Path, oracle: Tensors, tmp_path: Path
) -> None:
    """timm's has the tower once more beside it, under timm's own names and config."""
    shutil.copytree(clip_tiny / "open_clip", tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_large_patch14"}))
    save_file({"blocks.0.attn.qkv.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    assert far(ClipVision.from_folder(tmp_path), oracle) < TOLERANCE


# --- OpenAI's archive -------------------------------------------------------------------------

OPENAI = VisionConfig(
    image_size=12, patch_size=4, width=128, layers=11, heads=2, quick_gelu=True, projection=10
)


@pytest.fixture(scope="module")
def tower() -> ClipVision:
    """In half precision and of OpenAI's head width, 64."""
    torch.manual_seed(0)
    model = ClipVision(OPENAI)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.half().eval()


@pytest.fixture(scope="module")
def script(tower: ClipVision, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole CLIP as OpenAI's names have it: the text tower beside `visual`."""
    state = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    text = {"text_projection": torch.ones(3, 10), "logit_scale": torch.ones([])}
    text |= {"transformer.resblocks.0.ln_1.weight": torch.ones(3), "ln_final.bias": torch.ones(3)}
    path = tmp_path_factory.mktemp("openai") / "ViT-L-14-336px.pt"
    save_script(Node(state | {name: tensor.half() for name, tensor in text.items()}), path)
    return path


@pytest.mark.parametrize("as_folder", [True, False])
def test_openais_archive_is_the_same_tower(
    tower: ClipVision, script: Path, as_folder: bool
) -> None:
    model = ClipVision.from_folder(script.parent if as_folder else script)
    assert model.config == OPENAI
    wanted = tower.state_dict()
    got = model.state_dict()
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert got[name].dtype == torch.float16 and torch.equal(got[name], wanted[name]), name
    wide = ClipVision.from_folder(script, dtype=torch.float32, quick_gelu=True)
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    known = ClipVision(OPENAI).eval()
    known.load_state_dict(wanted)
    with torch.no_grad():
        for one, other in zip(wide(pixels), known(pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_openais_towers_have_quick_gelu(script: Path) -> None:
    with pytest.raises(ValueError, match="says quick_gelu=True, the call says False"):
        ClipVision.from_folder(script, quick_gelu=False)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    """CLIP's residual networks, and what is no CLIP at all."""
    save_script(Node({"visual.conv1.weight": torch.ones(4, 3, 3, 3)}), tmp_path / "RN50.pt")
    with pytest.raises(ValueError, match=r"RN50.pt has no visual.positional_embedding; wanted"):
        ClipVision.from_folder(tmp_path)
    torch.save({"weight": torch.ones(2)}, tmp_path / "RN50.pt")
    with pytest.raises(ValueError, match=r"RN50.pt has no visual.conv1.weight; wanted a CLIP"):
        ClipVision.from_folder(tmp_path / "RN50.pt")


def test_of_two_archives_none_is_guessed(script: Path, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        shutil.copy(script, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"holds a.pt, b.pt; needed: config.json"):
        ClipVision.from_folder(tmp_path)
    assert ClipVision.from_folder(tmp_path / "b.pt").config == OPENAI


# --- what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "config", "says"),
    [
        ("hf-full", "config.json", r"needed: model.safetensors or pytorch_model.bin"),
        ("open_clip", "open_clip_config.json", r"open_clip_model.safetensors or open_clip_pytorch"),
    ],
)
def test_a_config_without_tensors_says_what_is_needed(
    clip_tiny: Path, tmp_path: Path, layout: str, config: str, says: str
) -> None:
    shutil.copy(clip_tiny / layout / config, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{says}.*fetch clip-vit-l-14-336"):
        ClipVision.from_folder(tmp_path)


def test_an_archive_that_is_a_web_page(tmp_path: Path) -> None:
    (tmp_path / "ViT-L-14-336px.pt").write_text("<html><title>403 Forbidden</title>")
    with pytest.raises(ValueError, match=r"is an HTML page titled '403 Forbidden'"):
        ClipVision.from_folder(tmp_path)
