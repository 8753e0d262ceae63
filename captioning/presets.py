"""The captioners that there are, each by name: the one table of sizes. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from captioning.config import CaptionerConfig, Trained
from connector.config import ConnectorConfig, ReducerConfig, Variant, VisionConfig
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.training.settings import LoRAConfig, adapter_sizes

CLIP_L_336 = VisionConfig(
    image_size=336,
    patch_size=14,
    width=1024,
    layers=24,
    heads=16,
    quick_gelu=True,
    projection=768,
)
PICKED = ReducerConfig(kind="article", strides=(5, 2), kernels=(1, 1))  # 577 -> 116 -> 58
WHOLE = ReducerConfig(kind="none")


@dataclass(frozen=True)
class Preset:
    """A captioner's sizes, and where the numbers of its two large parts come from.

    `clip` and `gpt2` are names that `python -m weights fetch` knows, or "scenes", which comes with
    the code. The connector is nobody's but ours: it is always trained here.
    """

    name: str
    title: str
    sizes: CaptionerConfig
    clip: str
    gpt2: str

    def parameters(self) -> dict[str, int]:
        """How many numbers each part has."""
        sizes = self.sizes
        return {
            "vision": sizes.vision.parameters,
            "connector": sizes.connector.parameters,
            "gpt2": sizes.gpt2.parameters,
        }

    def trainable(self, trained: Trained, lora: LoRAConfig | None = None) -> dict[str, int]:
        """How many of them learn, or for LoRA how many are added to do so."""
        parts = self.parameters()
        gpt2 = self.sizes.gpt2
        # What stands behind the last state that is read has no influence on a caption.
        seen = self.sizes.vision.parameters_before(self.sizes.connector.highest_state)
        added = gpt2.n_layer * adapter_sizes(gpt2, lora or LoRAConfig())[0]
        return {
            "vision": seen if trained == "all" else 0,
            "connector": parts["connector"],
            "gpt2": {"connector": 0, "connector+lora": added}.get(trained, parts["gpt2"]),
        }


def large(
    name: str,
    title: str,
    *,
    variant: Variant,
    reducer: ReducerConfig,
    gpt2: str = "gpt2-large",
) -> Preset:
    """CLIP ViT-L/14-336 with a published GPT-2 behind a connector of this kind."""
    language = GPT2Config.preset(gpt2)
    sizes = CaptionerConfig(
        vision=CLIP_L_336,
        connector=ConnectorConfig(
            vision_width=CLIP_L_336.width,
            depth=CLIP_L_336.layers,
            patches=CLIP_L_336.patches,
            out=language.n_embd,
            variant=variant,
            reducer=reducer,
        ),
        gpt2=language,
        resize="squash",  # the article's
        # The article stopped at 50, which cut six of its 21 captions off.
        max_new_tokens=100,
    )
    return Preset(name, title, sizes, clip="clip-vit-l-14-336", gpt2=gpt2)


def scenes() -> Preset:
    """The embedded captioner of drawn scenes: the article in miniature."""
    vision = VisionConfig(
        image_size=72, patch_size=6, width=128, layers=5, heads=4, quick_gelu=True, projection=128
    )
    # "explicit" since on a CPU torch's fused kernel is the slower of the two backwards in bf16.
    language = GPT2Config(
        n_vocab=384, n_ctx=128, n_embd=128, n_head=4, n_layer=3, dropout=0.0, attention="explicit"
    )
    sizes = CaptionerConfig(
        vision=vision,
        connector=ConnectorConfig(
            vision_width=vision.width,
            depth=vision.layers,
            patches=vision.patches,
            out=language.n_embd,
            variant="article",
            dropout=0.0,
            reducer=ReducerConfig(kind="pool", window=2),  # 145 -> 37
        ),
        gpt2=language,
        tokenizer="bpe",
        max_new_tokens=80,
        knows="drawn scenes",
    )
    return Preset("scenes", "embedded, for drawn scenes", sizes, "scenes", "scenes")


# dci, sci and sti are the Dense Connector's own (Yao et al. 2024): every patch, no class token.
# `efficient` takes fewer tokens than the article and yet reads every patch.
_ALL = (
    large("article", "the article's system", variant="article", reducer=PICKED),
    large(
        "article-small", "the same on GPT-2 124M", variant="article", reducer=PICKED, gpt2="gpt2"
    ),
    large("dci", "dense channel integration", variant="dci", reducer=WHOLE),
    large("sci", "sparse channel integration", variant="sci", reducer=WHOLE),
    large("sti", "sparse token integration", variant="sti", reducer=WHOLE),
    large(
        "efficient",
        "dci on 4 x 4 patches each",
        variant="dci",
        reducer=ReducerConfig(kind="pool", window=4),
    ),
    scenes(),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})


def find_preset(name: str) -> Preset:
    """The preset of that name; ValueError lists the names."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"There is no preset {name!r}, wanted one of {', '.join(PRESETS)}.{hint}")


def as_dict(preset: Preset) -> dict[str, Any]:
    """What `presets --json` shows of a preset."""
    trained: tuple[Trained, ...] = ("connector", "connector+lora", "connector+gpt2", "all")
    return {
        "name": preset.name,
        "title": preset.title,
        "image_tokens": preset.sizes.connector.tokens,
        "hidden_states": preset.sizes.vision.layers + 1,
        "clip": preset.clip,
        "gpt2": preset.gpt2,
        "parameters": preset.parameters(),
        "trainable": {name: preset.trainable(name) for name in trained},
        "sizes": preset.sizes.to_dict(),
    }
