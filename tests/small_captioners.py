"""Captioners as small as they can be, built by the code that builds the large ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from helpers import stir

from captioning.build import build_captioner
from captioning.config import CaptionerConfig
from captioning.model import Captioner
from captioning.presets import PRESETS, Preset
from connector.config import ConnectorConfig, ReducerConfig, Variant, VisionConfig
from gpt2_scratch.config import GPT2Config

# The grid is 4 x 4; 17 tokens become 9 and 5 by strides 2 and 2, as 577 become 116 and 58.
VISION = VisionConfig(
    image_size=28, patch_size=7, width=26, layers=6, heads=2, quick_gelu=True, projection=11
)
LANGUAGE = GPT2Config(n_vocab=389, n_ctx=67, n_embd=21, n_head=3, n_layer=2)
REDUCER = ReducerConfig(kind="article", strides=(2, 2))


def small_preset(
    variant: Variant = "article",
    reducer: ReducerConfig = REDUCER,
    vision: VisionConfig = VISION,
    gpt2: GPT2Config = LANGUAGE,
    **changes: Any,
) -> Preset:
    """The article's system with sizes that differ; the tokenizer is the embedded model's."""
    connector = ConnectorConfig(
        vision_width=vision.width,
        depth=vision.layers,
        patches=vision.patches,
        out=gpt2.n_embd,
        variant=variant,
        reducer=reducer,
    )
    sizes = CaptionerConfig(
        vision, connector, gpt2, tokenizer="bpe", resize="squash", max_new_tokens=20
    )
    return replace(PRESETS["scenes"], name="small", sizes=replace(sizes, **changes))


def small_captioner(variant: Variant = "article", seed: int = 0, **changes: Any) -> Captioner:
    """One with random numbers, in eval mode, each gain and bias stirred."""
    captioner = build_captioner(small_preset(variant, **changes), random_init=True, seed=seed)
    stir(captioner, seed)
    return captioner


def batch(captioner: Captioner, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels (3, 3, size, size), ids (3, 7) and lengths (3,); the second caption is short."""
    generator = torch.Generator().manual_seed(seed)
    size = captioner.config.vision.image_size
    pixels = torch.randn(3, 3, size, size, generator=generator)
    ids = torch.randint(captioner.tokenizer.end, (3, 7), generator=generator)
    lengths = torch.tensor([7, 4, 6])
    ids[torch.arange(3), lengths - 1] = captioner.tokenizer.end
    return pixels, ids, lengths
