"""The article in miniature: three stages, by the code that the full size uses, on scenes.

1. A small GPT-2 reads the generator's captions.  2. A small CLIP learns which caption belongs to
which scene.  3. The Dense Connector joins the two, and all of it learns to caption. Then the model
learns which pictures it knows, is measured, and gets its card.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioning.config import CaptionerConfig
from captioning.evaluate import evaluate_scenes
from captioning.model import Captioner
from captioning.presets import PRESETS
from captioning.scenes.batches import Scenes, caption_windows, captions, scene_batches
from captioning.scenes.calibrate import calibrate
from captioning.scenes.closeups import CloseUps
from captioning.scenes.contrast import Contrast, place_patches
from connector.config import ReducerConfig
from connector.connector import Connector
from connector.vision import ClipVision
from gpt2_scratch.loader import save_gpt2
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer
from gpt2_scratch.training import language
from gpt2_scratch.training.loop import TrainingConfig, train
from gpt2_scratch.training.parallel import by_the_first
from weights.store import read_json, replacing, write_json

SIZES = PRESETS["scenes"].sizes
VISION, LANGUAGE = SIZES.vision, SIZES.gpt2
# 145 tokens become 37, by averages of 2 x 2 patches or, as in the article, by leaving tokens out.
REDUCERS = {
    "pool": SIZES.connector.reducer,
    "article": ReducerConfig(kind="article", strides=(2, 2), kernels=(1, 1)),
}
# Models this small learn faster from tables at these scales than from GPT-2's 0.02 and 0.01.
TABLE_SCALE, POSITION_SCALE = 0.1, 0.3
HELD_OUT_SCENES, HELD_OUT_SEED = 1000, 2024


def stage(
    steps: int,
    batch: int,
    *,
    rate: float = 1e-3,
    matrix_rate: float = 0.004,
    tower: float = 1.0,
) -> TrainingConfig:
    """How a stage trains; `tower` is the image tower's share of both rates.

    At Muon's usual 0.02 the tower did not find out in minutes what shapes are, and unlearned it.
    """
    rates = {"": rate} if tower == 1 else {"": rate, "vision.": tower * rate}
    return TrainingConfig(
        steps,
        batch,
        rates=rates,
        matrix_rate=matrix_rate,
        schedule="linear",
        warmup=0.02,
    )


@dataclass(frozen=True)
class Recipe:
    """How the embedded captioner is made; the defaults are how it was made."""

    out: Path = Path("runs/scenes")
    reducer: str = "pool"
    language: TrainingConfig = field(
        default_factory=lambda: stage(300, 32, rate=2e-3, matrix_rate=0.02)
    )
    contrast: TrainingConfig = field(default_factory=lambda: stage(6000, 24))
    joint: TrainingConfig = field(
        default_factory=lambda: stage(13_000, 16, matrix_rate=0.006, tower=0.5)
    )
    workers: int = 1

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """Where the three stages keep their checkpoints and logs."""
        names = ("1-language-model", "2-clip", f"3-captioner-{self.reducer}")
        language, clip, captioner = (self.out / name for name in names)
        return language, clip, captioner

    def figures(self, reducer: str) -> Path:
        """Where the held-out figures with a reducer are kept, for the card of each."""
        return self.out / f"figures-{reducer}.json"

    @property
    def model(self) -> Path:
        """Where the finished captioner goes."""
        return self.out / f"scenes-{self.reducer}"


def captioner_config(reducer: ReducerConfig) -> CaptionerConfig:
    """The embedded captioner's sizes with this reducer."""
    return replace(SIZES, connector=replace(SIZES.connector, reducer=reducer))


def train_language_model(recipe: Recipe) -> tuple[GPT2, BPETokenizer]:
    """Stage 1: the tokenizer and the GPT-2 that later say what is seen."""
    config = recipe.language
    tokenizer = BPETokenizer.train(captions(config.seed, 0, 5000), LANGUAGE.n_vocab)
    model = language.random_language_model(LANGUAGE, config.seed, table_scale=TABLE_SCALE)
    language.train_language_model(
        model,
        lambda step: caption_windows(tokenizer, config, LANGUAGE.n_ctx, step),
        config,
        recipe.folders[0],
        title="1/3 language model",
    )
    return model, tokenizer


def train_clip(recipe: Recipe, tokenizer: BPETokenizer) -> ClipVision:
    """Stage 2: the image tower that later sees."""
    config = recipe.contrast
    torch.manual_seed(config.seed)
    vision = ClipVision(VISION)
    place_patches(vision, POSITION_SCALE)
    contrast = Contrast(vision, LANGUAGE.n_vocab)
    scenes = CloseUps(tokenizer, VISION, config)
    train(
        contrast,
        contrast.loss_sum,
        # Each picture is compared with all captions of its batch, so no process gets a part of it.
        lambda step: scene_batches(scenes, config, recipe.workers, step, share=False),
        config,
        recipe.folders[1],
        title="2/3 CLIP",
    )
    return vision


def train_captioner(
    recipe: Recipe, vision: ClipVision, language: GPT2, tokenizer: BPETokenizer
) -> Captioner:
    """Stage 3: both behind the Dense Connector, all of it trained."""
    config, sizes = recipe.joint, captioner_config(REDUCERS[recipe.reducer])
    torch.manual_seed(config.seed)
    connector = Connector(sizes.connector)
    # Image tokens begin at the scale of the words between which they will stand.
    scale = language.wte.weight.std().item()
    norm = connector.dense.projection[-1]
    assert isinstance(norm, nn.LayerNorm)
    nn.init.constant_(norm.weight, scale)
    captioner = Captioner(vision, connector, language, tokenizer, sizes)
    scenes = Scenes(tokenizer, VISION.image_size, config, climb=0.2)
    train(
        captioner,
        lambda batch: captioner.loss_sum(*batch),
        lambda step: scene_batches(scenes, config, recipe.workers, step),
        config,
        recipe.folders[2],
        title=f"3/3 captioner ({recipe.reducer})",
    )
    return captioner


def run(recipe: Recipe) -> Captioner:
    """All stages, to a folder with the captioner, its language model and its card.

    What was done before a kill is taken up, not done again.
    """
    if recipe.reducer not in REDUCERS:
        raise ValueError(f"No reducer {recipe.reducer!r} in the recipe: {', '.join(REDUCERS)}.")
    language, tokenizer = train_language_model(recipe)

    def keep() -> None:
        save_gpt2(language, recipe.model / "language-model")
        tokenizer.save(recipe.model / "language-model")

    by_the_first(keep)
    vision = train_clip(recipe, tokenizer)
    captioner = train_captioner(recipe, vision, language, tokenizer)
    by_the_first(lambda: finish(recipe, captioner))
    return captioner


def finish(recipe: Recipe, captioner: Captioner) -> None:
    """Teach it which pictures it knows, measure it, and write it with its card."""
    calibrate(captioner)
    captioner.save(recipe.model)
    figures = evaluate_scenes(captioner, HELD_OUT_SCENES, HELD_OUT_SEED)
    write_json(recipe.figures(recipe.reducer), figures)
    with replacing(recipe.model / "README.md") as temporary:
        temporary.write_text(card(recipe, captioner, figures), "utf-8")


def minutes(folder: Path) -> float:
    """How long a stage took, from its log."""
    with (folder / "log.csv").open(encoding="utf-8") as log:
        return sum(float(row["seconds"]) for row in csv.DictReader(log)) / 60


def card(recipe: Recipe, captioner: Captioner, figures: dict[str, Any]) -> str:
    """The model card: what it is, how it was made, what it was measured to do."""
    taken = [minutes(folder) for folder in recipe.folders]
    parts = ((name, getattr(captioner, name)) for name in ("vision", "connector", "gpt2"))
    sizes = ", ".join(f"{name} {sum(p.numel() for p in m.parameters()):,}" for name, m in parts)
    kinds = "\n".join(f"| {k} | {v:.4f} |" for k, v in figures["recall_by_kind"].items())
    return f"""# scenes: the embedded captioner

Captions pictures that this project draws, and knows nothing else. Same code as the full size:
CLIP's image tower, the article's Dense Connector, GPT-2. Parameters: {sizes}.
Weights from random numbers, pictures and captions from `captioning.scenes`; MIT licence.

## How it was made

    python -m captioning train-scenes --reducer {recipe.reducer}

Seed {recipe.joint.seed}; {recipe.language.steps} steps of language model ({taken[0]:.1f} min), \
{recipe.contrast.steps} of CLIP ({taken[1]:.1f} min),
{recipe.joint.steps} of all three parts together ({taken[2]:.1f} min): bf16, CPU threads: \
{torch.get_num_threads()}.
`language-model/` is the GPT-2 after the first stage, in Hugging Face's layout.

## What it does

Greedy captions of {HELD_OUT_SCENES:,} scenes that were never trained on
(`python -m captioning evaluate --scenes {HELD_OUT_SCENES} --seed {HELD_OUT_SEED}`):

| figure | value |
|---|---|
| facts F1 | {figures["facts_f1"]:.4f} |
| exact match | {figures["exact_match"]:.4f} |
| facts F1, captions of other scenes | {figures["facts_f1_shuffled"]:.4f} |
| facts F1, caption of a grey picture | {figures["facts_f1_blank"]:.4f} |

Share of the drawn facts that was said:

| fact | share |
|---|---|
{kinds}
{compared(recipe)}"""


def compared(recipe: Recipe) -> str:
    """The card's table of reducers, of those that were trained in this folder."""
    trained = {name: recipe.figures(name) for name in REDUCERS if recipe.figures(name).is_file()}
    if len(trained) < 2:
        return ""
    figures = {name: read_json(path) for name, path in trained.items()}
    rows = "\n".join(
        f"| {name} | {found['facts_f1']:.4f} | {found['exact_match']:.4f} |"
        for name, found in figures.items()
    )
    tokens = captioner_config(REDUCERS[recipe.reducer]).connector.tokens
    return f"""
## Beside the other reducers

Made by the same recipe with another `--reducer`: as many image tokens ({tokens}), steps and scenes.

| reducer | facts F1 | exact match |
|---|---|---|
{rows}
"""
