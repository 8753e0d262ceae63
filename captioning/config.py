"""The sizes of a captioner: three parts that must fit together. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from connector.config import ConnectorConfig, VisionConfig
from gpt2_scratch.config import GPT2Config

TokenizerKind = Literal["gpt2", "bpe"]
ResizeMode = Literal["clip", "squash"]


@dataclass(frozen=True)
class CaptionerConfig:
    """Encoder, connector and language model, and how pictures and captions come in and out.

    `tokenizer` "gpt2" is tiktoken's; "bpe" is a `tokenizer.json` in the model's own folder.
    `resize` is CLIP's centre crop or the squashing to a square that keeps the whole picture.
    `knows` says in a few words what the model was trained on.
    """

    vision: VisionConfig
    connector: ConnectorConfig
    gpt2: GPT2Config
    tokenizer: TokenizerKind = "gpt2"
    resize: ResizeMode = "clip"
    max_new_tokens: int = 50
    knows: str = ""

    def __post_init__(self) -> None:
        if self.tokenizer not in get_args(TokenizerKind):
            raise ValueError(f"tokenizer={self.tokenizer!r}: choose of {get_args(TokenizerKind)}.")
        if self.resize not in get_args(ResizeMode):
            raise ValueError(f"resize={self.resize!r}: choose of {get_args(ResizeMode)}.")
        pairs = {
            "vision_width": (self.connector.vision_width, "vision.width", self.vision.width),
            "depth": (self.connector.depth, "vision.layers", self.vision.layers),
            "patches": (self.connector.patches, "vision.patches", self.vision.patches),
            "out": (self.connector.out, "gpt2.n_embd", self.gpt2.n_embd),
        }
        for name, (got, other, wanted) in pairs.items():
            if got != wanted:
                raise ValueError(
                    f"connector.{name}={got} does not meet {other}={wanted}. Make the two equal."
                )
        if self.connector.tokens + self.max_new_tokens > self.gpt2.n_ctx:
            raise ValueError(
                f"{self.connector.tokens} image tokens and max_new_tokens={self.max_new_tokens} do"
                f" not fit into n_ctx={self.gpt2.n_ctx}. Lower max_new_tokens or reduce further."
            )

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary for `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, held: dict[str, Any], *, source: str) -> CaptionerConfig:
        """The reverse of `to_dict`. ValueError names `source` and the key that is wrong."""
        try:
            return cls(
                vision=VisionConfig(**held["vision"]),
                connector=ConnectorConfig(**held["connector"]),
                gpt2=GPT2Config(**held["gpt2"]),
                **{k: v for k, v in held.items() if k not in ("vision", "connector", "gpt2")},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"The config of {source} is not a captioner's ({error}). Name a folder that"
                " `Captioner.save` wrote."
            ) from None
