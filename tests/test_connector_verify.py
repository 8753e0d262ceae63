"""`verify` of the image tower: what is right passes, what is wrong is found where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchscript import Node, save_script
from towers import random_tower, tower_config

import connector.loader
from connector.mistakes import MISTAKES
from connector.raw import open_raw
from connector.reference import Given, Reference, site_names
from connector.sites import record_ours
from connector.verify import Dtype, default_pictures, record, verify
from connector.vision import ClipVision
from weights.compare import compare
from weights.planting import rebound

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()

LAYOUTS = ("hf-full", "hf-vision", "hf-vision-noprefix", "open_clip")
PLANTED = {mistake.name: mistake for mistake in MISTAKES}


@pytest.fixture(scope="module")
def tiny(golden: Path) -> Path:
    return golden / "clip-tiny"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's archive: half precision, heads of 64."""
    model = random_tower(width=128, heads=2, layers=2).half()
    state = {f"visual.{name}": tensor for name, tensor in model.state_dict().items()}
    path = tmp_path_factory.mktemp("openai") / "ViT-L-14-336px.pt"
    save_script(Node(state), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_tower(layers=2).save(tmp_path / "tower")
    return tmp_path / "tower"


# ---- the reference -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_gives_transformers_numbers(tiny: Path, layout: str) -> None:
    with np.load(tiny / "oracle.npz") as file:
        oracle = {name: file[name] for name in file.files}
    raw = open_raw(tiny / layout)
    walk = dict(Reference(raw, Given(pixels=oracle["pixel_values"])).walk())
    assert list(walk) == site_names(3, layout in ("hf-full", "open_clip"))
    wanted = oracle | {"embed": oracle["embeddings"], "ln_post": oracle["pooler_output"]}
    found = compare(wanted, walk, 1e-5)  # float32 on their side: at most 2.3e-6 was seen
    assert found.passed and len(found.differences) == 7 + (layout in ("hf-full", "open_clip"))


def test_the_references_pictures_are_ours() -> None:
    """Resized and cropped by either, number for number, in landscape and portrait."""
    from connector.preprocess import resize_and_crop
    from connector.reference import resize_and_crop as again

    for shape in ((22, 31), (31, 22), (15, 15), (15, 400), (7, 9)):
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        ours = resize_and_crop(Image.fromarray(picture), 15)
        assert np.array_equal(ours, again(picture, 15)), shape


# ---- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["reference", "transformers", "oracle"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_right_passes(tiny: Path, layout: str, against: str) -> None:
    report = verify(tiny / layout, tiny / "oracle.npz" if against == "oracle" else against)
    assert report.comparison is not None
    assert report.passed and report.code == 0, str(report)
    assert report.diagnosis is None and report.first_jump is None
    sites = [d.site for d in report.comparison.differences]
    known = site_names(3, layout in ("hf-full", "open_clip"))
    if against == "reference":
        assert sites == known
    elif against == "transformers":
        assert sites == known[1:]  # both were given the same pixels
    else:
        wanted = {"embed", "ln_post", *(f"hidden_states_0{n}" for n in range(4))}
        assert set(sites) - {"image_features"} == wanted
        assert "open_clip_intermediate_00" in str(report) and "not in the file: patches" in str(
            report
        )
    # With a margin: rounding differs from machine to machine.
    assert all(d.relative < d.allowed / 4 for d in report.comparison.differences)


@pytest.mark.parametrize("against", ["reference", "transformers"])
def test_openais_archive_and_our_own_layout(script: Path, folder: Path, against: str) -> None:
    for place in (script, script.parent, folder):
        report = verify(place, against)
        assert report.passed, str(report)


def test_bins_and_shards(tiny: Path, tmp_path: Path) -> None:
    """The published pytorch_model.bin, in one file and in three."""
    import shutil

    from layouts import write_shards
    from safetensors.torch import load_file

    tensors = load_file(tiny / "hf-full" / "model.safetensors")
    for name in ("whole", "shards"):
        (tmp_path / name).mkdir()
        shutil.copy(tiny / "hf-full" / "config.json", tmp_path / name)
    torch.save(tensors, tmp_path / "whole" / "pytorch_model.bin")
    write_shards(tensors, tmp_path / "shards", "pytorch_model.bin", torch.save)
    for name in ("whole", "shards"):
        assert verify(tmp_path / name).passed
        assert verify(tmp_path / name, "transformers").passed


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fewer_bits_pass_with_a_warning(tiny: Path, dtype: Dtype) -> None:
    report = verify(tiny / "hf-full", dtype=dtype)
    assert report.passed, str(report)
    assert "hides small mistakes" in str(report)


@pytest.mark.parametrize(
    "sizes",
    [
        {"quick_gelu": False, "layers": 2},
        {"projection": 0, "layers": 2},
        {"heads": 1, "layers": 1},
        {"patch_size": 15, "layers": 1},
        {"mlp_ratio": 1.0, "layers": 2},
        {"projection": 24, "layers": 12},
    ],
)
def test_other_sizes(tmp_path: Path, sizes: dict[str, Any]) -> None:
    random_tower(**sizes).save(tmp_path)
    for against in ("reference", "transformers"):
        report = verify(tmp_path, against)
        assert report.passed, str(report)


def test_pictures_of_ones_own(folder: Path) -> None:
    pictures = [Image.new("RGB", (40, 30), "red"), Image.new("L", (20, 90), 77)]
    report = verify(folder, pictures=pictures)
    assert report.passed and "2 pictures of 20 x 90, 40 x 30" in str(report)


def test_nothing_is_left_behind(folder: Path) -> None:
    model, kernel = ClipVision.from_folder(folder), nn.functional.scaled_dot_product_attention
    pixels = torch.randn(2, 3, 15, 15, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(pixels)
        first = record_ours(model, pixels)
        assert all(torch.equal(a, b) for a, b in zip(model(pixels), before, strict=True))
    assert nn.functional.scaled_dot_product_attention is kernel
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    again = record_ours(model, pixels)
    assert all(np.array_equal(array, first[site]) for site, array in again.items())
    assert set(first) == set(site_names(2)) - {"pixel_values"}


# ---- what is wrong -------------------------------------------------------------------------------


def test_a_loader_that_transposes_is_seen(tiny: Path) -> None:
    """Both references read the files on their own: a mistake of the loader is not made twice."""
    right = connector.loader._from_transformers

    def wrong(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        ours, name = right(tensors), "transformer.resblocks.1.attn.out_proj.weight"
        return ours | {name: ours[name].T.contiguous()}

    with rebound(connector.loader, "_from_transformers", wrong):
        for against in ("reference", "transformers"):
            report = verify(tiny / "hf-full", against)
            assert report.code == 1 and report.diagnosis is not None
            assert report.first_jump == "layer01.attn"
            assert report.diagnosis.steps == (("out_proj-transposed@1",),)
            assert len(report.faults) == 1 and "resblocks.1.attn.out_proj" in report.faults[0]


def test_keys_and_queries_that_a_loader_stacks_the_other_way(tiny: Path) -> None:
    right = connector.loader._from_transformers

    def wrong(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        ours = right(tensors)
        for name in ours:
            if "in_proj" in name:
                q, k, v = ours[name].chunk(3)
                ours[name] = torch.cat([k, q, v])
        return ours

    with rebound(connector.loader, "_from_transformers", wrong):
        report = verify(tiny / "hf-vision")
    assert report.diagnosis is not None
    assert report.diagnosis.names == ("keys-queries-values",)
    assert len(report.faults) == 6


def test_whose_mistake_it_is(folder: Path, tmp_path: Path) -> None:
    """Against a file of another implementation a third opinion says which of the two is wrong."""
    file = tmp_path / "theirs.npz"
    with PLANTED["gelu-exact"].planted():
        record(folder, file)
        assert verify(folder, file).passed  # wrong on both sides
    report = verify(folder, file)
    assert report.first_failed == report.first_jump == "layer00.mlp"
    assert [(d.whose, d.names) for d in report.diagnoses] == [("theirs.npz", ("gelu-exact",))]
    with PLANTED["no-ln-pre"].planted():
        report = verify(folder, file)
    told = {d.whose: d.names for d in report.diagnoses}
    assert told == {"this model": ("no-ln-pre",), "theirs.npz": ("gelu-exact",)}


def test_several_mistakes_are_named_one_after_the_other(tiny: Path) -> None:
    with PLANTED["no-ln-pre"].planted(), PLANTED["gelu-exact"].planted():
        report = verify(tiny / "hf-full")
    assert report.diagnosis is not None
    assert report.diagnosis.steps == (("no-ln-pre",), ("gelu-exact",))
    assert report.diagnosis.until is None


def test_the_run_that_nobody_watches_is_judged_too(tiny: Path) -> None:
    """Attention in one kernel is not the attention in steps whose parts are looked at."""

    def wrong(*args: Any, **kwargs: Any) -> Any:
        return right(*args, **kwargs) * 1.01

    right = nn.functional.scaled_dot_product_attention
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with rebound(nn.functional, "scaled_dot_product_attention", wrong):
            report = verify(tiny / "hf-full")
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert report.code == 1 and report.first_failed == "hidden_states_01"
    assert "what is returned is not" in str(report)


def test_drawn_pictures_are_the_same_everywhere() -> None:
    first, again = default_pictures(15), default_pictures(15)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (22, 31, 3) and first[0].dtype == np.uint8
    assert tower_config().patches == 9
