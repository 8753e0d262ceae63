"""What `weights.diagnose` must know of GPT-2 to name the mistake that gives some numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.reference import RIGHT
from gpt2_scratch.wrong import COUNTS, WRONG
from weights.diagnose import Changes, Lore
from weights.pieces import in_few_bits, in_tf32
from weights.rounding import KEPT
from weights.verdict import Diagnosis

# Beside those of `mistakes.py`: what a setting does, of a machine or of another model.
HEADS = "The number of heads is in no tensor's shape: GPT-2's have 12, 16, 20 and 25, of 64 each."
MASK = "A hidden score is -inf; so large a number gives the same weights, but where all is hidden."
SETTINGS = {
    **{f"{count}-heads": HEADS for count in COUNTS},
    **dict.fromkeys(("mask-with-1e9", "mask-with-1e10", "mask-with-lowest"), MASK),
    "scale-twice": "Scores are divided by sqrt(D) once, if queries are not divided before.",
    "positions-late": "The first token has position 0, the second 1.",
    "positions-all-0": "Each token has a position of its own, counted from 0.",
    "no-norm-bias": "LayerNorm adds its b.",
    "no-qkv-bias": "c_attn adds its b.",
    "log-probabilities": "Logits are wanted, before any softmax.",
    "probabilities": "Logits are wanted, before any softmax.",
    "weights-in-bfloat16": "The weights were rounded to 8 bits on their way here.",
    "weights-in-float16": "The weights were rounded to 11 bits on their way here.",
    "float16": "GPT-2 was published in float32; float16 keeps 11 bits of each number.",
    "tf32": "TF32 keeps 11 bits of each factor: a setting of the GPU, not of the model.",
    "scale-by-block": "Scores are divided by sqrt(D), not by the block's number as well.",
}
# The same logits on other ways, and what it means if such a one alone is wrong.
WAYS = {
    "fused.logits": "Only attention='sdpa' is wrong: look at fused_attention.",
    "cached.logits": "Only going on from a cache is wrong: look at positions, mask and KVCache.",
    "padded.logits": "Only padding on the left is wrong: look at positions and mask.",
}
ROUGH: dict[str, Changes] = {
    name: {"linear": partial(in_few_bits, kept=kept)} for name, kept in KEPT.items()
}
ELIMINATED = "All before it is right, so that nothing else is left; its own numbers nobody knows."
LORE = Lore(
    right=RIGHT,
    wrong=WRONG,
    of_a_block={
        *("norm", "gelu", "linear", "heads", "scale", "fill", "ahead", "over", "split", "join"),
        "wiring",
    },
    before_blocks={"embed"},
    norms=("ln_1", "ln_2", "ln_f"),
    rough={**ROUGH, "tf32": {"linear": in_tf32}},
    says={mistake.name: mistake.says for mistake in MISTAKES} | SETTINGS,
    resizing={f"{count}-heads" for count in COUNTS},
    resized=(".scores", ".weights"),
    hints=WAYS,
)


def untied(diagnosis: Diagnosis, got: Mapping[str, object]) -> Diagnosis:
    """Where all is right before the logits, or explained, the head has numbers of its own."""
    left = diagnosis.until == "logits" and not diagnosis.note and "ln_f" in got
    if not left or set(diagnosis.names) & set(ROUGH):
        return diagnosis
    steps = (*diagnosis.steps, ("head-untied",))
    return replace(diagnosis, steps=steps, until=None, note=ELIMINATED)
