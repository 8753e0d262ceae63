"""LoRA by hand: a frozen matrix w learns through a product of two thin ones (Hu et al. 2021).

y = x w + b + alpha / r (x A) B, with A (in, r) and B (r, out). B begins at zero, so at first
nothing is changed; trained, the product can be added into w, and the model is as fast as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from gpt2_scratch.model import Conv1D
from gpt2_scratch.training.settings import LINEARS
from gpt2_scratch.training.settings import LoRAConfig as LoRAConfig
from weights.store import assign, read_config, read_tensors, write_folder


class LoRAConv1D(Conv1D):
    """A Conv1D whose own w and b are frozen, with the adapters `lora_a` and `lora_b` beside them.

    While `merged`, w holds the product as well, and the adapters are not computed.
    """

    def __init__(
        self, base: Conv1D, config: LoRAConfig, generator: torch.Generator | None = None
    ) -> None:
        nn.Module.__init__(self)  # Conv1D's would make a second w
        self.w, self.b = base.w, base.b
        size_in, size_out = base.w.shape
        device = base.w.device
        self.lora_a = nn.Parameter(torch.empty(size_in, config.rank, device=device))
        self.lora_b = nn.Parameter(torch.zeros(config.rank, size_out, device=device))
        if device.type != "meta":
            # x of scale 1 comes out of A with scale 1.
            nn.init.normal_(self.lora_a, std=1 / math.sqrt(size_in), generator=generator)
        self.config = config
        self.merged = False
        self.train(base.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, in) -> (B, T, out)."""
        y = super().forward(x)
        if self.merged:
            if self.training:
                raise ValueError(
                    "LoRA is merged into w, where it learns nothing. Unmerge it first."
                )
            return y
        x = F.dropout(x, self.config.dropout, self.training)
        thin = x @ self.lora_a.to(x.dtype)  # (B, T, r)
        return y + self.scale * (thin @ self.lora_b.to(x.dtype))

    @property
    def scale(self) -> float:
        """alpha / r, so that another rank needs no other learning rate."""
        return self.config.alpha / self.config.rank

    @torch.no_grad()
    def product(self) -> torch.Tensor:
        """What is added to w: alpha / r A B, (in, out)."""
        return (self.scale * (self.lora_a @ self.lora_b)).to(self.w.dtype)


def add_lora(
    model: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None
) -> None:
    """Freeze `model` and put adapters on every Conv1D whose name ends in one of `config.linears`.

    Names of what was there stay; ValueError where a name fits nothing.
    """
    found = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, Conv1D) and name.endswith(config.linears)
    }
    unknown = [end for end in config.linears if not any(name.endswith(end) for name in found)]
    if unknown:
        raise ValueError(
            f"No linear of this {type(model).__name__} is called {', '.join(unknown)}."
            f" GPT-2 has {', '.join(LINEARS)}."
        )
    if any(isinstance(part, LoRAConv1D) for part in found.values()):
        raise ValueError("This model has LoRA adapters already. Remove them first: remove_lora.")
    model.requires_grad_(False)
    for name, part in found.items():
        model.set_submodule(name, LoRAConv1D(part, config, generator))


def adapted(model: nn.Module) -> Iterator[tuple[str, LoRAConv1D]]:
    """Every linear with adapters, by its name."""
    for name, part in model.named_modules():
        if isinstance(part, LoRAConv1D):
            yield name, part


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add every product into its w. What is merged already stays so."""
    for _, part in adapted(model):
        if not part.merged:
            part.w.add_(part.product())
            part.merged = True


@torch.no_grad()
def unmerge_lora(model: nn.Module) -> None:
    """Take every product out of its w again: w is what it was, within rounding."""
    for _, part in adapted(model):
        if part.merged:
            part.w.sub_(part.product())
            part.merged = False


def remove_lora(model: nn.Module) -> None:
    """Plain Conv1D again, with w as it is: merge before to keep what was learned."""
    for name, part in list(adapted(model)):
        with torch.device("meta"):
            plain = Conv1D(*part.w.shape)
        plain.w, plain.b = part.w, part.b
        model.set_submodule(name, plain.train(part.training))


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters alone, by their names in the state dict."""
    return {
        f"{name}.{leaf}": getattr(part, leaf)
        for name, part in adapted(model)
        for leaf in ("lora_a", "lora_b")
    }


def save_lora(model: nn.Module, folder: str | Path) -> None:
    """Write the adapters alone, `config.json` and `model.safetensors`: megabytes, not gigabytes."""
    config = next((part.config for _, part in adapted(model)), None)
    if config is None:
        raise ValueError("This model has no LoRA adapters to save. Put some on it: add_lora.")
    write_folder(folder, asdict(config), lora_state(model))


def load_lora(model: nn.Module, folder: str | Path) -> None:
    """Put what `save_lora` wrote on a model without adapters, all or nothing."""
    held = read_config(folder)
    try:
        config = LoRAConfig(**(held | {"linears": tuple(held["linears"])}))
    except (KeyError, TypeError):
        raise ValueError(
            f"The config of {folder} is not one of LoRA adapters (it has {', '.join(held)})."
            " Name a folder that save_lora wrote."
        ) from None
    tensors = read_tensors(folder)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    add_lora(model, config)
    names = lora_state(model)
    base = {name: t for name, t in model.state_dict().items() if name not in names}
    try:
        assign(model, base | tensors, source=str(folder))
    except ValueError:
        remove_lora(model)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
