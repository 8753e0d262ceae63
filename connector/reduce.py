"""How the connector's 577 tokens become 58: strided convolutions, pooling, or not at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from connector.config import ConnectorConfig

# B batch   T tokens before the reducer   N tokens after it   C channels


class TokenReducer(nn.Module):
    """`config.tokens_in` tokens in, `config.tokens` out. Parameters: the convolutions, if any."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList(
            nn.Conv1d(config.out, config.out, kernel, stride)
            for kernel, stride in config.reducer.steps
        )

    @property
    def keep(self) -> slice | None:
        """The tokens that are ever read where the reducer only picks, else None."""
        if not self.config.reducer.picks:
            return None
        first, second = self.config.reducer.strides
        return slice(0, None, first * second)

    def keeps(self, tokens: int) -> list[int] | None:
        """`keep` as indices: [0, 10, ..., 570] of 577. None where every token is read."""
        return None if self.keep is None else list(range(tokens))[self.keep]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, N, C)."""
        if x.shape[1] != self.config.tokens_in:
            raise ValueError(
                f"got {x.shape[1]} tokens, wanted {self.config.tokens_in}."
                " Pass the tokens of the DenseConnector of the same config."
            )
        if self.config.reducer.kind == "pool":
            return self._pool(x)
        if not self.convs:
            return x
        x = x.transpose(1, 2)  # (B, C, T)
        for conv, (_, stride) in zip(self.convs, self.config.reducer.steps, strict=True):
            if self.config.reducer.kind == "conv":
                # The class token stands in front of the patches, so T is rarely a multiple.
                x = F.pad(x, (0, -x.shape[2] % stride))
            x = conv(x)  # (B, C, N) after the last
        return x.transpose(1, 2)  # (B, N, C)

    def per_token(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C): the kernel-1 convolutions on tokens that were picked before."""
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            x = F.linear(x, conv.weight.squeeze(-1), conv.bias)
        return x

    def _pool(self, x: Tensor) -> Tensor:
        front = int(self.config.class_token)
        grid = x[:, front:].unflatten(1, (self.config.grid, self.config.grid))  # (B, g, g, C)
        pooled = F.avg_pool2d(grid.permute(0, 3, 1, 2), self.config.reducer.window)  # (B, C, n, n)
        return torch.cat([x[:, :front], pooled.flatten(2).transpose(1, 2)], 1)  # (B, N, C)
