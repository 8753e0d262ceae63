"""Makes a folder as OpenAI's downloads are, of any published size, with random numbers in it.

    python benchmarks/make_openai_folder.py --preset gpt2-large --out FOLDER

What reads the real files can be tried on it at their true size: 3.1 GB for gpt2-large.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.openai_format import CheckpointWriter, tensor_shapes, write_settings
from gpt2_scratch.config import GPT2Config
from weights.console import run_command

PIECE = 4 << 20  # numbers drawn at once, 16 MiB
VOCABULARY = ("encoder.json", "vocab.bpe")


@dataclass(frozen=True)
class MakeFolder:
    """Write hparams.json, checkpoint, model.ckpt.index and model.ckpt.data-*."""

    out: Path
    """The folder, new or empty."""
    preset: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] = "gpt2-large"
    """The sizes of the model."""
    shards: int = 1
    """Over how many data files the tensors are spread."""
    seed: int = 0
    """Of the random numbers."""
    vocabulary: Path | None = None
    """A folder with encoder.json and vocab.bpe, to be copied."""

    def run(self) -> None:
        if self.shards < 1:
            raise ValueError(f"--shards {self.shards} is no number of files. Give 1 or more.")
        if self.out.exists() and any(self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty. Name a folder that is new or empty.")
        config = GPT2Config.preset(self.preset)
        hparams = {
            name: getattr(config, name)
            for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer")
        }
        self.out.mkdir(parents=True, exist_ok=True)
        if self.vocabulary:
            for name in VOCABULARY:
                shutil.copyfile(self.vocabulary / name, self.out / name)
        make(self.out, hparams, shards=self.shards, seed=self.seed)


def make(folder: Path, hparams: Mapping[str, int], *, shards: int = 1, seed: int = 0) -> None:
    """Write a GPT-2 of these sizes, one piece of a tensor at a time."""
    write_settings(folder, hparams)
    shapes = tensor_shapes(hparams)
    with CheckpointWriter(folder / "model.ckpt", shards=shards) as writer:
        for place, (name, shape) in enumerate(tqdm(shapes.items(), unit="tensor", disable=None)):
            numbers = draw(name, shape, np.random.default_rng((seed, place)))
            writer.add(name, shape, numbers, shard=place * shards // len(shapes))


def draw(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[np.ndarray]:
    """The numbers of a tensor, in pieces, at the scales of an untrained GPT-2; no bias is all 0."""
    centre, scale = (1, 0.1) if name.endswith("/g") else (0, 0.01 if name.endswith("wpe") else 0.02)
    count = int(np.prod(shape))
    for start in range(0, count, PIECE):
        piece = generator.standard_normal(min(PIECE, count - start), np.float32)
        piece *= np.float32(scale)
        piece += np.float32(centre)
        yield piece


if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(MakeFolder, description=__doc__).run()))
