"""How much of a drawn scene a captioner says rightly, and whether it looks at the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from PIL import Image
from tqdm import tqdm

from captioning.scenes.draw import draw
from captioning.scenes.facts import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Reading,
    explain,
    read_facts,
    score_facts,
    summarise,
)

if TYPE_CHECKING:
    from captioning.model import Captioner, Decoding

SCENES = 500
HELD_OUT = 2  # the first number of a seed that is for looking at a model, never for training it
GREY = Image.new("RGB", (64, 64), (128, 128, 128))

_KINDS = {
    word: kind
    for kind, words in {
        "background": BACKGROUNDS,
        "colour": COLOURS,
        "shape": SHAPES,
        "size": SIZES,
        "place": PLACES,
    }.items()
    for word in words
}


def evaluate_scenes(
    captioner: Captioner,
    n: int = SCENES,
    seed: int = 0,
    batch_size: int = 50,
    **options: Unpack[Decoding],
) -> dict[str, Any]:
    """Captions scenes (HELD_OUT, seed, 0) to (HELD_OUT, seed, n - 1) and scores the captions.

    Facts are pooled over all scenes; `recall_by_kind` is the share of the drawn ones that was said.
    Pictures are drawn batch by batch, none is kept. ValueError for fewer than two scenes.
    """
    if n < 2:
        raise ValueError(
            f"got {n} scenes, wanted at least 2, as each caption is also scored against another"
            " scene; draw more."
        )
    said: list[Reading] = []
    drawn: list[Reading] = []
    with tqdm(total=n, unit="scene", disable=None) as progress:  # None: not where no terminal is
        for start in range(0, n, batch_size):
            scenes = [draw((HELD_OUT, seed, i)) for i in range(start, min(start + batch_size, n))]
            captions = captioner.caption([scene.image for scene in scenes], **options)
            said += [read_facts(caption) for caption in captions]
            drawn += [(scene.facts, scene.background) for scene in scenes]
            progress.update(len(scenes))
    (grey,) = captioner.caption([GREY], **options)
    others = drawn[1:] + drawn[:1]  # each caption against the next scene
    blank = [read_facts(grey)] * n
    return {
        **summarise(map(score_facts, said, drawn)),
        "recall_by_kind": _recall_by_kind(said, drawn),
        "facts_f1_shuffled": summarise(map(score_facts, said, others))["facts_f1"],
        "facts_f1_blank": summarise(map(score_facts, blank, drawn))["facts_f1"],
    }


def _recall_by_kind(said: Sequence[Reading], drawn: Sequence[Reading]) -> dict[str, float]:
    right: Counter[str] = Counter()
    for one, other in zip(said, drawn, strict=True):
        for fact, is_right in explain(one, other):
            # "object 1: red" is a colour, "background: sky" a background, "2 objects" the count
            right[_KINDS.get(fact.rpartition(": ")[2], "count")] += is_right
    objects = sum(len(facts) for facts, _ in drawn)
    each = {"count": len(drawn), "background": len(drawn)}
    kinds = ("count", "size", "colour", "shape", "place", "background")
    return {kind: right[kind] / each.get(kind, objects) for kind in kinds}
