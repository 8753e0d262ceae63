"""`generate`: text from a GPT-2, word by word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from weights.console import check_device


@dataclass(frozen=True)
class Generate:
    """Continue a text, printing as it comes.

    OpenAI's models have to be fetched once: `python -m weights fetch gpt2-large`. The embedded
    "scenes" works without, and has read nothing but captions of drawn scenes.
    """

    prompt: Annotated[str, tyro.conf.Positional] = ""
    """How the text begins; nothing: the model begins itself."""
    model: Annotated[str, tyro.conf.arg(metavar="scenes|gpt2|...|FOLDER")] = "scenes"
    """"scenes", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", or a folder: OpenAI's TensorFlow
    files, or config.json with model.safetensors or pytorch_model.bin."""
    max_new_tokens: int = 100
    """The most tokens to write; it stops sooner where the text ends."""
    temperature: float = 1.0
    """0 takes the likeliest token each time; above, tokens are drawn, the rarer the higher."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float | None = None
    """Draw among the likeliest tokens that together reach this probability."""
    seed: int | None = None
    """Of the draws; by the clock where not given."""
    device: str = "cpu"
    """Where torch computes: cpu, cuda, cuda:1, mps."""

    def run(self) -> int:
        import torch

        from gpt2_scratch.generate import stream
        from gpt2_scratch.layouts import find_folder, has_own_tokenizer, load_tokenizer
        from gpt2_scratch.loader import load_gpt2

        check_device(self.device)
        if self.seed is not None and abs(self.seed) >= 2**63:
            raise ValueError(f"got --seed {self.seed}, wanted a whole number below 2 ** 63.")
        folder = find_folder(self.model)
        model = load_gpt2(folder, device=self.device)
        tokenizer = load_tokenizer(folder, model.config.n_vocab)
        generator = torch.Generator(self.device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        # A model with a tokenizer of ours has read every text behind an end token. OpenAI's began
        # anywhere in a text, and is given the prompt alone, as OpenAI does.
        begins = not self.prompt or has_own_tokenizer(folder)
        prompt = [tokenizer.end] * begins + tokenizer.encode(self.prompt)
        room = model.config.n_ctx - len(prompt)
        if room < 1:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, wanted fewer than the model's context of"
                f" {model.config.n_ctx}; shorten it."
            )
        ids = stream(
            model,
            torch.tensor([prompt], device=self.device),
            min(self.max_new_tokens, room),
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            end=tokenizer.end,
            generator=generator,
        )
        print(self.prompt, end="", flush=True)
        so_far: list[int] = []
        shown = ""
        for step in ids:
            if int(step) == tokenizer.end:
                break
            if int(step) >= len(tokenizer):
                continue  # of a vocabulary that was padded to a round size: stands for no text
            so_far.append(int(step))
            text = tokenizer.decode(so_far)
            if not text.endswith("\ufffd"):  # a character of which some bytes are still to come
                print(text.removeprefix(shown), end="", flush=True)
                shown = text
        print()
        return 0
