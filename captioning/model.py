"""The captioner: a picture's vectors first, then the caption's, through one GPT-2.

CLIP's hidden states -> Dense Connector -> N image tokens -> GPT-2. Takes parts and builds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict, Unpack

import torch
from PIL import Image
from torch import nn

from captioning.config import CaptionerConfig
from captioning.familiarity import Familiarity
from connector.connector import Connector
from connector.preprocess import preprocess
from connector.vision import ClipVision
from gpt2_scratch.beam import beam_search
from gpt2_scratch.generate import generate_with_logprobs
from gpt2_scratch.layouts import load_tokenizer
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer, Tokenizer
from gpt2_scratch.training.loss import next_token_loss_behind
from weights.store import assign, embedded, read_config, read_tensors, write_folder


@dataclass(frozen=True)
class Caption:
    """What was said of a picture, and how far it can be trusted.

    `logprob`: mean log-probability a token, in nats. `familiarity`: in [0, 1], how much the picture
    is like those the model was trained on; `familiar`: whether that passes the calibrated bound.
    """

    text: str
    logprob: float
    familiarity: float
    familiar: bool


class Decoding(TypedDict, total=False):
    """How captions are chosen; the defaults stand at `Captioner.say`."""

    max_new_tokens: int | None
    temperature: float
    top_k: int | None
    top_p: float | None
    beams: int
    generator: torch.Generator | None


class Captioner(nn.Module):
    """An image encoder, a connector and a language model, joined.

    `config` describes the parts; `tokenizer` is the language model's.
    """

    def __init__(
        self,
        vision: ClipVision,
        connector: Connector,
        gpt2: GPT2,
        tokenizer: Tokenizer,
        config: CaptionerConfig,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.gpt2 = gpt2
        self.familiarity = Familiarity(config.vision.width)
        self.tokenizer = tokenizer
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.gpt2.wte.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of GPT-2's weights, and so of the image tokens; parts that learn may be wider."""
        return self.gpt2.wte.weight.dtype

    def train(self, mode: bool = True) -> Self:
        """As torch's, but for parts that do not learn: these stay in eval mode."""
        super().train(mode)
        for part in self.modules():
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self

    def hidden_states(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, size, size) -> [(B, 1 + P, W)], a frozen tower's as if no gradient were wanted.

        None would come anyway, but the tower picks its faster kernel by that.
        """
        learns = pixels.requires_grad or any(p.requires_grad for p in self.vision.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return self.vision.hidden_states(pixels)

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, size, size) -> (B, N, C)."""
        return self.connector(self.hidden_states(pixels)).to(self.dtype)

    def tokens_from_features(self, features: torch.Tensor) -> torch.Tensor:
        """Kept features of a frozen tower (B, N, F), in any precision -> (B, N, C)."""
        return self.connector.tokens_from_features(features.to(self.device)).to(self.dtype)

    def loss_sum(
        self, pixels: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the captions' token losses in nats, and how many tokens they have.

        ids (B, T) end in the end token; what lies behind lengths (B,) is padding, whatever its id.
        """
        return self.loss_sum_of_tokens(self.image_tokens(pixels), ids, lengths)

    def loss_sum_of_features(
        self, features: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`loss_sum` where the pictures' features are kept: (B, N, F) instead of pixels."""
        return self.loss_sum_of_tokens(self.tokens_from_features(features), ids, lengths)

    def loss_sum_of_tokens(
        self, image: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`loss_sum` from image tokens (B, N, C).

        The last image position predicts ids[:, 0], and the position of ids[:, t] ids[:, t + 1].
        """
        return next_token_loss_behind(self.gpt2, image, ids, lengths)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size -> (B, 3, size, size), as the encoder wants them."""
        size, mode = self.config.vision.image_size, self.config.resize
        pixels = preprocess(list(images), size, mode=mode)
        return pixels.to(self.device, self.vision.positional_embedding.dtype)

    def caption(self, images: Sequence[Image.Image], **options: Unpack[Decoding]) -> list[str]:
        """One caption a picture, in order; greedy unless `describe`'s options say otherwise."""
        return [caption.text for caption in self.describe(images, **options)]

    @torch.inference_mode()
    def describe(self, images: Sequence[Image.Image], **options: Unpack[Decoding]) -> list[Caption]:
        """Captions of RGB pictures as one batch, with how likely and how familiar each is.

        ValueError where options contradict.
        """
        if not images:
            return []
        states = self.vision.hidden_states(self.pixels(images))
        said = self.say(self.connector(states).to(self.dtype), **options)
        scores, familiar = self.familiarity(states)
        return [
            Caption(text, logprob, float(score), bool(known))
            for (text, logprob), score, known in zip(said, scores, familiar, strict=True)
        ]

    @torch.inference_mode()
    def say(
        self,
        image: torch.Tensor,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        generator: torch.Generator | None = None,
    ) -> list[tuple[str, float]]:
        """Image tokens (B, N, C) -> B captions, each with the mean log-probability of its tokens.

        `max_new_tokens` defaults to the model's own. ValueError where options contradict.
        """
        if beams > 1 and (temperature or top_k or top_p):
            raise ValueError(
                f"beams={beams} came with sampling options. Beam search looks for the likeliest"
                " caption: leave out temperature, top_k and top_p, or leave beams at 1."
            )
        new = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        end = self.tokenizer.end
        if beams > 1:
            ids, logprobs = beam_search(self.gpt2, image, new, beams=beams, end=end)
        else:
            ids, logprobs = generate_with_logprobs(
                self.gpt2,
                image,
                new,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                end=end,
                generator=generator,
            )
        said = (ids == end).cumsum(1) - (ids == end).long() == 0  # (B, n), the end token included
        means = (logprobs * said).sum(1) / said.sum(1)  # (B,)
        # A table may have more rows than there are words, to be a round number; they say nothing.
        said = said & (ids != end) & (ids < len(self.tokenizer))
        return [
            (self.tokenizer.decode(row[kept].tolist()).strip(), float(mean))
            for row, kept, mean in zip(ids, said, means, strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and, where it is our own, `tokenizer.json`."""
        if self.config.tokenizer == "bpe":
            assert isinstance(self.tokenizer, BPETokenizer)
            self.tokenizer.save(folder)
        write_folder(folder, self.config.to_dict(), self.state_dict())


def join(config: CaptionerConfig, tokenizer: Tokenizer) -> Captioner:
    """The parts of these sizes, freshly initialised, joined."""
    return Captioner(
        ClipVision(config.vision),
        Connector(config.connector),
        GPT2(config.gpt2),
        tokenizer,
        config,
    )


def load_captioner(name_or_folder: str | Path, *, device: str = "cpu") -> Captioner:
    """A captioner in eval mode: an embedded one by its name ("scenes"), or a saved folder.

    Raises FileNotFoundError or ValueError that say what the folder lacks; nothing is half loaded.
    """
    folder = Path(name_or_folder)
    if str(name_or_folder) == "scenes":
        folder = embedded("scenes")
    config = CaptionerConfig.from_dict(read_config(folder), source=str(folder))
    own = config.tokenizer == "bpe"
    tokenizer = BPETokenizer.load(folder) if own else load_tokenizer(folder, config.gpt2.n_vocab)
    if len(tokenizer) > config.gpt2.n_vocab:
        raise ValueError(
            f"The tokenizer of {folder} has {len(tokenizer)} tokens and its GPT-2"
            f" {config.gpt2.n_vocab}. They are from different models: copy the folder whole."
        )
    with torch.device("meta"):
        captioner = join(config, tokenizer)
    assign(captioner, read_tensors(folder), source=str(folder))
    return captioner.eval().to(device)
