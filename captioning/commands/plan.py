"""`plan`: what fits into the memory of a GPU, by arithmetic, before anything is bought or begun."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from captioning.commands.shared import at_least
from captioning.config import Trained
from captioning.presets import find_preset
from gpt2_scratch.training.settings import LoRAConfig, Precision

WAYS: tuple[Trained, ...] = ("connector", "connector+lora", "connector+gpt2", "all")
MOST = 1024  # GB; more would be a slip


@dataclass(frozen=True)
class PlanCommand:
    """Which batch, accumulation and checkpointing fit, for each way to train a preset.

    Needs neither weights nor data nor a GPU. 5 % of a GPU is left free, to gaps between tensors.
    """

    preset: Annotated[str, tyro.conf.arg(metavar="article|article-small|dci|...")] = "article"
    """The captioner: python -m captioning presets."""
    gpu: Annotated[float | None, tyro.conf.arg(metavar="GB")] = None
    """Its memory; 8, 12, 16, 24, 40 and 80 where not given."""
    train: Trained | None = None
    """What learns; each way where not given."""
    batch: int = 32
    """Captions a step."""
    longest: int = 64
    """Tokens of the longest caption; Localized Narratives have up to 256, half of them under 40."""
    precision: Precision = "bf16"
    """Of the matrix products."""
    features: bool = False
    """The pictures' features are kept on the disk (`train --features`), so that no tower is run."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, longest=self.longest)
        if self.gpu is not None and not 0 < self.gpu <= MOST:
            raise ValueError(f"got --gpu {self.gpu:g}, wanted gigabytes above 0, such as 24.")

    def run(self) -> int:
        from dataclasses import replace

        from captioning.training.plan import make_load
        from gpt2_scratch.training.plan import GPUS, estimate, within

        sizes = find_preset(self.preset).sizes
        room = sizes.gpt2.n_ctx - sizes.connector.tokens + 1
        if self.longest > room:
            raise ValueError(
                f"got --longest {self.longest}, wanted at most {room}: {sizes.connector.tokens}"
                f" image tokens and the caption share {sizes.gpt2.n_ctx} places. Lower it."
            )
        print(
            f"{self.preset}: {self.batch} captions of up to {self.longest} tokens a step, each"
            f" behind {sizes.connector.tokens} image tokens; {self.precision}\n"
        )
        print("trained          GPU     at once  accumulate  checkpointing   memory")
        for way in (self.train,) if self.train else WAYS:
            load = make_load(
                sizes,
                way,
                self.precision,
                "cuda",
                rows=1,
                longest=self.longest,
                lora=self.lora,
                features=self.features and way != "all",
            )
            for size, fit in within(load, self.batch, (self.gpu,) if self.gpu else GPUS):
                if fit is None:
                    least = estimate(replace(load, recompute=True)).total
                    row = f"does not fit: one caption takes {least / 1e9:.1f} GB"
                else:
                    again = "on" if fit.recompute else "off"
                    row = (
                        f"{fit.rows:7}  {fit.accumulate:10}  {again:>13}"
                        f"  {fit.memory.total / 1e9:4.1f} GB"
                    )
                    if self.gpu:
                        row += f"\n{'':17}{_parts(vars(fit.memory))}"
                print(f"{way:<15}{size:4g} GB  {row}")
        print(
            "\nTrain so: python -m captioning train --preset"
            f" {self.preset} --train WAY --batch {self.batch} --data ... (it plans again, with the"
            " memory that is free then)"
        )
        return 0


def _parts(memory: dict[str, float]) -> str:
    """What the memory is for, the largest first."""
    parts = sorted(memory.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts if size >= 5e6)
