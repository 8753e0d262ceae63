"""CLIP's image tower from a folder: our own layout, transformers' and open_clip's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from connector.config import VisionConfig
from connector.vision import ClipVision
from weights import store

FORMAT = "connector.vision"

Tensors = dict[str, Tensor]


def save_vision(model: ClipVision, folder: str | Path) -> None:
    """Write the tower's config and tensors in our own layout."""
    config = {"format": FORMAT, **dataclasses.asdict(model.config)}
    store.write_folder(folder, config, model.state_dict())


def load_vision(
    folder: str | Path,
    *,
    quick_gelu: bool | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> ClipVision:
    """The tower of a folder; see `ClipVision.from_folder`."""
    folder = Path(folder)
    if (folder / "open_clip_config.json").is_file():
        config, tensors = _read_open_clip(folder, quick_gelu)
    else:
        raw = store.read_config(folder)
        read = _read_own if raw.get("format") == FORMAT else _read_transformers
        config, tensors = read(folder, raw)
    if quick_gelu is not None and quick_gelu != config.quick_gelu:
        raise ValueError(
            f"{folder} says quick_gelu={config.quick_gelu}, the call says {quick_gelu}."
            " Leave quick_gelu out, or correct the folder's config."
        )
    with torch.device("meta"):
        model = ClipVision(config)
    store.assign(model, tensors, source=str(folder))
    return model.to(device=device, dtype=dtype)


def _read_own(folder: Path, raw: Mapping[str, Any]) -> tuple[VisionConfig, Tensors]:
    fields = {name: value for name, value in raw.items() if name != "format"}
    known = {field.name for field in dataclasses.fields(VisionConfig)}
    if fields.keys() != known:
        raise ValueError(
            f"{folder / store.CONFIG}: got {sorted(fields)}, wanted {sorted(known)}."
            " Save the tower again with ClipVision.save."
        )
    return VisionConfig(**fields), store.read_tensors(folder)


# --- transformers -----------------------------------------------------------------------------

# What a key means that CLIPVisionConfig left out: it writes only what differs from these.
HF_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
HF_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
HF_RENAMES = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.patch_embedding.weight", "conv1.weight"),
    ("pre_layrnorm.", "ln_pre."),  # transformers' spelling
    ("post_layernorm.", "ln_post."),
    ("encoder.layers.", "transformer.resblocks."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".self_attn.", ".attn."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


def _read_transformers(folder: Path, raw: Mapping[str, Any]) -> tuple[VisionConfig, Tensors]:
    kind = raw.get("model_type")
    given = {"clip": raw.get("vision_config"), "clip_vision_model": raw}.get(str(kind))
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{folder / store.CONFIG} has model_type={kind!r}; wanted 'clip' with a vision_config,"
            f" 'clip_vision_model', or format={FORMAT!r}. Name the folder of a CLIP."
        )
    vision = {**HF_DEFAULTS, **given}
    if vision["hidden_act"] not in HF_ACTIVATIONS:
        raise ValueError(
            f"{folder / store.CONFIG} has hidden_act={vision['hidden_act']!r};"
            f" wanted one of {sorted(HF_ACTIVATIONS)}."
        )
    for name in ("layer_norm_eps", "num_channels"):
        if vision[name] != HF_DEFAULTS[name]:
            raise ValueError(
                f"{folder / store.CONFIG} has {name}={vision[name]}; CLIP has {HF_DEFAULTS[name]}."
            )
    tensors = _from_transformers(store.read_tensors(folder))
    ratio = vision["intermediate_size"] / vision["hidden_size"]
    if int(vision["hidden_size"] * ratio) < vision["intermediate_size"]:
        ratio = math.nextafter(ratio, math.inf)  # open_clip rounds the product down
    config = VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_ratio=ratio,
        quick_gelu=HF_ACTIVATIONS[vision["hidden_act"]],
        # A vision tower alone names a projection_dim that its file does not hold.
        projection=tensors["proj"].shape[1] if "proj" in tensors else 0,
    )
    return config, tensors


def _from_transformers(tensors: Tensors) -> Tensors:
    """The tower under our names: text side skipped, q, k and v stacked, projection transposed."""
    ours: Tensors = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("vision_model.")
        if name.startswith(("text_", "logit_scale")) or name.endswith(".position_ids"):
            continue
        if name == "visual_projection.weight":
            name, tensor = "proj", tensor.T.contiguous()
        for theirs, here in HF_RENAMES:
            name = name.replace(theirs, here)
        ours[name] = tensor
    for name in [name for name in ours if ".attn.q_proj." in name]:
        parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if all(part in ours for part in parts):  # else: left as it is, for `assign` to report
            stacked = torch.cat([ours.pop(part) for part in parts])  # (3 W, W) or (3 W)
            ours[name.replace("q_proj.", "in_proj_")] = stacked
    return ours


# --- open_clip --------------------------------------------------------------------------------

# What open_clip's CLIPVisionCfg takes a missing key for.
OPEN_CLIP_DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "layers": 12,
    "head_width": 64,
    "mlp_ratio": 4.0,
}


def _read_open_clip(folder: Path, quick_gelu: bool | None) -> tuple[VisionConfig, Tensors]:
    path = folder / "open_clip_config.json"
    raw = store.read_json(path)
    model = raw.get("model_cfg", raw)
    given = model.get("vision_cfg")
    if not isinstance(given, Mapping) or "embed_dim" not in model:
        raise ValueError(f"{path} has no model_cfg with embed_dim and vision_cfg. Copy it again.")
    strange = {name: v for name, v in given.items() if v and name not in OPEN_CLIP_DEFAULTS}
    if strange:
        raise ValueError(
            f"{path} asks for {strange}; wanted the plain vision transformer that"
            f" {', '.join(OPEN_CLIP_DEFAULTS)} describe. Choose another model."
        )
    quick = quick_gelu if model.get("quick_gelu") is None else model["quick_gelu"]
    if quick is None:
        raise ValueError(
            f"{path} does not say which GELU its weights were trained with (no quick_gelu)."
            " Pass quick_gelu=True for OpenAI's weights and those named -quickgelu, else False."
        )
    vision = {**OPEN_CLIP_DEFAULTS, **given}
    config = VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision["head_width"],
        mlp_ratio=vision["mlp_ratio"],
        quick_gelu=quick,
        projection=model["embed_dim"],
    )
    tensors = store.read_tensors(folder / "open_clip_model.safetensors")
    tower = {n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")}
    return config, tower
