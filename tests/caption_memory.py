"""Run in a process of its own: the most memory that two steps of a captioner take, for each case.

Cases come as JSON on stdin; bytes go out, as in `step_memory.py`.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from step_memory import resident

from captioning.config import CaptionerConfig
from captioning.trained import prepare
from captioning.training.forward import computing_loss
from captioning.training.plan import make_load
from captioning.training.speed import random_batch, random_captioner
from connector.config import ConnectorConfig, ReducerConfig, VisionConfig
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.training.loop import begin, train_step
from gpt2_scratch.training.plan import Load
from gpt2_scratch.training.settings import TrainingConfig


def sizes_from(case: dict[str, Any]) -> CaptionerConfig:
    """A captioner with `width`, `layers`, `image` (pixels a side) of the tower, `n_embd`,
    `n_layer`, `n_vocab` of GPT-2."""
    vision = VisionConfig(
        image_size=case.get("image", 112),
        patch_size=14,
        width=case.get("width", 256),
        layers=case.get("layers", 6),
        heads=case.get("width", 256) // 64,
        quick_gelu=True,
        projection=64,
    )
    gpt2 = GPT2Config(
        n_vocab=case.get("n_vocab", 2000),
        n_ctx=1024,
        n_embd=case.get("n_embd", 256),
        n_head=case.get("n_embd", 256) // 64,
        n_layer=case.get("n_layer", 4),
        dropout=case.get("dropout", 0.1),
    )
    connector = ConnectorConfig(
        vision_width=vision.width,
        depth=vision.layers,
        patches=vision.patches,
        out=gpt2.n_embd,
        variant=case.get("variant", "article"),
        reducer=ReducerConfig(kind=case.get("reducer", "article")),
    )
    return CaptionerConfig(vision, connector, gpt2)


def load_from(case: dict[str, Any]) -> Load:
    """What the planner is asked about a case, on the CPU."""
    return make_load(
        sizes_from(case),
        case["train"],
        case.get("precision", "fp32"),
        "cpu",
        rows=case["rows"],
        longest=case["longest"],
        features=case.get("features", False),
        recompute=case.get("recompute", False),
    )


def measure(case: dict[str, Any]) -> int:
    """Peak of the resident size during two steps, minus the size before there was a model."""
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    sizes, load = sizes_from(case), load_from(case)
    captioner = random_captioner(sizes, "cpu")
    rates = prepare(captioner, case["train"])
    config = TrainingConfig(2, load.rows, rates=rates, precision=load.precision)
    run = begin(captioner.train(), config, "")
    with computing_loss(captioner, recompute=load.recompute) as loss_of:
        for _ in range(2):  # the optimizer's numbers are there from the first step's end
            features = case.get("features", False)
            batch = random_batch(sizes, load.rows, case["longest"], features=features)
            train_step(captioner, loss_of, [batch], run.optimizers, config, run.scaler)
    return resident("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    tiny = {"image": 28, "width": 64, "layers": 3, "n_embd": 64, "n_layer": 1, "n_vocab": 50}
    for how in ({"precision": "fp32"}, {"precision": "bf16", "recompute": True}):
        measure({**tiny, **how, "train": "all", "rows": 2, "longest": 8})
    json.dump([measure(case) for case in json.load(sys.stdin)], sys.stdout)
