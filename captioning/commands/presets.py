"""`presets`: the captioners that there are, with their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

import tyro

from captioning.config import Trained
from captioning.presets import PRESETS, Preset, as_dict, find_preset
from weights.store import to_json

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Presets:
    """Show the captioners that `--preset` can name: parts, image tokens, and what can learn."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = ()
    """Which of them; all where none is named."""
    json: bool = False
    """Every size, as JSON."""

    def run(self) -> int:
        chosen = [find_preset(name) for name in self.names] or list(PRESETS.values())
        if self.json:
            print(to_json([as_dict(preset) for preset in chosen]), end="")
        else:
            show(chosen)
        return 0


def show(presets: list[Preset]) -> None:
    """Two tables: what each is made of, and how many numbers learn."""
    from rich.console import Console

    parts = table("Presets", "preset", "what it is", "image tower", "states", "tokens", "language")
    for preset in presets:
        sizes = preset.sizes
        states, tokens = str(sizes.vision.layers + 1), str(sizes.connector.tokens)
        tower = preset.clip.removeprefix("clip-")
        parts.add_row(preset.name, preset.title, tower, states, tokens, preset.gpt2)
    trained = get_args(Trained)
    heads = [name.replace("connector+", "\n+ ") for name in trained]
    title = "Millions of numbers in each part, and how many learn, by what is trained"
    numbers = table(title, "preset", "CLIP", "connector", "GPT-2", "learn:", *heads)
    for preset in presets:
        learn = [sum(preset.trainable(name).values()) for name in trained]
        held, learning = (
            [f"{number / 1e6:,.2f}" for number in row]
            for row in (preset.parameters().values(), learn)
        )
        numbers.add_row(preset.name, *held, "", *learning)
    Console(highlight=False).print(parts, "", numbers, sep="\n")


def table(title: str, *heads: str) -> Table:
    """An empty table whose columns of numbers are flush right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for head in heads:
        words = head in ("preset", "what it is", "image tower", "language")
        made.add_column(head, justify="left" if words else "right", no_wrap=True)
    return made
