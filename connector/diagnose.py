"""What `weights.diagnose` must know of CLIP's tower to name the mistake that gives some numbers."""

from __future__ import annotations

from connector.mistakes import MISTAKES
from connector.reference import RIGHT
from connector.wrong import IN_TF32, WRONG, in_few_bits
from weights.diagnose import Lore
from weights.rounding import KEPT

# Beside those of `mistakes.py`: what a setting does.
SETTINGS = {
    "float16": "CLIP was published in 16 and 32 bits; float16 keeps 11 of each number.",
    "tf32": "TF32 keeps 11 bits of each factor: a setting of the GPU, not of the model.",
}
RETURNED = (
    "The blocks are right while they are watched, what is returned is not: look at the kernel that"
    " attention runs in, and at how the states are collected."
)
LORE = Lore(
    right=RIGHT,
    wrong=WRONG,
    of_a_block={
        *("norm", "gelu", "linear", "in_proj", "out_proj", "scale", "heads", "causal", "over"),
        *("split", "join", "wiring"),
    },
    rough={**{name: in_few_bits(kept) for name, kept in KEPT.items()}, "tf32": IN_TF32},
    says={mistake.name: mistake.says for mistake in MISTAKES} | SETTINGS,
    resizing={
        *("no-class-token", "states-without-class-token", "patch-states-from-block-1"),
        *("half-the-heads", "twice-the-heads"),
    },
)
