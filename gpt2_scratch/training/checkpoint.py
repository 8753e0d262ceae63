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

from gpt2_scratch.training.parallel import by_the_first, gathered, world
from gpt2_scratch.training.sharding import gathered_whole, optimizer_shares, share_like
from weights.store import clear_halves, replacing

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
    """No other run trains in `folder` inside; what a kill left half written is cleared away."""
    lock = FileLock(folder / LOCK, timeout=0)

    def take() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"{folder} is in use: another process trains in it. Wait for it, or name another"
                " one."
            ) from None
        for place in (folder, folder / "model"):
            clear_halves(place)

    by_the_first(take)
    try:
        yield
    finally:
        lock.release()


def frozen_names(module: nn.Module) -> set[str]:
    """Parameters that no step changes: a checkpoint doesn't hold them."""
    return {name for name, p in module.named_parameters() if not p.requires_grad}


def trained_state(module: nn.Module) -> dict[str, Any]:
    """The parameters of a module that steps change; nothing here trains a buffer."""
    kept = frozen_names(module) | {name for name, _ in module.named_buffers()}
    held = {name: value for name, value in module.state_dict().items() if name not in kept}
    return {name: gathered_whole(value) for name, value in held.items()}


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
    return 3 * trained_size(run.module)


def trained_size(module: nn.Module) -> int:
    """Bytes of the parameters that steps change."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


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
    """Write all that a later start needs to go on as if nothing had happened.

    Of several processes the first writes, with the random numbers' state of each.
    """
    device = next(run.module.parameters()).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    others = gathered((torch.get_rng_state(), cuda))[1:]
    state: dict[str, Any] = {
        "identity": run.identity,
        "step": run.step,
        "best": run.best,
        "module": trained_state(run.module),
        "optimizers": [gathered_whole(optimizer.state_dict()) for optimizer in run.optimizers],
        "scaler": run.scaler.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": cuda,
    }
    if others:
        state["random_others"] = others
    by_the_first(lambda: write(folder / LAST, state, checkpoint_size(run)))


def load_checkpoint(folder: Path, run: Run) -> None:
    """Bring a run to where its last checkpoint left it; without one it stays at step 0.

    ValueError where the checkpoint is damaged or of a run with other settings.
    """
    state = read(folder / LAST, run.identity) if (folder / LAST).is_file() else None
    found = gathered(-1 if state is None else state["step"])
    if len(set(found)) > 1:
        raise ValueError(
            f"{folder / LAST} is at step {found} for the processes of this run, -1 where it is not"
            " there. Name a folder that all of them see: --out."
        )
    if state is None:
        return
    load_trained(run.module, state["module"])
    for optimizer, held in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_shares(optimizer, held))
    if held := state.get("scaler"):
        run.scaler.load_state_dict(held)
    run.step, run.best = state["step"], state.get("best")
    draws = [(state["random"], state.get("random_cuda")), *state.get("random_others", ())]
    rank = world().rank
    if rank >= len(draws):  # which were fewer when it was written
        torch.manual_seed(torch.initial_seed() + run.step)
        return
    torch.set_rng_state(draws[rank][0])
    device = next(run.module.parameters()).device
    if device.type == "cuda" and draws[rank][1] is not None:
        torch.cuda.set_rng_state(draws[rank][1], device)


def save_best(folder: Path, run: Run) -> None:
    """Keep the trained weights of this step, which no other step has beaten yet."""
    trained = trained_state(run.module)
    state = {"identity": run.identity, "step": run.step, "best": run.best, "module": trained}
    by_the_first(lambda: write(folder / BEST, state, trained_size(run.module)))


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


def load_last(folder: Path, module: nn.Module) -> None:
    """Put the weights of a run's last checkpoint into `module`."""
    load_trained(module, read(folder / LAST)["module"])


def read(path: Path, identity: str | None = None) -> dict[str, Any]:
    """What `write` wrote; ValueError where it is damaged or of another run than `identity`."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        why = str(error) or type(error).__name__
        raise ValueError(f"{path} can't be read ({why}). Delete it to start anew.") from None
    if not isinstance(state, dict) or not {"identity", "step", "module"} <= state.keys():
        raise ValueError(
            f"{path} is no checkpoint of this project, wanted one or none there. Name another"
            " folder."
        )
    if identity is not None and state["identity"] != identity:
        raise ValueError(
            f"{path} is of another run.\n  got    {state['identity']}\n  wanted {identity}\n"
            "Name another folder, or delete the checkpoint to start anew."
        )
    return state


def load_trained(module: nn.Module, held: dict[str, Any]) -> None:
    """Put what `trained_state` gave back; frozen parameters stay as they are."""
    parameters = dict(module.named_parameters())
    shares = {n: share_like(v, parameters[n]) if n in parameters else v for n, v in held.items()}
    missing, unexpected = module.load_state_dict(shares, strict=False)
    kept = frozen_names(module) | {name for name, _ in module.named_buffers()}
    absent = sorted(set(missing) - kept)
    if absent or unexpected:
        raise ValueError(
            f"The checkpoint is of a module with other parts: it lacks {absent} and has"
            f" {unexpected} besides. Delete it to start anew."
        )
