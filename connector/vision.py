"""CLIP's image tower, made of open_clip's parts, with every hidden state in reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from connector.config import VisionConfig

# B batch   P patches (576)   T tokens: 1 + P, fewer where some are picked   W CLIP width (1024)


class Block(ResidualAttentionBlock):
    """open_clip's block; where torch's fused attention kernel is the slower way, it computes the
    attention weights one step after the other, to the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        if not _slow_backward(x):
            return super().forward(x)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=True, average_attn_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ClipVision(nn.Module):
    """Radford et al. 2021. Parameters have the names of open_clip's `visual`.

    `hidden_states[0]` is the state after `ln_pre`, `[i]` the raw output of block i: what
    transformers' CLIPVisionModel returns. `ln_post` is applied by `image_features` alone.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        tower = VisionTransformer(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            output_dim=config.projection,
            act_layer=QuickGELU if config.quick_gelu else nn.GELU,
        )
        self.conv1 = tower.conv1
        self.class_embedding = tower.class_embedding
        self.positional_embedding = tower.positional_embedding
        self.ln_pre = tower.ln_pre
        self.transformer = tower.transformer
        for block in self.transformer.resblocks:
            block.__class__ = Block
        self.ln_post = tower.ln_post
        self.proj = tower.proj if config.projection else None

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        quick_gelu: bool | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> ClipVision:
        """A tower from our own folder, transformers' or open_clip's, told apart by content.

        `quick_gelu` is needed only where the folder does not say. `dtype=None`: the file's.
        """
        from connector.loader import load_vision

        return load_vision(folder, quick_gelu=quick_gelu, dtype=dtype, device=device)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, which `from_folder` reads back."""
        from connector.loader import save_vision

        save_vision(self, folder)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight anew, at the scales with which CLIP's code begins its text tower."""
        width, layers = self.config.width, self.config.layers
        scales = {
            "attn.in_proj_weight": width**-0.5,
            "attn.out_proj.weight": width**-0.5 * (2 * layers) ** -0.5,
            "mlp.c_fc.weight": (2 * width) ** -0.5,
            "mlp.c_proj.weight": width**-0.5 * (2 * layers) ** -0.5,
            "conv1.weight": self.conv1.weight[0].numel() ** -0.5,
        }
        for name, parameter in self.named_parameters():
            scale = next((s for end, s in scales.items() if name.endswith(end)), width**-0.5)
            if name.endswith("bias"):
                parameter.zero_()
            elif "ln_" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=scale, generator=generator)

    def forward(self, pixels: Tensor, patches: Tensor | None = None) -> list[Tensor]:
        """(B, 3, image_size, image_size) -> [(B, 1 + P, W)]: layers + 1 states, class token first.

        Pixels come from `connector.preprocess.preprocess`. With `patches` (B, K) the tower sees
        only these patches of each picture, in their places (Li et al. 2023, FLIP).
        """
        side = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixels are {tuple(pixels.shape)}, wanted (B, 3, {side}, {side})."
                f" Use connector.preprocess.preprocess(images, {side})."
            )
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, W)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)  # (B, 1 + P, W)
        x = x + self.positional_embedding
        if patches is not None:
            seen = 1 + patches[..., None].expand(-1, -1, x.shape[-1])
            x = torch.cat([x[:, :1], x.gather(1, seen)], 1)  # (B, 1 + K, W)
        states = [self.ln_pre(x)]
        for block in self.transformer.resblocks:
            states.append(block(states[-1]))
        return states

    def hidden_states(self, pixels: Tensor, patches: Tensor | None = None) -> list[Tensor]:
        """(B, 3, image_size, image_size) -> [(B, 1 + P, W)], as `forward`."""
        return self(pixels, patches)

    def image_features(self, pixels_or_states: Tensor | Sequence[Tensor]) -> Tensor:
        """Pixels or their hidden states -> (B, projection): CLIP's image vector, not normalised."""
        if self.proj is None:
            raise ValueError(
                "this tower has no projection (projection=0): the file held none."
                " Load a whole CLIP model, or use hidden_states."
            )
        if isinstance(pixels_or_states, Tensor):
            pixels_or_states = self(pixels_or_states)
        return self.ln_post(pixels_or_states[-1][:, 0]) @ self.proj  # (B, projection)


def _slow_backward(x: Tensor) -> bool:
    """Whether torch's fused attention kernel is the slower way.

    On a CPU in bfloat16 its backward alone took 40 % of a training step (145 tokens, width 192);
    without it the step was 1.5 times as fast.
    """
    cpu = x.device.type == "cpu"
    return cpu and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
