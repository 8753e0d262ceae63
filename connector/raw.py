"""The tensors of a CLIP as its files hold them, under OpenAI's names; sizes from their shapes.

For what judges the loader: it shares no line with it. The layouts are those that `loader` reads;
the text tower is there where the files hold it, for the figures that need one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from weights.cache import locate
from weights.compare import Array
from weights.raw import open_files, read_object, whole_or_shards
from weights.store import embedded

PUBLISHED = "clip-vit-l-14-336"
TINY = "clip-tiny"
GELUS = {"quick_gelu": True, "gelu": False}
SMALL = 2**24  # bytes of the largest tensor: of towers below this, every tensor stays in memory


@dataclass(frozen=True)
class RawTower:
    """Sizes and tensors of one folder; `read("visual.conv1.weight")` is as OpenAI's file has it."""

    folder: Path
    layout: str
    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    inner: int  # width of the MLP
    projection: int  # 0: the file holds none
    quick_gelu: bool
    text_heads: int  # 0: the file holds no text tower
    names: tuple[str, ...]
    read: Callable[[str], Array]  # large files are mapped anew each time, so that memory is free


def find_folder(name_or_folder: str | Path) -> Path:
    """Where a CLIP is: the published one that was fetched, the embedded "clip-tiny", or a path."""
    if name_or_folder == PUBLISHED:
        return locate(PUBLISHED)
    if name_or_folder == TINY:
        return embedded("golden") / TINY / "hf-full"
    folder = Path(name_or_folder).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder} is not there, wanted a folder with a CLIP or OpenAI's .pt. Name one, or"
            f" {TINY}, or {PUBLISHED}."
        )
    return folder


def open_raw(folder: Path, quick_gelu: bool | None = None) -> RawTower:
    """The CLIP of a folder, or of OpenAI's `.pt`; `quick_gelu` where the folder does not say."""
    scripts = [folder] if folder.is_file() else sorted(folder.glob("*.pt"))
    if (folder / "open_clip_config.json").is_file():
        config = read_object(folder / "open_clip_config.json")
        config = config.get("model_cfg", config)
        names, read = _files(folder, "open_clip_model", "open_clip_pytorch_model")
        quick = config.get("quick_gelu")
        width = config.get("vision_cfg", {}).get("head_width", 64)
        text = config.get("text_cfg", {}).get("heads", 8)
        return _tower(folder, "open_clip", names, read, quick, quick_gelu, width, text)
    if (folder / "config.json").is_file():
        config = read_object(folder / "config.json")
        names, read = _files(folder, "model", "pytorch_model")
        if config.get("format") == "connector.vision":
            ours = [f"visual.{name}" for name in names]
            quick, width = config["quick_gelu"], config["width"] // config["heads"]
            inside = _inside(read)
            return _tower(folder, "our own", ours, inside, quick, quick_gelu, width, 0)
        vision = config.get("vision_config", config)
        text_config = config.get("text_config", {})
        names, read = from_hugging_face(names, read)
        quick = GELUS.get(vision.get("hidden_act", "quick_gelu"))
        width = vision.get("hidden_size", 768) // vision.get("num_attention_heads", 12)
        text = text_config.get("num_attention_heads", 8)
        return _tower(folder, "transformers", names, read, quick, quick_gelu, width, text)
    if len(scripts) == 1:
        names, read = open_files(scripts)
        return _tower(scripts[0], "OpenAI", names, read, True, quick_gelu, 64, 0)
    raise FileNotFoundError(
        f"{folder} holds no CLIP that can be read; needed: config.json and model.safetensors,"
        " open_clip_config.json and open_clip_model.safetensors, or one .pt of OpenAI's. Name such"
        f" a folder, or run: python -m weights fetch {PUBLISHED}"
    )


def _inside(read: Callable[[str], Array]) -> Callable[[str], Array]:
    return lambda name: read(name.removeprefix("visual."))


def _files(folder: Path, safetensors: str, torch_file: str) -> Any:
    files = whole_or_shards(folder, safetensors, ".safetensors")
    if files := files or whole_or_shards(folder, torch_file, ".bin"):
        return open_files(files)
    raise FileNotFoundError(
        f"{folder} holds a config but no tensors; needed: {safetensors}.safetensors or"
        f" {torch_file}.bin. Copy one of them there."
    )


def _tower(
    folder: Path,
    layout: str,
    names: list[str],
    read: Callable[[str], Array],
    quick: bool | None,
    told: bool | None,
    head_width: int,
    text_heads: int,
) -> RawTower:
    quick = told if quick is None else quick
    if quick is None:
        raise ValueError(
            f"{folder} does not say which GELU its weights were trained with."
            " Pass --gelu quick for OpenAI's, --gelu exact for most of LAION's."
        )
    conv, places = read("visual.conv1.weight"), read("visual.positional_embedding")
    inner = read("visual.transformer.resblocks.0.mlp.c_fc.bias").shape[0]
    blocks = {n.split(".")[3] for n in names if n.startswith("visual.transformer.resblocks.")}
    if 4 * inner * conv.shape[0] < SMALL:
        read = cache(read)
    if "token_embedding.weight" not in names:
        text_heads = 0
    elif layout == "OpenAI":
        text_heads = read("ln_final.weight").shape[0] // head_width
    return RawTower(
        folder=folder,
        layout=layout,
        image_size=math.isqrt(places.shape[0] - 1) * conv.shape[-1],
        patch_size=conv.shape[-1],
        width=conv.shape[0],
        layers=len(blocks),
        heads=conv.shape[0] // head_width,
        inner=inner,
        projection=read("visual.proj").shape[1] if "visual.proj" in names else 0,
        quick_gelu=quick,
        text_heads=text_heads,
        names=tuple(names),
        read=read,
    )


RENAMES = (  # OpenAI's, transformers'
    ("transformer.resblocks.", "encoder.layers."),
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.", ".self_attn."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1.weight", "embeddings.patch_embedding.weight"),
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
    ("ln_final.", "final_layer_norm."),
)
TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def hugging_face(name: str, prefix: str = "vision_model.") -> list[str]:
    """transformers' name of a tensor of OpenAI's, or its three names; `prefix`: the tower's."""
    if name in TURNED or name == "logit_scale":
        return [TURNED.get(name, name)]
    prefix = prefix if name.startswith("visual.") else "text_model."
    name = name.removeprefix("visual.")
    for ours, theirs in RENAMES:
        name = name.replace(ours, theirs)
    parts = [f"{part}_proj." for part in "qkv"] if ".in_proj_" in name else ["in_proj_"]
    return [prefix + name.replace("in_proj_", part) for part in parts]


def from_hugging_face(
    names: list[str], read: Callable[[str], Array]
) -> tuple[list[str], Callable[[str], Array]]:
    """The names in transformers' file as OpenAI's, and how to read one."""
    # A tower that was saved alone has no prefix.
    prefix = "" if "embeddings.class_embedding" in names else "vision_model."

    def back(name: str) -> str:
        for ours, theirs in TURNED.items():
            if name == theirs:
                return ours
        visual = "" if name.startswith("text_model.") else "visual."
        name = name.removeprefix("text_model." if not visual else prefix)
        for ours, theirs in RENAMES:
            name = name.replace(theirs, ours)
        return visual + name

    def as_openai(name: str) -> Array:
        arrays = [read(place) for place in hugging_face(name, prefix)]
        return (
            arrays[0].T
            if name in TURNED
            else np.concatenate(arrays)
            if len(arrays) > 1
            else arrays[0]
        )

    return [back(name) for name in names], as_openai
