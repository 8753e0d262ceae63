"""New scenes, drawn and captioned: as text for the terminal and as one page of HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from captioning.evaluate import HELD_OUT
from captioning.scenes.draw import Scene, draw
from captioning.scenes.facts import Score, explain, read_facts, score_facts
from weights.console import one_line

if TYPE_CHECKING:
    from captioning.model import Captioner

LIMITS = (
    "The embedded model knows only drawn scenes like these and can't describe a photograph. A"
    " captioner for photographs (CLIP ViT-L/14-336 and GPT-2 Large, in the same code) has to be"
    " trained on captioned photographs first, by python -m captioning train; then:"
)
COMMAND = "python -m captioning caption PHOTO --model RUN/model"


@dataclass(frozen=True)
class Shown:
    """A scene that was drawn, the file it lies in, and what was said of it."""

    path: Path
    scene: Scene
    said: str

    @cached_property
    def score(self) -> Score:
        return score_facts(read_facts(self.said), (self.scene.facts, self.scene.background))

    @cached_property
    def verdicts(self) -> list[tuple[str, list[tuple[str, bool]]]]:
        """What was said and whether it is right, by topic: ("object 1", [("large", True), ...])."""
        facts = explain(read_facts(self.said), (self.scene.facts, self.scene.background))
        rows = [(*fact.rpartition(": ")[::2], right) for fact, right in facts]
        return [
            (topic or "count", [(fact, right) for _, fact, right in group])
            for topic, group in groupby(rows, key=lambda row: row[0])
        ]

    @property
    def data(self) -> str:
        """The picture in a page: a PNG as base64."""
        held = io.BytesIO()
        self.scene.image.save(held, "PNG")
        return base64.b64encode(held.getvalue()).decode()


def caption_new_scenes(captioner: Captioner, seed: int, n: int, folder: Path) -> list[Shown]:
    """Draws n scenes that no model was trained on, writes them into `folder`, captions them."""
    scenes = [draw((HELD_OUT, seed, i)) for i in range(n)]
    captions = captioner.caption([scene.image for scene in scenes])
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for number, (scene, said) in enumerate(zip(scenes, captions, strict=True), 1):
        path = folder / f"scene-{number}.png"
        scene.image.save(path)
        shown.append(Shown(path, scene, said))
    return shown


def tally(shown: Sequence[Shown]) -> str:
    """How much was right, in a line."""
    exact = sum(one.score.exact for one in shown)
    right = sum(one.score.right for one in shown)
    drawn = sum(one.score.drawn for one in shown)
    return f"{right} of {drawn} facts right, {exact} of {len(shown)} scenes told exactly"


def as_text(shown: Sequence[Shown]) -> str:
    """A paragraph a scene: path, drawn, said, each fact; then the tally."""
    paragraphs = []
    for one in shown:
        lines = [
            one_line(one.path),
            f"  drawn  {one.scene.caption}",
            f"  said   {one_line(one.said)}",
        ]
        for topic, facts in one.verdicts:
            marks = "  ".join(f"{'✓' if right else '✗'} {fact}" for fact, right in facts)
            lines.append(f"         {topic + ':':<12}{marks}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join([*paragraphs, tally(shown)])


def as_page(shown: Sequence[Shown], seed: int) -> str:
    """One HTML file that needs no other: the pictures lie in it as base64."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        files("captioning").joinpath("demo.html").read_text("utf-8")
    )
    return page.render(shown=shown, seed=seed, tally=tally(shown), limits=LIMITS, command=COMMAND)
