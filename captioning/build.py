"""A captioner from a preset: two large parts from files or random numbers, a new connector between.

Nothing is held twice: each part is made without numbers, then given those of its file or drawn ones
in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from captioning.config import CaptionerConfig, TokenizerKind
from captioning.model import Captioner, load_captioner
from captioning.presets import Preset, find_preset
from connector.config import ConnectorConfig, VisionConfig
from connector.connector import Connector
from connector.vision import ClipVision
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.layouts import find_folder, has_own_tokenizer, load_tokenizer, recognise
from gpt2_scratch.loader import load_gpt2, random_gpt2
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import Tokenizer
from weights.cache import cache_folder, is_whole, locate
from weights.manifest import entries, find

PARTS = ("vision", "connector", "gpt2")
Drawn = TypeVar("Drawn", ClipVision, Connector)
Place = str | Path


@dataclass(frozen=True)
class Count:
    """How many numbers of a part learn, and how many do not."""

    trainable: int
    frozen: int


def build_captioner(
    preset: str | Preset,
    *,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    gpt2: Place | None = None,
    clip: Place | None = None,
) -> Captioner:
    """A captioner in eval mode whose connector has learned nothing yet.

    `gpt2` and `clip` are names in the cache or folders, whose sizes then replace the preset's; with
    `random_init` what they do not name is drawn from `seed`, on `device`. `dtype=None`: GPT-2's
    own. FileNotFoundError says what to fetch.
    """
    preset = find_preset(preset) if isinstance(preset, str) else preset
    if not random_init:
        clip, gpt2 = clip or preset.clip, gpt2 or preset.gpt2
        check_there(preset, clip, gpt2)
    sizes = preset.sizes
    language, tokenizer, kind = language_model(sizes.gpt2, gpt2, preset.gpt2, seed, dtype, device)
    dtype = language.wte.weight.dtype
    vision = tower(sizes.vision, clip, seed, dtype, device)
    sizes = replace(fitted(sizes, vision.config, language.config), tokenizer=kind)
    connector = new_connector(
        sizes.connector, language.wte.weight.float().std().item(), seed, dtype, device
    )
    captioner = Captioner(vision, connector, language, tokenizer, sizes)
    captioner.familiarity.to(device)
    return captioner.eval()


def fitted(sizes: CaptionerConfig, vision: VisionConfig, gpt2: GPT2Config) -> CaptionerConfig:
    """The same captioner around these parts; ValueError where they cannot be joined so."""
    connector = replace(
        sizes.connector,
        vision_width=vision.width,
        depth=vision.layers,
        patches=vision.patches,
        out=gpt2.n_embd,
    )
    return replace(sizes, vision=vision, connector=connector, gpt2=gpt2)


def check_there(preset: Preset, clip: Place, gpt2: Place) -> None:
    """FileNotFoundError for what is to come from the cache and is not there, before any is read."""
    missing = [
        str(name)
        for name in (clip, gpt2)
        if name in entries() and not any(map(is_whole, find(str(name)).sources))
    ]
    if missing:
        fetch = ", ".join(f"python -m weights fetch {name}" for name in missing)
        raise FileNotFoundError(
            f"preset {preset.name!r} needs {' and '.join(missing)}, and {cache_folder()} holds"
            f" {'neither' if len(missing) == 2 else 'no such files, or not all'}. Run: {fetch};"
            " or name folders that hold them; or take --random-init for random numbers of the same"
            " sizes."
        )


def language_model(
    config: GPT2Config,
    place: Place | None,
    published: str,
    seed: int,
    dtype: torch.dtype | None,
    device: str | torch.device,
) -> tuple[GPT2, Tokenizer, TokenizerKind]:
    """The GPT-2 of a folder, or a drawn one without, and the tokenizer that belongs to it."""
    if place is None:
        folder = find_folder("scenes") if published == "scenes" else cache_folder() / published
        try:
            tokenizer = load_tokenizer(folder, config.n_vocab)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the vocabulary that goes with {published} is not here. Run: python -m weights"
                f" fetch gpt2-vocab. ({error})"
            ) from error
        generator = torch.Generator(device).manual_seed(seed)
        dtype = dtype or torch.float32
        model = random_gpt2(config, dtype=dtype, device=device, generator=generator)
    else:
        folder = find_folder(place)
        tokenizer = load_tokenizer(folder, recognise(folder).config.n_vocab)
        model = load_gpt2(place, dtype=dtype, device=device, attention=config.attention)
    return model, tokenizer, "bpe" if has_own_tokenizer(folder) else "gpt2"


def tower(
    config: VisionConfig,
    place: Place | None,
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
) -> ClipVision:
    """The image tower of a folder, or a drawn one without."""
    if place is None:
        return drawn(lambda: ClipVision(config), ClipVision.initialise, seed, dtype, device).eval()
    if place == "scenes":
        return load_captioner("scenes").vision.to(device, dtype)
    folder = locate(str(place)) if place in entries() else Path(place).expanduser()
    return ClipVision.from_folder(folder, dtype=dtype, device=device).eval()


def new_connector(
    config: ConnectorConfig,
    scale: float,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Connector:
    """A connector whose image tokens begin at `scale`, that of the words they will stand beside."""

    def initialise(connector: Connector, generator: torch.Generator) -> None:
        parts = [p for p in connector.modules() if isinstance(p, nn.Linear | nn.Conv1d)]
        for part in parts:
            part.weight.normal_(std=part.weight[0].numel() ** -0.5, generator=generator)
            assert part.bias is not None
            part.bias.zero_()
        leave = connector.dense.projection[-1]  # the article's LayerNorm, the paper's Linear
        assert isinstance(leave, nn.LayerNorm | nn.Linear)
        if isinstance(leave, nn.LayerNorm):
            leave.weight.fill_(1.0)
            leave.bias.zero_()
        leave.weight.mul_(scale)

    return drawn(lambda: Connector(config), initialise, seed, dtype, device).eval()


@torch.no_grad()
def drawn(
    make: Callable[[], Drawn],
    initialise: Callable[[Drawn, torch.Generator], None],
    seed: int,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Drawn:
    """A part in the memory that its parameters take and no more, drawn from a seed of its own."""
    with torch.device("meta"):
        part = make().to(dtype)
    part.to_empty(device=device)
    initialise(part, torch.Generator(device).manual_seed(seed))
    return part


def count_parts(captioner: Captioner) -> dict[str, Count]:
    """What learns and what does not, of the tower, the connector and the language model."""
    counts = {}
    for name in PARTS:
        parameters = list(getattr(captioner, name).parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        counts[name] = Count(trainable, sum(p.numel() for p in parameters) - trainable)
    return counts


def describe_parts(captioner: Captioner) -> str:
    """The same as a table, with the bytes that each part takes."""
    counts = count_parts(captioner)
    lines = [f"{'part':<12}{'trainable':>15}{'frozen':>15}{'MB':>9}  numbers"]
    total = [0, 0, 0]
    for name, count in counts.items():
        parameters = list(getattr(captioner, name).parameters())
        size = sum(p.nbytes for p in parameters)
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
        row = (count.trainable, count.frozen, size)
        total = [a + b for a, b in zip(total, row, strict=True)]
        lines.append(_row(name, row) + f"  {', '.join(kinds)}")
    return "\n".join([*lines, _row("all", total)])


def _row(name: str, row: list[int] | tuple[int, ...]) -> str:
    trainable, frozen, size = row
    return f"{name:<12}{trainable:>15,}{frozen:>15,}{size / 1e6:>9,.1f}"
