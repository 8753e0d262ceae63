"""`python -m gpt2_scratch generate "PROMPT"`: text from a GPT-2, word by word."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
import tyro.extras

from weights.console import check_device, run_command
from weights.store import embedded


@dataclass(frozen=True)
class Generate:
    """Continue a text, printing as it comes.

    The embedded model "scenes" has read nothing but captions of drawn scenes. Fetching OpenAI's
    weights is coming; a folder in Hugging Face's layout (config.json, model.safetensors) works now.
    """

    prompt: Annotated[str, tyro.conf.Positional] = ""
    """How the text begins; nothing: the model begins itself."""
    model: Annotated[str, tyro.conf.arg(metavar="scenes|FOLDER")] = "scenes"
    """"scenes", or a folder with config.json and model.safetensors."""
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
        from gpt2_scratch.loader import load_gpt2
        from gpt2_scratch.tokenizer import BPETokenizer, gpt2_tokenizer

        check_device(self.device)
        named = self.model == "scenes"
        folder = embedded("scenes") / "language-model" if named else Path(self.model)
        model = load_gpt2(folder, device=self.device)
        own = (folder / "tokenizer.json").is_file() and not (folder / "merges.txt").is_file()
        tokenizer = BPETokenizer.load(folder) if own else gpt2_tokenizer()
        generator = torch.Generator(self.device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        prompt = [tokenizer.end, *tokenizer.encode(self.prompt)]
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
            so_far.append(int(step))
            text = tokenizer.decode(so_far)
            if not text.endswith("\ufffd"):  # a character of which some bytes are still to come
                print(text.removeprefix(shown), end="", flush=True)
                shown = text
        print()
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code, 2 for whatever a person can put right."""
    return run_command(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"generate": Generate},
            prog="python -m gpt2_scratch",
            description="GPT-2 by hand.",
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
