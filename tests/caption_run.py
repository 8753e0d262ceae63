"""A captioner of seconds that several tests of `train` start, interrupt and take up again."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_sets import put
from PIL import Image

from connector.config import VisionConfig
from connector.vision import ClipVision
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import random_gpt2, save_gpt2
from gpt2_scratch.tokenizer import BPETokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}
WHERE = ("left", "right")
SIDE = 28


def caption(colour: str, where: str, more: int) -> str:
    return f"a {colour} half on the {where}" + " of the picture" * more


def data_set(folder: Path, count: int = 30) -> Path:
    """Pictures with one half coloured, and a text beside each that says which; blue ones' texts are
    longer."""
    for number in range(count):
        colour = list(COLOURS)[number % 3]
        where = WHERE[number // 3 % 2]
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        half = slice(0, SIDE // 2) if where == "left" else slice(SIDE // 2, SIDE)
        pixels[:, half] = COLOURS[colour]
        pixels[0, 0] = number  # no two pictures are equal
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        put(folder / f"{number:03}.txt", caption(colour, where, number % 3 // 2))
    return folder


def parts(folder: Path) -> list[str]:
    """The options that name a tiny tower and a tiny GPT-2 with words of its own."""
    text = [caption(c, w, m) for c in COLOURS for w in WHERE for m in (0, 1)]
    tokenizer = BPETokenizer.train(text, 270)
    config = GPT2Config(
        n_vocab=len(tokenizer), n_ctx=128, n_embd=32, n_head=2, n_layer=2, dropout=0.1
    )
    torch.manual_seed(1)
    save_gpt2(random_gpt2(config, generator=torch.Generator().manual_seed(1)), folder / "gpt2")
    tokenizer.save(folder / "gpt2")
    vision = VisionConfig(
        image_size=SIDE, patch_size=7, width=24, layers=3, heads=2, quick_gelu=True, projection=8
    )
    ClipVision(vision).save(folder / "clip")
    return ["--gpt2", str(folder / "gpt2"), "--tower", str(folder / "clip")]


def arguments(parts: list[str], data: Path, out: Path, *more: str) -> list[str]:
    """The words behind `python -m captioning` of a run on the CPU."""
    start = ["train", *parts, "--data", str(data), "--out", str(out), "--device", "cpu"]
    return [*start, "--batch", "4", "--workers", "0", "--samples", "3", "--no-tensorboard", *more]


def losses(out: Path) -> list[tuple[str, ...]]:
    """Step, loss and norm of each row of the log."""
    rows = (out / "log.csv").read_text().splitlines()[1:]
    return [tuple(row.split(",")[:3]) for row in rows]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def checkpoint(out: Path, name: str = "checkpoint.pt") -> dict[str, Any]:
    held: dict[str, Any] = torch.load(out / name, weights_only=True)
    return held


def torchrun(
    root: Path, processes: int, words: list[str], module: str = "captioning"
) -> subprocess.Popen[str]:
    """`torchrun -m captioning ...`, each process with one thread."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    start += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.Popen(
        [*start, "-m", module, *words],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
