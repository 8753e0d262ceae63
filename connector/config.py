"""Sizes of the vision tower and of the connector; derived values are properties."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

Variant = Literal["article", "dci", "sci", "sti", "last"]
Reduction = Literal["article", "conv", "pool", "none"]
ResizeMode = Literal["clip", "squash", "pad"]  # how a picture becomes a square: see `preprocess`


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}={size!r}: must be a whole number of at least 1.")


@dataclass(frozen=True)
class VisionConfig:
    """A CLIP image tower. `quick_gelu` has no default: forgetting it is CLIP's classic mistake."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    quick_gelu: bool  # OpenAI's weights: True, x * sigmoid(1.702 x); most of LAION's: False
    projection: int  # width of the contrastive space; 0 = a tower saved without its projection
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        _positive(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
        )
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is not a whole number of patch_size="
                f"{self.patch_size} patches. CLIP ViT-L/14-336 is 336 / 14 = 24."
            )
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} cannot be shared by heads={self.heads}."
                " CLIP ViT-L is 1024 / 16 = 64."
            )
        if not isinstance(self.projection, int) or self.projection < 0:
            raise ValueError(f"projection={self.projection!r}: must be 0 (none) or a width.")
        if not isinstance(self.quick_gelu, bool):
            raise ValueError(
                f"quick_gelu={self.quick_gelu!r}: must be True (OpenAI's weights) or False (most of"
                " LAION's)."
            )
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio={self.mlp_ratio}: must be above 0, as CLIP's 4.")

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def parameters(self) -> int:
        """How many numbers the tower has, with those behind its last block."""
        w = self.width
        enter = 3 * self.patch_size**2 * w + w + (1 + self.patches) * w + 2 * w  # ln_pre the last
        return enter + self.layers * self.block_parameters + 2 * w + w * self.projection

    @property
    def block_parameters(self) -> int:
        """Of one block: two norms, attention's 4 W^2 + 4 W, the MLP."""
        w, inner = self.width, int(self.width * self.mlp_ratio)
        return 2 * 2 * w + 4 * w * w + 4 * w + 2 * w * inner + inner + w

    def parameters_before(self, state: int) -> int:
        """How many of the numbers hidden state `state` depends on: `layers` for the last state."""
        behind = (self.layers - state) * self.block_parameters + 2 * self.width
        return self.parameters - behind - self.width * self.projection


@dataclass(frozen=True)
class ReducerConfig:
    """How the connector's tokens become fewer. Other kernels must leave as many as kernel 1.

    article  two Conv1d over the tokens with `kernels` and `strides`; kernel 1 only picks tokens
    conv     the same two, kernel = stride: every token is read, the last window zero-padded
    pool     2-D average over `window` x `window` patches, the class token kept in front
    none     every token
    """

    kind: Reduction = "article"
    strides: tuple[int, int] = (5, 2)
    kernels: tuple[int, int] = (1, 1)  # of `article` alone
    window: int = 2  # of `pool` alone

    def __post_init__(self) -> None:
        if self.kind not in get_args(Reduction):
            raise ValueError(f"kind={self.kind!r}: must be one of {get_args(Reduction)}.")
        for name in ("strides", "kernels"):  # JSON has lists
            pair = getattr(self, name)
            if isinstance(pair, list):
                pair = tuple(pair)
                object.__setattr__(self, name, pair)
            whole = isinstance(pair, tuple) and all(isinstance(n, int) and n > 0 for n in pair)
            if not whole or len(pair) != 2:
                raise ValueError(
                    f"{name}={pair!r}: must be two whole numbers of at least 1, as (5, 2)."
                )
        _positive(window=self.window)

    @property
    def steps(self) -> tuple[tuple[int, int], ...]:
        """(kernel, stride) of each convolution."""
        if self.kind == "article":
            return tuple(zip(self.kernels, self.strides, strict=True))
        return tuple((s, s) for s in self.strides) if self.kind == "conv" else ()

    @property
    def picks(self) -> bool:
        """Whether the reducer only picks tokens, so that the rest need not be computed."""
        return self.kind == "article" and self.kernels == (1, 1)


@dataclass(frozen=True)
class ConnectorConfig:
    """From the tower's `depth` + 1 hidden states to `tokens` vectors of width `out`."""

    vision_width: int
    depth: int
    patches: int
    out: int  # the language model's width
    variant: Variant = "article"
    dropout: float = 0.1
    reducer: ReducerConfig = field(default_factory=ReducerConfig)

    def __post_init__(self) -> None:
        if isinstance(self.reducer, dict):  # a config read back from JSON
            object.__setattr__(self, "reducer", ReducerConfig(**self.reducer))
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant={self.variant!r}: must be one of {get_args(Variant)}.")
        _positive(vision_width=self.vision_width, patches=self.patches, out=self.out)
        least = {"article": 1, "dci": 2, "sci": 3, "sti": 3, "last": 1}[self.variant]
        if not isinstance(self.depth, int) or self.depth < least:
            raise ValueError(
                f"depth={self.depth}: variant {self.variant!r} needs at least {least} layers."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: must lie in [0, 1).")
        if self.variant == "sti" and self.patches % 8:
            raise ValueError(
                f"patches={self.patches}: 'sti' averages runs of 8 patches, wanted a multiple of 8."
                " CLIP ViT-L/14-336 has 576. Use 'sci', which needs none."
            )
        if self.reducer.kind == "pool":
            self._check_pool()
        if self.tokens < 1:
            raise ValueError(
                f"{self.tokens_in} tokens leave none after kernels {self.reducer.kernels} with"
                f" strides {self.reducer.strides}. Use smaller kernels."
            )
        if self.reducer.kind == "article" and self.tokens != self._after((1, 1)):
            raise ValueError(
                f"kernels={self.reducer.kernels} with strides={self.reducer.strides} leave"
                f" {self.tokens} of {self.tokens_in} tokens, wanted {self._after((1, 1))}, as many"
                " as kernel 1 leaves. Use smaller kernels: of 577 tokens (5, 1), (3, 1) and (1, 2)"
                " leave the article's 58."
            )

    def _check_pool(self) -> None:
        if self.variant == "sti":
            raise ValueError(
                "reducer 'pool' needs a grid of patches, the tokens of variant 'sti' have none."
                " Use reducer 'conv' or another variant."
            )
        if self.grid**2 != self.patches or self.grid % self.reducer.window:
            raise ValueError(
                f"reducer 'pool' cannot tile patches={self.patches} with window="
                f"{self.reducer.window}: wanted a square grid whose side the window divides."
            )

    @property
    def grid(self) -> int:
        return math.isqrt(self.patches)

    @property
    def class_token(self) -> bool:
        """Whether the class token is kept: the article keeps it, the paper drops it."""
        return self.variant in ("article", "last")

    @property
    def highest_state(self) -> int:
        """The last hidden state that is read: the paper's variants never read the tower's last."""
        return self.depth if self.variant in ("article", "last") else self.depth - 1

    @property
    def features(self) -> int:
        """Channels of a dense token: the projection's input width."""
        return (
            self.vision_width
            * {"article": 3, "dci": 3, "sci": 3, "sti": 1, "last": 1}[self.variant]
        )

    @property
    def parameters(self) -> int:
        """How many numbers the connector learns."""
        enter = (self.features + 1) * self.out
        # LayerNorm in the article's projection, a second Linear in the paper's
        leave = 2 * self.out if self.class_token else (self.out + 1) * self.out
        convs = sum((self.out * kernel + 1) * self.out for kernel, _ in self.reducer.steps)
        return enter + leave + convs

    @property
    def tokens_in(self) -> int:
        """Tokens before the reducer."""
        if self.variant == "sti":
            return self.patches + 2 * (self.patches // 8)
        return self.patches + self.class_token

    @property
    def tokens(self) -> int:
        """N, the tokens after the reducer: 577 -> 116 -> 58 for the article."""
        if self.reducer.kind == "pool":
            return (self.grid // self.reducer.window) ** 2 + self.class_token
        if self.reducer.kind == "article":
            return self._after(self.reducer.kernels)
        tokens = self.tokens_in
        for _, stride in self.reducer.steps:
            tokens = -(-tokens // stride)
        return tokens

    def _after(self, kernels: tuple[int, int]) -> int:
        """The tokens that convolutions with these kernels and the reducer's strides leave."""
        tokens = self.tokens_in
        for kernel, stride in zip(kernels, self.reducer.strides, strict=True):
            tokens = (tokens - kernel) // stride + 1
        return tokens
