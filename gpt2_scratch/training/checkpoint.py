"""Where a run stands, on disk: whole or not at all, so that a kill loses only the latest steps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from weights.store import replacing

LAST, BEST, LOCK = "checkpoint.pt", "best.pt", ".lock"
SPARE = 2**20  # what a file takes beside its tensors


@dataclass
class Run:
    """What changes while a run goes on: all of it is in a checkpoint, and nothing else.

    `identity` names what is trained; another run's checkpoint is refused by it. `best` is the
    lowest validation loss so far with its step.
    """

    identity: str
    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler
    step: int = 0
    best: tuple[float, int] | None = None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else trains in `folder` inside; what a killed run had half written is cleared away."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            for left in (p for name in (LAST, BEST) for p in folder.glob(f".{name}.*")):
                left.unlink()
            yield
    except Timeout:
        raise ValueError(
            f"{folder} is in use: another process trains in it. Wait for it, or name another one."
        ) from None


def frozen_names(module: nn.Module) -> set[str]:
    """Parameters that no step changes: a checkpoint doesn't hold them."""
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def trained_state(module: nn.Module) -> dict[str, Any]:
    """The state dict of a module without its frozen parameters."""
    frozen = frozen_names(module)
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def check_space(path: Path, wanted: int) -> None:
    """OSError where the disk has no room for `wanted` bytes beside what `path` holds now."""
    free = shutil.disk_usage(path.parent).free
    if free < wanted + SPARE:
        kept = f"; {path.name} as last written is kept" if path.is_file() else ""
        raise OSError(
            f"the disk of {path.parent} has {free / 1e9:.2f} GB free, wanted {wanted / 1e9:.2f} GB"
            f" for {path.name}{kept}. Free some, then start again: the run goes on from there."
        )


def checkpoint_size(run: Run) -> int:
    """Bytes of a checkpoint, about: trained numbers and, for each, AdamW's two."""
    trained = sum(v.nbytes for v in trained_state(run.module).values())
    return trained + 2 * sum(p.nbytes for p in run.module.parameters() if p.requires_grad)


def write(path: Path, state: dict[str, Any], size: int) -> None:
    """Write `state` of about `size` bytes in the place of `path`, whole or not at all."""
    check_space(path, size)
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:  # so torch calls a write that failed
        why = str(error).splitlines()[0]
        raise OSError(
            f"{path} could not be written ({why}). As last written it is kept: free some space,"
            " then start again, and the run goes on from there."
        ) from None


def save_checkpoint(folder: Path, run: Run) -> None:
    """Write all that a later start needs to go on as if nothing had happened."""
    device = next(run.module.parameters()).device
    state = {
        "identity": run.identity,
        "step": run.step,
        "best": run.best,
        "module": trained_state(run.module),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "scaler": run.scaler.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    write(folder / LAST, state, checkpoint_size(run))


def load_checkpoint(folder: Path, run: Run) -> None:
    """Bring a run to where its last checkpoint left it; without one it stays at step 0.

    ValueError where the checkpoint is damaged or of a run with other settings.
    """
    if not (folder / LAST).is_file():
        return
    state = read(folder / LAST, run.identity)
    load_trained(run.module, state["module"])
    for optimizer, held in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(held)
    if held := state.get("scaler"):
        run.scaler.load_state_dict(held)
    torch.set_rng_state(state["random"])
    device = next(run.module.parameters()).device
    if device.type == "cuda" and state.get("random_cuda") is not None:
        torch.cuda.set_rng_state(state["random_cuda"], device)
    run.step, run.best = state["step"], state.get("best")


def save_best(folder: Path, run: Run) -> None:
    """Keep the trained weights of this step, which no other step has beaten yet."""
    trained = trained_state(run.module)
    state = {"identity": run.identity, "step": run.step, "best": run.best, "module": trained}
    write(folder / BEST, state, sum(v.nbytes for v in trained.values()))


def load_best(folder: Path, module: nn.Module) -> tuple[float, int] | None:
    """Put the best weights of a run into `module`: their validation loss and step.

    None, and nothing changes, where the run had no validation.
    """
    if not (folder / BEST).is_file():
        return None
    state = read(folder / BEST)
    load_trained(module, state["module"])
    loss, step = state["best"]
    return loss, step


def read(path: Path, identity: str | None = None) -> dict[str, Any]:
    """What `write` wrote; ValueError where it is damaged or of another run than `identity`."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise ValueError(f"{path} can't be read ({error}). Delete it to start anew.") from None
    if identity is not None and state["identity"] != identity:
        raise ValueError(
            f"{path} is of another run.\n  got    {state['identity']}\n  wanted {identity}\n"
            "Name another folder, or delete the checkpoint to start anew."
        )
    return state


def load_trained(module: nn.Module, held: dict[str, Any]) -> None:
    """Put what `trained_state` gave back; frozen parameters stay as they are."""
    missing, unexpected = module.load_state_dict(held, strict=False)
    absent = sorted(set(missing) - frozen_names(module))
    if absent or unexpected:
        raise ValueError(
            f"The checkpoint is of a module with other parts: it lacks {absent} and has"
            f" {unexpected} besides. Delete it to start anew."
        )
