"""Numbers that others published about OpenAI's CLIP (`golden.json`), held against a tower."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from connector.preprocess import preprocess
from connector.raw import RawTower
from connector.text import TextTower
from connector.vision import ClipVision
from weights.figures import Answer, Fact, NotRun, check_figures, read_facts, read_file, within
from weights.verdict import Figure

SCALE = 100.0  # logit_scale.exp() of OpenAI's models
# Of OpenAI's vision transformers: image and patch side, width, layers.
SIZES = {
    "ViT-L/14@336px": (336, 14, 1024, 24),
    "ViT-L/14": (224, 14, 1024, 24),
    "ViT-B/32": (224, 32, 768, 12),
    "ViT-B/16": (224, 16, 768, 12),
}


def facts() -> list[Fact]:
    """Every published figure that the project knows, each with its source."""
    return read_facts(Path(__file__).with_name("golden.json"))


def about_sizes() -> set[str]:
    """The figures that weights of the right shapes pass, whatever their numbers."""
    return {fact["id"] for fact in facts() if fact["kind"] in ("parameters", "shapes")}


def size_name(raw: RawTower) -> str | None:
    """The published model whose sizes and activation a tower has, or None."""
    sizes = (raw.image_size, raw.patch_size, raw.width, raw.layers)
    named = (name for name, known in SIZES.items() if known == sizes and raw.quick_gelu)
    return next(named, None)


def check_published(
    model: ClipVision,
    raw: RawTower,
    *,
    files: Mapping[str, Path] | None = None,
    known: list[Fact] | None = None,
) -> tuple[Figure, ...]:
    """Every figure: pass, fail, or not run and why, with its source.

    `files`: the picture of a figure that needs one, by its id. `known`: facts other than our own.
    """

    @torch.no_grad()
    def check(fact: Fact, file: Path | None) -> Answer:
        if fact["kind"] in ("logits", "probs"):
            return matches(fact, model, raw, read_file(fact, file))
        return CHECKS[fact["kind"]](fact, model, raw)

    return check_figures(facts() if known is None else known, size_name(raw), check, files)


def parameters(fact: Fact, model: ClipVision, raw: RawTower) -> Answer:
    """The tower's, and those of its projection where the file holds one."""
    wanted, projection = dict(fact["expected"]), model.proj
    got = {"tower": sum(p.numel() for p in model.parameters())}
    if projection is None:
        del wanted["projection"]
    else:
        got = {"tower": got["tower"] - projection.numel(), "projection": projection.numel()}
    return got == wanted, f"{sum(got.values()):,}, wanted {sum(wanted.values()):,}"


def shapes(fact: Fact, model: ClipVision, raw: RawTower) -> Answer:
    """The shape of every tensor, under OpenAI's names."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in fact["expected"]["shapes"].items():
        blocks = range(fact["expected"]["blocks"]) if "{}" in name else range(1)
        wanted |= {name.format(number): tuple(shape) for number in blocks}
    got = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if "proj" not in got:
        del wanted["proj"]
    wrong = [name for name in {**wanted, **got} if wanted.get(name) != got.get(name)]
    says = f"{len(got)} tensors, wanted {len(wanted)}"
    return not wrong, says + (f"; {wrong[0]} differs" if wrong else "")


def file_hash(fact: Fact, model: ClipVision, raw: RawTower) -> Answer:
    """The SHA-256 of a published file, where the folder holds one of its name."""
    path = raw.folder if raw.folder.is_file() else raw.folder / fact["name"]
    if path.name != fact["name"] or not path.is_file():
        raise NotRun(f"is about {fact['name']}, which is not the file here")
    with path.open("rb") as file:
        got = file_digest(file, "sha256").hexdigest()
    return got == fact["expected"], f"{got[:12]}..., wanted {fact['expected'][:12]}..."


def matches(fact: Fact, model: ClipVision, raw: RawTower, content: bytes) -> Answer:
    """How well texts fit a picture: logits, or the probabilities that they make."""
    texts = unit(torch.from_numpy(text_features(fact, raw)))
    with Image.open(io.BytesIO(content)) as picture:
        pixels = preprocess([picture.convert("RGB")], raw.image_size)
    got = SCALE * unit(image_features(model, pixels))[0] @ texts.T
    if fact["kind"] == "probs":
        got = got.softmax(-1)
    right, says = within(got, fact["expected"], fact)
    told = (f"{text!r} {value:.4f}" for text, value in zip(fact["texts"], got, strict=True))
    return right, f"{', '.join(told)}; {says}"


def image_mean(fact: Fact, model: ClipVision, raw: RawTower) -> Answer:
    """The mean of the normalised image vector of noise from a seed."""
    side = raw.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    if sha256(pixels.numpy().tobytes()).hexdigest() != fact["sha256"]:
        raise NotRun("torch draws other numbers from seed 0 on this machine")
    return within(unit(image_features(model, pixels)).mean()[None], [fact["expected"]], fact)


def text_mean(fact: Fact, model: ClipVision, raw: RawTower) -> Answer:
    """The mean of the normalised text vector of some ids: whether the text tower is OpenAI's."""
    texts = unit(torch.from_numpy(text_features(fact, raw)))
    return within(texts.mean()[None], [fact["expected"]], fact)


def image_features(model: ClipVision, pixels: Tensor) -> Tensor:
    """(B, projection) in float64."""
    if model.proj is None:
        raise NotRun("needs the projection, which this file does not hold: a tower alone")
    return model.image_features(pixels.to(model.proj.device, model.proj.dtype)).double().cpu()


def text_features(fact: Fact, raw: RawTower) -> np.ndarray:
    """(texts, projection) in float64."""
    if not raw.text_heads:
        raise NotRun("needs the text tower, which this file does not hold: an image tower alone")
    return TextTower(raw).features(fact["tokens"]).astype(np.float64)


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


CHECKS: dict[str, Callable[[Fact, ClipVision, RawTower], Answer]] = {
    "parameters": parameters,
    "shapes": shapes,
    "sha256": file_hash,
    "image-mean": image_mean,
    "text-mean": text_mean,
}
