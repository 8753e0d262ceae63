"""Figures published about CLIP: each kind holds for the right model, fails for a wrong one.

Nobody here has OpenAI's weights, so the figures are made of a tiny CLIP by transformers.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from towers import random_tower

from connector.mistakes import MISTAKES
from connector.preprocess import preprocess
from connector.published import CHECKS, SIZES, check_published, facts, size_name
from connector.raw import PUBLISHED, RawTower, open_raw
from connector.text import TextTower
from connector.verify import verify_golden
from connector.vision import ClipVision
from weights.figures import Fact
from weights.manifest import find

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()

TEXTS = [[97, 3, 5, 98], [97, 41, 98, 0, 0], [97, 8, 8, 9, 10, 98]]  # 98 ends a text


@pytest.fixture(scope="module")
def raw(golden: Path) -> RawTower:
    return open_raw(golden / "clip-tiny" / "hf-full")


@pytest.fixture(scope="module")
def model(raw: RawTower) -> ClipVision:
    return ClipVision.from_folder(raw.folder).eval()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def figures(raw: RawTower, picture: Path) -> dict[str, Fact]:
    """What transformers' own CLIP gives, scale 100 as in OpenAI's models."""
    theirs: Any = transformers.CLIPModel.from_pretrained(raw.folder).eval()
    with torch.no_grad(), Image.open(picture) as image:
        vector = theirs.get_image_features(preprocess([image], 28)).pooler_output
        drawn = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        mean = theirs.get_image_features(drawn).pooler_output
        rows = [theirs.get_text_features(torch.tensor([ids])).pooler_output for ids in TEXTS]
        texts = torch.cat(rows)
    vector, mean, texts = (x / x.norm(dim=-1, keepdim=True) for x in (vector, mean, texts))
    logits = 100 * (vector @ texts.T)[0]
    about = {"file": {"what": "a picture", "sha256": sha256(picture.read_bytes()).hexdigest()}}
    named = {"texts": ["a", "b", "c"], "tokens": TEXTS}
    tower = sum(p.numel() for p in theirs.vision_model.parameters())
    parts: dict[str, Fact] = {
        "parameters": {"expected": {"tower": tower, "projection": 32 * 24}},
        "logits": about | named | {"expected": logits.tolist()},
        "probs": about | named | {"expected": logits.softmax(-1).tolist()},
        "image-mean": {
            "expected": mean.mean().item(),
            "sha256": sha256(drawn.numpy().tobytes()).hexdigest(),
        },
        "text-mean": {"expected": texts.mean().item(), "tokens": TEXTS},
    }
    return {kind: {"kind": kind, "atol": 1e-4} | part for kind, part in parts.items()}


def status(model: ClipVision, raw: RawTower, fact: Fact, **options: Any) -> str:
    about = {"id": "x", "model": "any", "source": "transformers", "reliability": "high"}
    (figure,) = check_published(model, raw, known=[about | fact], **options)
    assert "transformers" in figure.source and figure.says
    return figure.status


KINDS = ("parameters", "logits", "probs", "image-mean", "text-mean")


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        *((kind, "hf-full") for kind in KINDS),
        *((kind, "open_clip") for kind in ("parameters", "image-mean")),  # its texts are others
    ],
)
def test_each_kind_passes_what_is_right(
    model: ClipVision,
    golden: Path,
    figures: dict[str, Fact],
    picture: Path,
    kind: str,
    layout: str,
) -> None:
    raw = open_raw(golden / "clip-tiny" / layout)
    files = {"x": picture} if "file" in figures[kind] else {}
    assert status(model, raw, figures[kind], files=files) == "pass"


@pytest.mark.parametrize("kind", ["logits", "image-mean"])
def test_each_kind_fails_what_is_wrong(
    model: ClipVision, raw: RawTower, figures: dict[str, Fact], picture: Path, kind: str
) -> None:
    files = {"x": picture} if "file" in figures[kind] else {}
    # A mean of 24 numbers can't see QuickGELU's absence in so small a tower.
    name = "gelu-exact" if kind == "logits" else "no-ln-pre"
    (mistake,) = [m for m in MISTAKES if m.name == name]
    with mistake.planted():
        assert status(model, raw, figures[kind], files=files) == "fail"
    other = random_tower(image_size=28, patch_size=7, width=32, layers=1, projection=24)
    assert status(other, raw, figures[kind], files=files) == "fail"
    assert status(other, raw, figures["parameters"]) == "fail"


def test_probabilities_are_those_of_these_texts(
    model: ClipVision, raw: RawTower, figures: dict[str, Fact], picture: Path
) -> None:
    """In so small a tower one text has nearly all of it, whatever the mistake."""
    fact = figures["probs"]
    for wrong in (
        {"expected": [p + 2e-4 for p in fact["expected"]]},
        {"tokens": TEXTS[1:] + TEXTS[:1]},
    ):
        assert status(model, raw, fact | wrong, files={"x": picture}) == "fail"


def test_open_clips_text_tower_gives_the_same(golden: Path) -> None:
    """An open_clip folder has a text tower of another size beside the same image tower."""
    from open_clip.transformer import QuickGELU, TextTransformer
    from safetensors.torch import load_file

    folder = golden / "clip-tiny" / "open_clip"
    tensors = load_file(folder / "open_clip_model.safetensors")
    theirs = TextTransformer(
        context_length=16, vocab_size=97, width=32, heads=4, layers=2, output_dim=24,
        act_layer=QuickGELU,
    ).eval()  # fmt: skip
    theirs.load_state_dict({n: t for n, t in tensors.items() if n in theirs.state_dict()})
    tokens = [[90, 3, 5, 96], [90, 41, 7, 8, 96]]
    with torch.no_grad():
        padded = torch.tensor([ids + [0] * (16 - len(ids)) for ids in tokens])
        wanted = theirs(padded).numpy()
    got = TextTower(open_raw(folder)).features(tokens)
    assert np.abs(got - wanted).max() < 1e-5  # rounding of float32


def test_what_cannot_be_checked_says_why(
    model: ClipVision, raw: RawTower, golden: Path, figures: dict[str, Fact], picture: Path
) -> None:
    files = {"x": picture}
    about = {"id": "x", "model": "any", "source": "s", "reliability": "high"}

    def says(fact: Fact, model: ClipVision = model, raw: RawTower = raw, **options: Any) -> str:
        (figure,) = check_published(model, raw, known=[about | fact], **options)
        assert figure.status == "not run"
        return figure.says

    assert "pass --file x=PATH" in says(figures["logits"])
    alone = golden / "clip-tiny" / "hf-vision"
    tower = ClipVision.from_folder(alone)
    assert "needs the text tower" in says(figures["logits"], raw=open_raw(alone), files=files)
    assert "projection" in says(figures["image-mean"], model=tower, raw=open_raw(alone))
    assert "other numbers" in says(figures["image-mean"] | {"sha256": "0"})
    assert says(about | {"kind": "elsewhere", "because": "needs ImageNet"}) == "needs ImageNet"
    assert "not the file here" in says({"kind": "sha256", "name": "a.pt", "expected": "0"})
    with pytest.raises(ValueError, match="that of a picture"):
        fact = figures["logits"] | {"file": {"what": "a picture", "sha256": "0" * 64}}
        says(fact, files=files)


def test_hashes_and_shapes(model: ClipVision, raw: RawTower) -> None:
    content = (raw.folder / "model.safetensors").read_bytes()
    fact: Fact = {"kind": "sha256", "name": "model.safetensors"}
    assert status(model, raw, fact | {"expected": sha256(content).hexdigest()}) == "pass"
    assert status(model, raw, fact | {"expected": "0" * 64}) == "fail"
    shapes = {n.replace(".0.", ".{}."): list(p.shape) for n, p in model.named_parameters()}
    shapes = {n: s for n, s in shapes.items() if ".1." not in n and ".2." not in n}
    expected = {"blocks": 3, "tensors": 0, "shapes": shapes}
    assert status(model, raw, {"kind": "shapes", "expected": expected}) == "pass"
    expected["blocks"] = 4
    assert status(model, raw, {"kind": "shapes", "expected": expected}) == "fail"


# ---- what is in the file -------------------------------------------------------------------------


def test_every_fact_says_whose_it_is() -> None:
    known = facts()
    assert len({fact["id"] for fact in known}) == len(known) == 23
    for fact in known:
        assert fact["model"] in {*SIZES, "any"}
        assert fact["kind"] in {*CHECKS, "logits", "probs", "elsewhere"}
        assert len(fact["source"]) > 20 and fact["reliability"]


def test_the_facts_are_those_that_were_published(shared: Path) -> None:
    """Against the collection that they were taken from."""
    held = json.loads((shared / "golden" / "clip_golden.json").read_text())["facts"]
    theirs = {fact["id"]: fact["expected"] for fact in held}
    ours = {fact["id"]: fact["expected"] for fact in facts() if "expected" in fact}
    counts = theirs["param_counts"]
    for name, size in (("vit-l-14-336", "ViT-L/14@336px"), ("vit-l-14", "ViT-L/14")):
        assert ours[f"parameters-{name}"] == {
            "tower": counts[size]["vision_without_projection"],
            "projection": counts[size]["visual_projection"],
        }
    shapes = theirs["tensor_list_vision_336"]["openai"]
    blocks = {
        name: range(24) if "{}" in name else [0] for name in ours["tensors-vit-l-14-336"]["shapes"]
    }
    spread = {
        f"visual.{name}".format(n): ours["tensors-vit-l-14-336"]["shapes"][name]
        for name, numbers in blocks.items()
        for n in numbers
    }
    assert spread == shapes and len(shapes) == ours["tensors-vit-l-14-336"]["tensors"]
    hashes = {value["sha256"] for value in theirs["file_hashes"].values()}
    hashes |= {file.sha256 for source in find(PUBLISHED).sources for file in source.files}
    assert {value for name, value in ours.items() if name.startswith("sha256")} <= hashes
    for name, theirs_name in (
        ("cat-logits-vit-l-14-336", "ivy_cat_logits_ViT-L14_336px"),
        ("cat-logits-vit-b-32", "ivy_cat_logits_ViT-B32"),
    ):
        assert ours[name] == theirs[theirs_name]["logits_per_image"]
    assert [ours["cats-logits-vit-b-32"]] == theirs["hf_b32_cats_logits"]["logits_per_image"]
    assert ours["readme-probs-vit-b-32"] == theirs["openai_readme_b32"]["probs"]
    for name, theirs_name in (("vit-l-14", "ViT-L14"), ("vit-b-16", "ViT-B16")):
        found = theirs[f"torchmultimodal_seed0_{theirs_name}"]
        assert ours[f"seed-0-image-mean-{name}"] == found["image_embedding_l2normalised_mean"]
        assert ours[f"seed-0-text-mean-{name}"] == found["text_embedding_l2normalised_mean"]


def test_the_picture_from_a_seed_is_theirs(shared: Path) -> None:
    drawn = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).numpy()
    with np.load(shared / "golden" / "torchmultimodal_seed0_inputs.npz") as file:
        assert np.array_equal(drawn, file["image224"])
    wanted = {fact["sha256"] for fact in facts() if fact["kind"] == "image-mean"}
    assert wanted == {sha256(drawn.tobytes()).hexdigest()}


def test_the_pictures_are_theirs(shared: Path) -> None:
    """The two that lie beside the checkout, and the tokens of the texts."""
    known = {fact["id"]: fact for fact in facts()}
    for name, id in (
        ("ivy_cat.jpg", "cat-logits-vit-l-14-336"),
        ("CLIP.png", "readme-probs-vit-b-32"),
    ):
        content = (shared / "golden" / "clip_images" / name).read_bytes()
        assert sha256(content).hexdigest() == known[id]["file"]["sha256"]
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    spelt = [fact for fact in known.values() if "texts" in fact]
    assert len(spelt) == 4
    for fact in spelt:
        for text, ids in zip(fact["texts"], fact["tokens"], strict=True):
            assert ids == [49406, *tokenizer.encode(text), 49407]


def test_sizes_alone_are_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "ViT-L/14@336px", (15, 5, 24, 2))
    tower = random_tower(layers=2)
    tower.save(tmp_path)
    about = {"id": "parameters-vit-l-14-336", "kind": "parameters", "model": "ViT-L/14@336px"}
    assert tower.proj is not None
    held = {"projection": tower.proj.numel()}
    held["tower"] = sum(p.numel() for p in tower.parameters()) - held["projection"]
    known = [about | {"expected": held, "source": "s", "reliability": "high"}]
    monkeypatch.setattr("connector.published.facts", lambda: known)
    report = verify_golden(tmp_path)
    assert report.passed and "No number of the weights was compared" in str(report)


def test_a_size_is_known_by_its_numbers(raw: RawTower) -> None:
    from dataclasses import replace

    for name, (image, patch, width, layers) in SIZES.items():
        sizes = {"image_size": image, "patch_size": patch, "width": width, "layers": layers}
        assert size_name(replace(raw, **sizes)) == name  # type: ignore[arg-type]
        assert size_name(replace(raw, quick_gelu=False, **sizes)) is None  # type: ignore[arg-type]
    assert size_name(raw) is None
