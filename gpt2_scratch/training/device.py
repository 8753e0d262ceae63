"""What the machine at hand offers: its memory, the precision that suits it, and its speed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from gpt2_scratch.loader import random_gpt2
from gpt2_scratch.training.language import computing_loss
from gpt2_scratch.training.loop import begin, train_step
from gpt2_scratch.training.lora import add_lora
from gpt2_scratch.training.plan import Load
from gpt2_scratch.training.settings import Precision, TrainingConfig

CGROUP = Path("/sys/fs/cgroup")


def best_device() -> str:
    """A GPU where there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_precision(device: str) -> Precision:
    """bf16 on GPUs that compute in it (NVIDIA's from Ampere on), fp16 on older, fp32 elsewhere."""
    if not device.startswith("cuda"):
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def free_memory(device: str) -> int | None:
    """Bytes that a program may still take there; None where this machine does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device != "cpu" or not meminfo.is_file():
        return None
    free = int(meminfo.read_text().split("MemAvailable:")[1].split()[0]) * 1024
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"  # of a container
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal():
        taken = int(used.read_text()) - file_pages(CGROUP / "memory.stat")
        free = min(free, int(limit.read_text()) - taken)
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # which torchrun sets


def file_pages(stat: Path) -> int:
    """Bytes of files that Linux keeps in a container's memory only while nobody else wants it."""
    lines = stat.read_text().splitlines() if stat.is_file() else []
    held = dict(line.split() for line in lines)
    return int(held.get("active_file", 0)) + int(held.get("inactive_file", 0))


def seconds_per_step(load: Load, config: TrainingConfig) -> float:
    """How long a step will take, from models of one and of two blocks that do it here.

    On a CPU with one row, since there each takes as long as the next.
    """
    rows = 1 if load.device == "cpu" else load.rows
    taken = []
    with torch.random.fork_rng():
        for layers in (1, 2):
            model = random_gpt2(replace(load.config, n_layer=layers), device=load.device).train()
            if load.lora is not None:
                add_lora(model, load.lora)
            run = begin(model, config, "")
            for length in (2, load.length):  # what is done but once is done with the first
                ids = torch.zeros(rows, length + 1, dtype=torch.long, device=load.device)
                began = time.monotonic()
                with computing_loss(model, load.recompute) as loss_of:
                    train_step(model, loss_of, [ids], run.optimizers, config, run.scaler)
                if load.device != "cpu":
                    torch.ones(1, device=load.device).item()  # waits for what is under way
            taken.append(time.monotonic() - began)
    del model, run
    if load.device == "cuda":
        torch.cuda.empty_cache()
    one, two = taken
    return (one + max(0.0, two - one) * (load.config.n_layer - 1)) * config.batch / rows
