"""CLIP's image tower from a folder: our own layout, transformers', open_clip's and OpenAI's.

our own        config.json of this format, model.safetensors
transformers   config.json, model.safetensors or pytorch_model.bin (or the shards of either)
open_clip      open_clip_config.json, open_clip_model.safetensors or open_clip_pytorch_model.bin
OpenAI         one .pt, such as ViT-L-14-336px.pt, and no config: its tensors' shapes tell the sizes

Of several in one folder, open_clip's is read before config.json, the .pt where it is alone.
"""

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
from weights.tensor_files import TORCH, find_safetensors, find_torch
from weights.torch_file import read_torch

FORMAT = "connector.vision"
OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

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
    """The tower of a folder, or of OpenAI's `.pt`; see `ClipVision.from_folder`."""
    folder = Path(folder)
    scripts = [folder] if folder.is_file() else sorted(folder.glob("*.pt"))
    if (folder / OPEN_CLIP_CONFIG).is_file():
        config, tensors = _read_open_clip(folder, quick_gelu)
    elif len(scripts) == 1 and not (folder / store.CONFIG).is_file():
        config, tensors = _read_openai(scripts[0])
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


def _read_files(folder: Path, safetensors: str, torch_file: str) -> Tensors:
    files = find_safetensors(folder, safetensors) or find_torch(folder, torch_file)
    if files is None:
        raise FileNotFoundError(
            f"{folder} holds a config but no tensors; needed: {safetensors} or {torch_file}."
            " Copy one of them there, or run: python -m weights fetch clip-vit-l-14-336"
        )
    return files.read(files.kinds)


def _ratio(inner: int, width: int) -> float:
    """`mlp_ratio` for an MLP of that inner width: open_clip rounds width times it down."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf)


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
            f" wanted one of {sorted(HF_ACTIVATIONS)}. Choose another model."
        )
    for name in ("layer_norm_eps", "num_channels"):
        if vision[name] != HF_DEFAULTS[name]:
            raise ValueError(
                f"{folder / store.CONFIG} has {name}={vision[name]}; CLIP has {HF_DEFAULTS[name]}."
                " Choose another model."
            )
    tensors = _from_transformers(_read_files(folder, store.TENSORS, TORCH))
    config = VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["hidden_size"],
        layers=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        mlp_ratio=_ratio(vision["intermediate_size"], vision["hidden_size"]),
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
    path = folder / OPEN_CLIP_CONFIG
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
    return config, _visual(_read_files(folder, *OPEN_CLIP_FILES))


def _visual(tensors: Tensors) -> Tensors:
    return {n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")}


# --- OpenAI -----------------------------------------------------------------------------------

HEAD_WIDTH = 64  # of every tower that OpenAI published


def _read_openai(path: Path) -> tuple[VisionConfig, Tensors]:
    """OpenAI's TorchScript archive, whose tensors have open_clip's names; see `torchscript`."""
    tensors = _visual(read_torch(path))
    inner = "transformer.resblocks.0.mlp.c_fc.bias"
    for name in ("conv1.weight", "positional_embedding", "proj", inner):
        if name not in tensors:
            raise ValueError(
                f"{path} has no visual.{name}; wanted a CLIP with a vision transformer, such as"
                " ViT-L-14-336px.pt. Choose another model."
            )
    width, _, _, patch_size = tensors["conv1.weight"].shape
    tokens = tensors["positional_embedding"].shape[0]  # 1 + P
    blocks = {name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")}
    config = VisionConfig(
        image_size=math.isqrt(tokens - 1) * patch_size,
        patch_size=patch_size,
        width=width,
        layers=len(blocks),
        heads=width // HEAD_WIDTH,
        mlp_ratio=_ratio(len(tensors[inner]), width),
        quick_gelu=True,
        projection=tensors["proj"].shape[1],
    )
    return config, tensors
