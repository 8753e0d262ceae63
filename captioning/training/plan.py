"""What a captioner's training step holds in memory: the tower and connector before GPT-2.

Counted as in `gpt2_scratch.training.plan`: what autograd keeps of this project's modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from captioning.config import CaptionerConfig, Trained
from connector.config import ConnectorConfig, VisionConfig
from gpt2_scratch.training.plan import WIDE, Load, Prefix
from gpt2_scratch.training.settings import LoRAConfig, Precision

if TYPE_CHECKING:
    from captioning.training.settings import CaptionTraining

# P patches   W CLIP width   T tokens: 1 + P in the tower, fewer behind the connector


def tower_block(config: VisionConfig, precision: Precision, device: str) -> float:
    """Bytes that autograd keeps of one of the tower's blocks for a picture."""
    half = precision != "fp32"
    narrow, w = (2 if half else WIDE), config.width
    inner = int(w * config.mlp_ratio)
    tokens = 1 + config.patches
    norms = 2 * WIDE * w  # their inputs
    inputs = 2 * narrow * w  # of in_proj and c_fc
    attention = (3 + 2) * narrow * w  # q, k, v; the result, before and after its heads are joined
    mlp = (3 if config.quick_gelu else 2) * narrow * inner
    each = norms + inputs + attention + mlp
    if device == "cpu" and half:  # where the attention weights are computed step by step
        each += config.heads * tokens * 3 * narrow
    return tokens * each


def tower_weights(config: VisionConfig, precision: Precision) -> float:
    """Bytes of one block's matrices in half precision, which autocast makes from float32."""
    return 0.0 if precision == "fp32" else 2.0 * config.block_parameters


def connector_kept(config: ConnectorConfig, precision: Precision) -> float:
    """Bytes that autograd keeps of the connector for a picture."""
    narrow = WIDE if precision == "fp32" else 2
    tokens = config.tokens if config.reducer.picks else config.tokens_in
    kept = narrow * config.features * tokens
    if config.class_token:  # Linear, Dropout, LayerNorm
        kept += tokens * config.out * (WIDE + (1 if config.dropout else 0))
    else:  # Linear, GELU, Linear
        kept += tokens * config.out * 2 * narrow
    return kept + sum(tokens * config.out * narrow for _ in config.reducer.steps)


def prefix_of(
    sizes: CaptionerConfig,
    trained: Trained,
    precision: Precision,
    device: str,
    *,
    recompute: bool,
    features: bool = False,
) -> Prefix:
    """The tower and the connector of a captioner, for a picture. `features`: the tower's are kept
    on the disk, so that it is there, but not run."""
    vision, connector = sizes.vision, sizes.connector
    tokens, w = 1 + vision.patches, vision.width
    states = (vision.layers + 1) * tokens * w * WIDE
    narrow = WIDE if precision == "fp32" else 2
    inner = int(w * vision.mlp_ratio)
    working = tokens * (3 * narrow * inner + 6 * WIDE * w)  # of the block that is computed
    chosen = connector.tokens if connector.reducer.picks else connector.tokens_in
    means = chosen * connector.features * WIDE * 2 + chosen * w * WIDE * (vision.layers // 2)
    pixels = 3 * vision.image_size**2 * WIDE
    kept, turn = connector_kept(connector, precision), 0.0
    copies = 0.0 if precision == "fp32" else 2.0 * connector.parameters
    learned = connector.parameters
    if trained == "all":
        seen = connector.highest_state
        learned += vision.parameters_before(seen)
        block = tower_block(vision, precision, device)
        kept += pixels
        copies += seen * tower_weights(vision, precision)
        if recompute:
            kept += states
            turn = block
        else:
            kept += seen * block
    encoding = pixels + states + max(working, means)
    if features:
        encoding = chosen * connector.features * WIDE
    return Prefix(
        parameters=vision.parameters + connector.parameters + (4 * w) ** 2,  # and familiarity's
        trained=learned,
        kept=kept,
        encoding=max(encoding, kept),
        turn=turn,
        copies=copies,
    )


def load_of(
    sizes: CaptionerConfig,
    settings: CaptionTraining,
    precision: Precision,
    device: str,
    *,
    rows: int,
    longest: int,
    features: bool = False,
    recompute: bool = False,
) -> Load:
    """What the planner is to judge; `longest` are the tokens of the longest caption."""
    return make_load(
        sizes,
        settings.train,
        precision,
        device,
        rows=rows,
        longest=longest,
        lora=settings.lora,
        features=features,
        recompute=recompute,
    )


def make_load(
    sizes: CaptionerConfig,
    trained: Trained,
    precision: Precision,
    device: str,
    *,
    rows: int,
    longest: int,
    lora: LoRAConfig | None = None,
    features: bool = False,
    recompute: bool = False,
) -> Load:
    """The same without settings."""

    def prefix(recompute: bool) -> Prefix:
        return prefix_of(sizes, trained, precision, device, recompute=recompute, features=features)

    return Load(
        sizes.gpt2,
        length=sizes.connector.tokens + longest - 1,
        rows=rows,
        precision=precision,
        recompute=recompute,
        lora=(lora or LoRAConfig()) if trained == "connector+lora" else None,
        device=device,
        predicted=longest,
        frozen=trained == "connector",
        prefix=prefix(False),
        prefix_recomputed=prefix(True),
    )
