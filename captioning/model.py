"""The captioner: a picture's vectors first, then the caption's, through one GPT-2.

CLIP's hidden states -> Dense Connector -> N image tokens -> GPT-2. Takes parts and builds none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from captioning.config import CaptionerConfig
from captioning.familiarity import Familiarity
from connector.connector import Connector
from connector.preprocess import preprocess
from connector.vision import ClipVision
from gpt2_scratch.beam import beam_search
from gpt2_scratch.generate import generate_with_logprobs
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer, Tokenizer, gpt2_tokenizer
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
    """How captions are chosen; the defaults stand at `Captioner.describe`."""

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

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (B, 3, size, size) -> (B, N, C)."""
        return self.connector(self.vision.hidden_states(pixels))

    def loss_sum(
        self, pixels: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the captions' token losses in nats, and how many tokens they have.

        ids (B, T) end in the end token; what lies behind lengths (B,) is padding, whatever its id.
        The last image position predicts ids[:, 0], and the position of ids[:, t] ids[:, t + 1].
        """
        image = self.image_tokens(pixels)  # (B, N, C)
        n, tokens = image.shape[1], ids.shape[1]
        x = torch.cat([image, self.gpt2.embed(ids[:, :-1]).to(image.dtype)], 1)  # (B, N + T - 1, C)
        behind = torch.arange(tokens, device=ids.device) >= lengths[:, None]  # (B, T)
        mask = F.pad(behind[:, :-1], (n, 0), value=False)  # (B, N + T - 1)
        states = self.gpt2.states(x, mask)[:, n - 1 :]  # (B, T, C)
        logits = self.gpt2.unembed(states[~behind])  # (tokens that count, V)
        return F.cross_entropy(logits.float(), ids[~behind], reduction="sum"), (~behind).sum()

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size -> (B, 3, size, size), as the encoder wants them."""
        size, mode = self.config.vision.image_size, self.config.resize
        pixels = preprocess(list(images), size, mode=mode)
        return pixels.to(self.device, self.gpt2.wte.weight.dtype)

    def caption(self, images: Sequence[Image.Image], **options: Unpack[Decoding]) -> list[str]:
        """One caption a picture, in order; greedy unless `describe`'s options say otherwise."""
        return [caption.text for caption in self.describe(images, **options)]

    @torch.inference_mode()
    def describe(
        self,
        images: Sequence[Image.Image],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int = 1,
        generator: torch.Generator | None = None,
    ) -> list[Caption]:
        """Captions of RGB pictures as one batch, with how likely and how familiar each is.

        `max_new_tokens` defaults to the model's own. ValueError where options contradict.
        """
        if not images:
            return []
        if beams > 1 and (temperature or top_k or top_p):
            raise ValueError(
                f"beams={beams} came with sampling options. Beam search looks for the likeliest"
                " caption: leave out temperature, top_k and top_p, or leave beams at 1."
            )
        new = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        end = self.tokenizer.end
        states = self.vision.hidden_states(self.pixels(images))
        prompt = self.connector(states)  # (B, N, C)
        if beams > 1:
            ids, logprobs = beam_search(self.gpt2, prompt, new, beams=beams, end=end)
        else:
            ids, logprobs = generate_with_logprobs(
                self.gpt2,
                prompt,
                new,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                end=end,
                generator=generator,
            )
        said = (ids == end).cumsum(1) - (ids == end).long() == 0  # (B, n), the end token included
        means = (logprobs * said).sum(1) / said.sum(1)  # (B,)
        scores, familiar = self.familiarity(states)
        return [
            Caption(
                self.tokenizer.decode(row[kept & (row != end)].tolist()).strip(),
                float(mean),
                float(score),
                bool(known),
            )
            for row, kept, mean, score, known in zip(
                ids, said, means, scores, familiar, strict=True
            )
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
    tokenizer = BPETokenizer.load(folder) if own else gpt2_tokenizer()
    if len(tokenizer) > config.gpt2.n_vocab:
        raise ValueError(
            f"The tokenizer of {folder} has {len(tokenizer)} tokens and its GPT-2"
            f" {config.gpt2.n_vocab}. They are from different models: copy the folder whole."
        )
    with torch.device("meta"):
        captioner = join(config, tokenizer)
    assign(captioner, read_tensors(folder), source=str(folder))
    return captioner.eval().to(device)
