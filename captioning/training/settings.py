"""All that `train` asks; each default stands here, once. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from captioning.config import Rates, Trained
from gpt2_scratch.training.settings import RunSettings


@dataclass(frozen=True)
class CaptionTraining(RunSettings):
    """What is trained, on what, and how."""

    out: Annotated[Path, tyro.conf.arg(metavar="RUN")] = Path("runs/captioner")
    """Where checkpoint, logs and the finished model go; a second start goes on from there."""
    resume: bool = False
    """Go on with the run in RUN by its own settings: only where things lie and how they are
    computed may be given beside it."""
    preset: Annotated[str, tyro.conf.arg(metavar="article|article-small|dci|...")] = "article"
    """The captioner's sizes and parts: python -m captioning presets."""
    model: Annotated[str | None, tyro.conf.arg(metavar="RUN/model")] = None
    """A captioner to go on from, instead of a preset."""
    random_init: bool = False
    """Random numbers of the preset's sizes, instead of published weights."""
    gpt2: Annotated[str | None, tyro.conf.arg(metavar="NAME|FOLDER")] = None
    """Another GPT-2 than the preset's."""
    tower: Annotated[str | None, tyro.conf.arg(metavar="NAME|FOLDER")] = None
    """Another image tower than the preset's."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE|FOLDER")] = None
    """Captioned pictures, in any layout that `python -m captioning data` knows."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the pictures are, if not in the folder of the captions."""
    split: Literal["hash", "article", "official", "none"] = "hash"
    """By picture, 0.8/0.1/0.1 through a hash of its id; the article's shuffled lines; the official
    one where the files bring it; or none: every caption is trained on."""
    captions: Literal["all", "first"] = "all"
    """Which of a picture's captions are trained on."""
    longest: int = 256
    """A caption with more tokens is left out."""
    train: Trained = "connector+gpt2"
    """What learns; "all" is the image tower too."""
    rates: Rates = field(default_factory=Rates)
    augment: bool = False
    """Crop and light the training pictures at random; never mirrored, as captions say "left"."""
    features: Literal["auto", "on", "off"] = "auto"
    """Keep what a frozen tower says of each picture on the disk instead of computing it anew each
    time: where pictures are seen twice or more, nothing is augmented and the disk has the room."""
    features_folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where they are kept, for several runs; RUN/features where not given."""
    workers: int = 2
    """Processes that decode pictures ahead of the steps."""
    validate_on: int = 256
    """Captions of the validation side whose loss is computed, spread evenly over it."""
    samples: int = 32
    """Pictures of that side that are captioned at each validation."""
    tensorboard: bool = True
    """Write RUN/tensorboard too, where TensorBoard is installed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("longest", "validate_on"):
            self.check_positive(name)
        for name in ("workers", "samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"got --{name} {getattr(self, name)}, wanted 0 or more; raise it.")
        if self.model is not None and (self.random_init or self.gpt2 or self.tower):
            raise ValueError(
                "--model brings all its parts; leave out --random-init, --gpt2 and --tower, or it."
            )
        if self.features == "on" and (self.augment or self.train == "all"):
            raise ValueError(
                "--features on is for a frozen tower and pictures that stay as they are; leave it"
                " out, or --augment and --train all."
            )
