"""What AdamW is given: parameter groups with their own rates, and the rate's way through a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gpt2_scratch.training.settings import Schedule


def parameter_groups(
    module: nn.Module, rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW groups: a rate for each name prefix ("" = all the rest), decay only from 2-D on.

    The longest prefix wins. Gains, biases and other vectors are not decayed (Loshchilov & Hutter
    2019 leave it open; this is GPT-2 practice). Frozen parameters are in no group.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        prefixes = [prefix for prefix in rates if name.startswith(prefix)]
        if not prefixes:
            raise ValueError(
                f"No rate was given for {name}; rates are for {sorted(rates)}."
                ' Add its prefix, or "" for all the rest.'
            )
        groups.setdefault((max(prefixes, key=len), parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[prefix],
            "initial_lr": rates[prefix],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (prefix, decayed), parameters in groups.items()
    ]


def rate_at(step: int, steps: int, *, warmup: float, schedule: Schedule) -> float:
    """The share of the full rate at `step` (from 0) of `steps`: up over `warmup`, then down to 0.

    `warmup` is the share of the run that the rise takes.
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)  # 0 at the top, 1 behind the last step
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1.0


EMBEDDINGS = ("wte.weight", "wpe.weight", "embedding")  # looked up, not multiplied by


def build_optimizers(
    module: nn.Module,
    rates: Mapping[str, float],
    *,
    weight_decay: float,
    betas: tuple[float, float],
    matrix_rate: float | None,
) -> list[torch.optim.Optimizer]:
    """AdamW for all; or, with `matrix_rate`, Muon for the weight matrices and AdamW for the rest.

    Muon (Jordan et al. 2024) makes each matrix's update orthogonal: on the small captioner it got
    further in the same number of steps. Learned tables and vectors stay with AdamW. A prefix has
    the same share of `matrix_rate` as its rate has of the highest one.
    """
    groups = parameter_groups(module, rates, weight_decay)
    built: list[torch.optim.Optimizer] = []
    if matrix_rate is not None:
        matrices = {
            parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and parameter.ndim == 2 and not name.endswith(EMBEDDINGS)
        }
        highest = max(rates.values())
        theirs = []
        for group in groups:
            held = [p for p in group["params"] if p in matrices]
            group["params"] = [p for p in group["params"] if p not in matrices]
            if held:
                rate = matrix_rate * group["lr"] / highest
                theirs.append({"params": held, "lr": rate, "initial_lr": rate})
        built.append(torch.optim.Muon(theirs, lr=matrix_rate, weight_decay=weight_decay))
    fused = all(p.device.type in ("cpu", "cuda") for p in module.parameters())
    rest = [group for group in groups if group["params"]]
    return [*built, torch.optim.AdamW(rest, betas=betas, fused=fused)]


def set_rate(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Put every group at this share of its own full rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
