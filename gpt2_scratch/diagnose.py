"""What `weights.diagnose` must know of GPT-2 to name the mistake that gives some numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.reference import RIGHT
from gpt2_scratch.wrong import WRONG
from weights.diagnose import Changes, Lore
from weights.pieces import in_few_bits, in_tf32
from weights.rounding import KEPT
from weights.verdict import Diagnosis

# Beside those of `mistakes.py`: what a setting does, of a machine or of another model.
SETTINGS = {
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
LORE = Lore(
    right=RIGHT,
    wrong=WRONG,
    of_a_block={
        *("norm", "gelu", "linear", "scale", "fill", "ahead", "over", "split", "join", "wiring"),
    },
    rough={**ROUGH, "tf32": {"linear": in_tf32}},
    says={mistake.name: mistake.says for mistake in MISTAKES} | SETTINGS,
    hints=WAYS,
)


def untied(diagnosis: Diagnosis, got: Mapping[str, object]) -> Diagnosis:
    """Where all is right before the logits, the head has numbers of its own: nothing is left."""
    if diagnosis.steps or diagnosis.until != "logits" or "ln_f" not in got:
        return diagnosis
    return Diagnosis(diagnosis.whose, (("head-untied",),), says=diagnosis.says)
