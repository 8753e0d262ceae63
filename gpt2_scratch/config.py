"""The sizes of a GPT-2, in OpenAI's names. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

Attention = Literal["explicit", "sdpa"]


@dataclass(frozen=True)
class GPT2Config:
    """Sizes and switches of one GPT-2; the defaults are GPT-2 Large (Radford et al. 2019, table 2).

    `attention` picks how the same numbers are computed: "explicit" writes out scores, mask, softmax
    and weights; "sdpa" is torch's fused kernel.
    """

    n_vocab: int = 50257
    n_ctx: int = 1024
    n_embd: int = 1280
    n_head: int = 20
    n_layer: int = 36
    dropout: float = 0.1
    attention: Attention = "sdpa"

    def __post_init__(self) -> None:
        for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise ValueError(f"{name}={value!r} is not a size. Give a whole number from 1 up.")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd={self.n_embd} cannot be shared by n_head={self.n_head} heads."
                " GPT-2 Large is 1280 / 20 = 64: choose an n_embd that n_head divides."
            )
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout!r} is not in [0, 1). GPT-2 uses 0.1.")
        if self.attention not in get_args(Attention):
            raise ValueError(
                f"attention={self.attention!r} is unknown. Choose one of {get_args(Attention)}."
            )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> GPT2Config:
        """The config of a published size, e.g. `preset("gpt2-large", attention="explicit")`."""
        if name not in PRESETS:
            raise ValueError(f"No preset {name!r}. There are: {', '.join(PRESETS)}.")
        return replace(PRESETS[name], **changes)

    @property
    def head_size(self) -> int:
        """D, the width of one head."""
        return self.n_embd // self.n_head

    @property
    def parameters(self) -> int:
        """How many numbers the model learns: VC + (n_ctx)C + L(12C^2 + 13C) + 2C (tied head)."""
        c = self.n_embd
        block = 12 * c * c + 13 * c
        return (self.n_vocab + self.n_ctx) * c + self.n_layer * block + 2 * c


PRESETS = {
    #                                                              parameters
    "gpt2": GPT2Config(n_embd=768, n_head=12, n_layer=12),  #     124,439,808
    "gpt2-medium": GPT2Config(n_embd=1024, n_head=16, n_layer=24),  # 354,823,168
    "gpt2-large": GPT2Config(n_embd=1280, n_head=20, n_layer=36),  #  774,030,080
    "gpt2-xl": GPT2Config(n_embd=1600, n_head=25, n_layer=48),  #   1,557,611,200
}
