"""What several tests of the image tower need: a tiny one in which every number counts."""

from __future__ import annotations

import torch
from helpers import stir

from connector.config import VisionConfig
from connector.vision import ClipVision


def tower_config(**changes: object) -> VisionConfig:
    """Nine patches, twelve blocks (so that their order as strings is another), four heads of 6."""
    sizes: dict[str, object] = {"image_size": 15, "patch_size": 5, "width": 24, "layers": 12}
    sizes |= {"heads": 4, "quick_gelu": True, "projection": 11, "mlp_ratio": 3.0}
    return VisionConfig(**(sizes | changes))  # type: ignore[arg-type]


def random_tower(seed: int = 0, **changes: object) -> ClipVision:
    """A tiny tower in eval mode, in float32."""
    model = ClipVision(tower_config(**changes)).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    stir(model, seed)
    with torch.no_grad():  # as small as CLIP's own, so that LayerNorm's epsilon counts
        for part in (model.conv1.weight, model.class_embedding, model.positional_embedding):
            part.mul_(0.1)
    return model
