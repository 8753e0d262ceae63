"""The sizes of a captioner: three parts that must fit together. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from connector.config import ConnectorConfig, ResizeMode, VisionConfig
from gpt2_scratch.config import GPT2Config

TokenizerKind = Literal["gpt2", "bpe"]
Trained = Literal["connector", "connector+lora", "connector+gpt2", "all"]


@dataclass(frozen=True)
class CaptionerConfig:
    """Encoder, connector and language model, and how pictures and captions come in and out.

    `tokenizer` "gpt2" is tiktoken's; "bpe" is a `tokenizer.json` in the model's own folder.
    `resize` is CLIP's centre crop, or one of the two ways that keep the whole picture.
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


@dataclass(frozen=True)
class Rates:
    """AdamW's rates at their height, one for each part that may train.

    As the article's author gives them in another project on the same data. LoRA's is the one that
    `gpt2_scratch finetune` takes.
    """

    connector: float = 1e-4
    """Of the connector, which begins with random numbers."""
    gpt2: float = 2e-5
    """Of GPT-2's own weights."""
    lora: float = 3e-4
    """Of the adapters beside them."""
    vision: float = 2e-7
    """Of the image tower."""

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 < rate < float("inf"):
                usual = getattr(type(self), name)
                raise ValueError(f"{name}={rate}: a rate must be above 0; {usual} is usual.")

    def by_prefix(self, trained: Trained) -> dict[str, float]:
        """The rate of each part that trains, by the prefix of its parameters' names."""
        rates = {"connector.": self.connector}
        if trained == "connector+lora":
            rates["gpt2."] = self.lora
        elif trained in ("connector+gpt2", "all"):
            rates["gpt2."] = self.gpt2
        if trained == "all":
            rates["vision."] = self.vision
        return rates
