"""Which parts of a captioner learn, and how fast: what is done to it before a run.

Afterwards `Captioner.train` leaves alone what does not learn: it stays in eval mode, and no
gradient is computed for it.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import nn

from captioning.config import Rates as Rates
from captioning.config import Trained as Trained
from captioning.model import Captioner
from gpt2_scratch.training.lora import LoRAConfig, adapted, add_lora


def prepare(
    captioner: Captioner,
    trained: Trained,
    *,
    rates: Rates | None = None,
    lora: LoRAConfig | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Freeze what `trained` does not name, and give the rates by prefix of the names.

    What learns becomes float32 where it was half as wide: bf16 has 8 bits, so that a step smaller
    than 1/500 of a weight would change nothing. `generator` draws the adapters of LoRA.
    """
    if trained not in get_args(Trained):
        raise ValueError(f"trained={trained!r}: choose of {get_args(Trained)}.")
    captioner.requires_grad_(False)
    learns: list[nn.Module | nn.Parameter] = [captioner.connector]
    if trained == "connector+lora":
        if not any(adapted(captioner.gpt2)):
            add_lora(captioner.gpt2, lora or LoRAConfig(), generator)
        learns += [p for _, part in adapted(captioner.gpt2) for p in (part.lora_a, part.lora_b)]
    elif trained in ("connector+gpt2", "all"):
        if any(adapted(captioner.gpt2)):
            raise ValueError(
                f"trained={trained!r} came for a GPT-2 that has LoRA adapters. Merge and remove"
                " them first: merge_lora, remove_lora."
            )
        learns.append(captioner.gpt2)
    if trained == "all":
        learns += seen_of(captioner)
    for part in learns:
        part.requires_grad_(True)
    for parameter in captioner.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    captioner.train(captioner.training)
    return (rates or Rates()).by_prefix(trained)


def seen_of(captioner: Captioner) -> list[nn.Parameter]:
    """The tower's parameters on which an image token depends.

    Not those behind the last state that is read: they would get no gradient, and processes that
    share a run wait for every gradient.
    """
    last = captioner.config.connector.highest_state
    behind = ["ln_post.", "proj"]
    layers = captioner.config.vision.layers
    behind += [f"transformer.resblocks.{layer}." for layer in range(last, layers)]
    return [
        parameter
        for name, parameter in captioner.vision.named_parameters()
        if not name.startswith(tuple(behind))
    ]
