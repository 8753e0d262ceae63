"""The same tower in transformers, for `verify`: read by its own reader, not by our loader."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from connector.raw import RawTower, hugging_face
from connector.sites import TRANSFORMERS, of_output
from weights.compare import Array
from weights.hooks import Place, record
from weights.twin import import_transformers, quietly


def record_transformers(raw: RawTower, pixels: Tensor) -> dict[str, Array]:
    """Every site of transformers' tower in float32; the model is gone afterwards."""
    model, prefix = load_transformers(raw)
    held, output = record(model, pixels, behind(prefix), raw.layers)
    return held | of_output(output, raw.layers, raw.projection)


def behind(prefix: str) -> dict[str, Place]:
    """The places of `TRANSFORMERS` in a model that has the tower behind a prefix."""
    return {
        site: prefix + place if isinstance(place, str) else (prefix + place[0], place[1])
        for site, place in TRANSFORMERS.items()
        if isinstance(place, str | tuple)
    }


def load_transformers(raw: RawTower) -> tuple[Any, str]:
    """transformers' model and the prefix of its tower; files it can't read, tensor by tensor."""
    transformers = import_transformers()
    kind = transformers.CLIPVisionModel
    if raw.projection:
        kind = transformers.CLIPVisionModelWithProjection
    prefix = "vision_model." if raw.projection else ""
    options: dict[str, Any] = {"attn_implementation": "eager"}  # the one that returns its weights
    if raw.layout == "transformers":
        with quietly(transformers):
            model = kind.from_pretrained(
                raw.folder, dtype=torch.float32, local_files_only=True, **options
            )
    else:
        config = transformers.CLIPVisionConfig(
            hidden_size=raw.width,
            intermediate_size=raw.inner,
            projection_dim=raw.projection,
            num_hidden_layers=raw.layers,
            num_attention_heads=raw.heads,
            image_size=raw.image_size,
            patch_size=raw.patch_size,
            hidden_act="quick_gelu" if raw.quick_gelu else "gelu",
            **options,
        )
        with torch.device("meta"):
            model = kind(config)
        model.load_state_dict(as_state(raw, prefix), strict=True, assign=True)
        for part in model.modules():
            if hasattr(part, "position_ids"):  # of no file, so still on meta
                part.position_ids = torch.arange(part.position_ids.shape[-1]).expand((1, -1))
    model.config.output_hidden_states = True
    return model.eval(), prefix


def as_state(raw: RawTower, prefix: str) -> dict[str, Tensor]:
    """The tower's tensors under transformers' names, the square ones in three."""
    leaves = [f"{norm}.{leaf}" for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")]
    leaves += ["attn.in_proj_weight", "attn.in_proj_bias"]
    linear = ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    leaves += [f"{part}.{leaf}" for part in linear for leaf in ("weight", "bias")]
    names = [f"transformer.resblocks.{n}.{leaf}" for n in range(raw.layers) for leaf in leaves]
    names += ["class_embedding", "positional_embedding", "conv1.weight"]
    names += [f"{norm}.{leaf}" for norm in ("ln_pre", "ln_post") for leaf in ("weight", "bias")]
    names += ["proj"] * (raw.projection > 0)
    state: dict[str, Tensor] = {}
    for name in names:
        places = hugging_face(f"visual.{name}", prefix)
        tensor = torch.from_numpy(raw.read(f"visual.{name}"))
        tensor = tensor.T if name == "proj" else tensor
        parts = tensor.chunk(len(places))
        state |= {place: part.contiguous() for place, part in zip(places, parts, strict=True)}
    return state
