"""What `weights.diagnose` must know of CLIP's tower to name the mistake that gives some numbers."""

from __future__ import annotations

from connector.mistakes import MISTAKES
from connector.reference import RIGHT
from connector.wrong import COUNTS, IN_TF32, WRONG, in_few_bits
from weights.diagnose import Lore
from weights.rounding import KEPT

# Beside those of `mistakes.py`: what a setting does.
HEADS = "The number of heads is in no tensor's shape: ViT-L has 16 of 64."
SETTINGS = {
    **{f"{count}-heads": HEADS for count in COUNTS},
    "weights-in-bfloat16": "The weights were rounded to 8 bits on their way here.",
    "weights-in-float16": "The weights were rounded to 11 bits on their way here.",
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
    before_blocks={"pixel_values", "patches", "embed", "ln_pre"},
    norms=("ln_pre", "ln_1", "ln_2", "ln_post"),
    rough={**{name: in_few_bits(kept) for name, kept in KEPT.items()}, "tf32": IN_TF32},
    says={mistake.name: mistake.says for mistake in MISTAKES} | SETTINGS,
    resizing={
        *("no-class-token", "states-without-class-token", "patch-states-from-block-1"),
        *("half-the-heads", "twice-the-heads", *(f"{count}-heads" for count in COUNTS)),
    },
)
