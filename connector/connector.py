"""The whole way from CLIP's hidden states to image tokens of the language model's width."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from connector.config import ConnectorConfig
from connector.dense import DenseConnector
from connector.reduce import TokenReducer

# B batch   P patches (576)   W CLIP width (1024)   N image tokens after the reducer (58)
# C channels (1280)


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
        keep = self.reducer.keep
        if literal or keep is None:
            return self.reducer(self.dense(states))
        return self.reducer.per_token(self.dense(states, keep))
