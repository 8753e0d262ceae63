"""Where a run stands, on disk: whole or not at all, so that a kill loses only the latest steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from weights.store import replacing

FILE = "checkpoint.pt"


def save_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    identity: str,
) -> None:
    """Write weights, optimizers, random state and the number of steps done.

    `identity` names what is trained; another run's checkpoint is refused by it.
    """
    state = {
        "identity": identity,
        "step": step,
        "module": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
    }
    with replacing(folder / FILE) as temporary:
        torch.save(state, temporary)


def load_checkpoint(
    folder: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], identity: str
) -> int:
    """Bring a run back to its last checkpoint; how many steps are done (0: there is none).

    ValueError where the checkpoint is damaged or of a run with other settings.
    """
    path = folder / FILE
    if not path.is_file():
        return 0
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise ValueError(f"{path} can't be read ({error}). Delete it to start anew.") from None
    if state["identity"] != identity:
        raise ValueError(
            f"{path} is of another run.\n  got    {state['identity']}\n  wanted {identity}\n"
            "Name another folder, or delete the checkpoint to start anew."
        )
    module.load_state_dict(state["module"])
    for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(held)
    torch.set_rng_state(state["random"])
    return int(state["step"])
