"""Run in a process of its own: the most memory that two training steps take, for each load.

Loads come as JSON on stdin; bytes go out. What torch needs but once is taken before.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2
from gpt2_scratch.training.language import computing_loss
from gpt2_scratch.training.loop import begin, train_step
from gpt2_scratch.training.lora import add_lora
from gpt2_scratch.training.plan import Load
from gpt2_scratch.training.settings import LoRAConfig, TrainingConfig


def load_from(settings: dict[str, Any]) -> Load:
    """A planner's load on the CPU, from JSON."""
    rest = dict(settings)
    config = GPT2Config(**{"n_ctx": 1024, **rest.pop("config")})
    lora = rest.pop("lora", None)
    if lora is not None:
        lora = LoRAConfig(
            **{**lora, "linears": tuple(lora["linears"])} if "linears" in lora else lora
        )
    return Load(config, lora=lora, device="cpu", **rest)


def resident(entry: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(entry + ":")[1].split()[0]) * 1024


def measure(load: Load) -> int:
    """Peak of the resident size during two steps, minus the size before there was a model."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    model = GPT2(load.config)
    if load.lora is not None:
        add_lora(model, load.lora)
    config = TrainingConfig(
        2,
        load.rows * load.accumulate,
        accumulate=load.accumulate,
        precision=load.precision,
        matrix_rate=0.01 if load.muon else None,
    )
    run = begin(model.train(), config, "")
    with computing_loss(model, load.recompute) as loss_of:
        for _ in range(2):  # the optimizer's numbers are there from the first step's end
            shape = (load.rows, load.length + 1)
            parts = [torch.randint(load.config.n_vocab, shape) for _ in range(load.accumulate)]
            train_step(model, loss_of, parts, run.optimizers, config, run.scaler)
    return resident("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny = {"n_vocab": 50, "n_embd": 16, "n_head": 2, "n_layer": 1}
    for settings in (
        {"precision": "fp32"},
        {"precision": "bf16", "recompute": True},
        {"muon": True},
    ):
        measure(load_from({"config": tiny, "length": 8, "rows": 2, **settings}))
    json.dump([measure(load_from(settings)) for settings in json.load(sys.stdin)], sys.stdout)
