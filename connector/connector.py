"""The whole way from CLIP's hidden states to image tokens of the language model's width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from connector.config import ConnectorConfig
from connector.dense import ALL, DenseConnector
from connector.reduce import TokenReducer

# B batch   P patches (576)   W CLIP width (1024)   N image tokens after the reducer (58)
# C channels (1280)   F = k W, channels of a dense token (3072)


class Connector(nn.Module):
    """DenseConnector, then TokenReducer."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.dense = DenseConnector(config)
        self.reducer = TokenReducer(config)

    @property
    def tokens(self) -> int:
        return self.config.tokens

    def forward(self, states: Sequence[Tensor], literal: bool = False) -> Tensor:
        """[(B, 1 + P, W)] -> (B, N, C).

        Where the reducer only picks, the tokens are picked from the hidden states: the same
        numbers for a tenth of the work. `literal` computes every token first, as the article does.
        """
        if literal:
            return self.reducer(self.dense(states))
        return self.tokens_from_features(self.features(states))

    def features(self, states: Sequence[Tensor]) -> Tensor:
        """[(B, 1 + P, W)] -> (B, N, F): dense features of the tokens that are read, no parameter.

        They depend on the tower alone, so a frozen tower's can be kept. N is T, all tokens, where
        the reducer does not only pick.
        """
        keep = self.reducer.keep
        return self.dense.features(states, ALL if keep is None else keep)

    def tokens_from_features(self, features: Tensor) -> Tensor:
        """(B, N, F) -> (B, N, C): what follows `features`, in the connector's own precision."""
        x = self.dense.projection(features.to(next(self.parameters()).dtype))
        return self.reducer(x) if self.reducer.keep is None else self.reducer.per_token(x)
