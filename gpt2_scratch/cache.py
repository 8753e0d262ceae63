"""The key/value cache: what attention has already computed for the tokens so far."""

from __future__ import annotations

import torch

from gpt2_scratch.config import GPT2Config


class KVCache:
    """Keys and values of every block for `length` tokens of a batch, in memory taken once.

    Pass it to `GPT2.forward_embeddings` again and again, each time with the new tokens only.
    Without a `dtype` it takes that of the first keys. Large in float32 takes 368,640 bytes a token
    and row. Raises ValueError when it is full.
    """

    def __init__(
        self,
        config: GPT2Config,
        batch: int,
        *,
        length: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = config.n_ctx if length is None else length
        if not 1 <= self.capacity <= config.n_ctx:
            raise ValueError(
                f"A cache of {self.capacity} tokens was asked for; this model takes 1 to"
                f" n_ctx={config.n_ctx}. Shorten the prompt or max_new_tokens."
            )
        shape = (config.n_layer, batch, config.n_head, self.capacity, config.head_size)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.padding = torch.zeros(batch, self.capacity, dtype=torch.bool, device=device)
        self.takes_any = dtype is None
        self.length = 0
        self.padded = False  # whether any token so far was padding: without, no mask is needed

    @property
    def padding_mask(self) -> torch.Tensor:
        """(B, length), True where a token held is padding."""
        return self.padding[:, : self.length]

    def extend(self, batch: int, new: int, padding_mask: torch.Tensor | None) -> None:
        """Make room for `new` tokens of every row; their keys and values come by `store`."""
        if batch != len(self.padding):
            raise ValueError(
                f"The cache holds {len(self.padding)} rows and {batch} came."
                " Build it for this batch, or thin it with reorder."
            )
        end = self.length + new
        if end > self.capacity:
            raise ValueError(
                f"The cache holds {self.length} of {self.capacity} tokens and {new} more came."
                " Build it with a larger length (at most n_ctx), or generate fewer tokens."
            )
        if padding_mask is not None:
            self.padding[:, self.length : end] = padding_mask
            self.padded = self.padded or bool(padding_mask.any())
        self.length = end

    def store(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep one block's k, v (B, H, T, D) of the newest T tokens; return all (B, H, S, D)."""
        start = self.length - k.shape[2]
        if self.takes_any and (layer, start) == (0, 0) and k.dtype != self.keys.dtype:
            self.keys = torch.empty_like(self.keys, dtype=k.dtype)
            self.values = torch.empty_like(self.values, dtype=v.dtype)
        self.keys[layer, :, :, start : self.length] = k
        self.values[layer, :, :, start : self.length] = v
        return self.keys[layer, :, :, : self.length], self.values[layer, :, :, : self.length]

    def reorder(self, rows: torch.Tensor) -> None:
        """Row i becomes what row `rows[i]` was: beams change places, or a batch is thinned."""
        self.keys = self.keys.index_select(1, rows)
        self.values = self.values.index_select(1, rows)
        self.padding = self.padding.index_select(0, rows)
