"""How long a step will take and what it holds: measured on captioners of random numbers."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from captioning.build import drawn, new_connector
from captioning.config import CaptionerConfig, Trained
from captioning.data.batches import Batch
from captioning.model import Captioner
from captioning.trained import prepare
from captioning.training.forward import computing_loss
from connector.vision import ClipVision
from gpt2_scratch.loader import random_gpt2
from gpt2_scratch.tokenizer import Tokenizer
from gpt2_scratch.training.loop import begin, train_step
from gpt2_scratch.training.plan import Load
from gpt2_scratch.training.settings import LoRAConfig, TrainingConfig

LEAST = 3  # blocks of the tower that every kind of connector can read
SHORT = 2  # tokens of the caption of a first step, in which torch does what it does but once


class Wordless:
    """Stands for the tokenizer of a captioner that is never asked for words."""

    end = 0
    n_vocab = 1

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: object) -> str:
        raise NotImplementedError

    def __len__(self) -> int:
        return 1


def random_captioner(sizes: CaptionerConfig, device: str) -> Captioner:
    """A captioner of random numbers in float32 that trains as well as any, and has no words."""
    words: Tokenizer = Wordless()
    gpt2 = random_gpt2(sizes.gpt2, device=device)
    vision = drawn(
        lambda: ClipVision(sizes.vision), ClipVision.initialise, 0, torch.float32, device
    )
    connector = new_connector(sizes.connector, 0.02, 0, device=device)
    return Captioner(vision, connector, gpt2, words, sizes).to(device)


def random_batch(sizes: CaptionerConfig, rows: int, longest: int, *, features: bool) -> Batch:
    """Captions of `longest` tokens and their pictures, or what the tower would say of them."""
    side, connector = sizes.vision.image_size, sizes.connector
    tokens = connector.tokens if connector.reducer.picks else connector.tokens_in
    shape = (rows, tokens, connector.features) if features else (rows, 3, side, side)
    ids = torch.randint(sizes.gpt2.n_vocab, (rows, longest))
    return Batch(torch.randn(shape), ids, torch.full((rows,), longest), [""] * rows, [])


def seconds_per_step(
    sizes: CaptionerConfig,
    trained: Trained,
    load: Load,
    config: TrainingConfig,
    *,
    lora: LoRAConfig,
    features: bool = False,
) -> float:
    """Seconds of one step, from captioners of few blocks that do it here.

    On a CPU with one row, since there each takes as long as the next.
    """
    rows = 1 if load.device == "cpu" else load.rows
    longest = load.predicted or load.length
    taken = {}
    with torch.random.fork_rng():
        for layers, blocks in ((1, LEAST), (2, LEAST), (1, LEAST + 1)):
            small = replace(
                sizes,
                vision=replace(sizes.vision, layers=blocks),
                connector=replace(sizes.connector, depth=blocks),
                gpt2=replace(sizes.gpt2, n_layer=layers),
            )
            captioner = random_captioner(small, load.device)
            rates = prepare(captioner, trained, lora=lora)
            run = begin(captioner.train(), replace(config, rates=rates), "")
            for length in (SHORT, longest):
                batch = random_batch(small, rows, length, features=features)
                began = time.monotonic()
                with computing_loss(captioner, recompute=load.recompute) as loss_of:
                    train_step(captioner, loss_of, [batch], run.optimizers, config, run.scaler)
                if load.device != "cpu":
                    torch.ones(1, device=load.device).item()  # waits for what is under way
            taken[layers, blocks] = time.monotonic() - began
            del captioner, run
    if load.device == "cuda":
        torch.cuda.empty_cache()
    base = taken[1, LEAST]
    block = max(0.0, taken[2, LEAST] - base)
    tower = max(0.0, taken[1, LEAST + 1] - base)
    step = base + block * (sizes.gpt2.n_layer - 1) + tower * (sizes.vision.layers - LEAST)
    return max(step, base) * config.batch / rows
