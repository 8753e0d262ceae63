"""Scenes drawn from a seed: first the layout (facts and geometry), then the picture.

`compose` costs no pixel, so that a language model can read captions by the million;
`draw` paints what `compose` laid out. Lengths are shares of the picture's side, y points down.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from captioning.scenes.backgrounds import TEXTURES
from captioning.scenes.facts import (
    BACKGROUNDS,
    COLOURS,
    MOST_OBJECTS,
    PLACES,
    SHAPES,
    SIZES,
    Fact,
    describe,
    in_order,
)
from captioning.scenes.shapes import contains, outline, paint, rotation, samples

SIDE = 192  # pixels of a picture's side
DIAMETERS = {"small": (0.08, 0.14), "large": (0.20, 0.30)}  # longer side of the object's box
PLACE_MARGIN = 0.025  # between a centre and the border of two place words
FRAME = 0.005  # between an object and the picture's edge
MOST_OVERLAP = 0.30  # of any object's area, by all others together
SLACK = 0.02  # the error of measuring it on sample points
TILT = math.radians(20)  # beyond this a square is a diamond and a cross an X
TRIES = 40  # positions tried before the places are drawn anew

PAINTS = {
    "red": (214, 28, 36),
    "orange": (248, 128, 16),
    "yellow": (252, 226, 36),
    "green": (12, 128, 44),
    "blue": (28, 56, 214),
    "purple": (134, 32, 164),
    "white": (246, 246, 246),
    "black": (14, 14, 14),
}
PAINT_JITTER = 9  # of 255, each channel
NOISE = 8  # of 255, each pixel


class Item(NamedTuple):
    """An object where it lies; its box is `diameter` long, its corners are `radius` away."""

    fact: Fact
    x: float
    y: float
    diameter: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Layout:
    """A scene before it is painted: its objects in the caption's order."""

    items: tuple[Item, ...]
    background: str

    @property
    def facts(self) -> list[Fact]:
        return [item.fact for item in self.items]

    @property
    def caption(self) -> str:
        return describe(self.facts, self.background)


@dataclass(frozen=True)
class Scene:
    """A picture, what it shows and the caption that says so."""

    image: Image.Image
    caption: str
    facts: list[Fact]
    background: str


def compose(seed: int | Sequence[int]) -> Layout:
    """The layout of `draw(seed)`, without its picture."""
    return _compose(_generator(seed))


def draw(seed: int | Sequence[int], size: int = SIDE) -> Scene:
    """The scene of a seed (a whole number >= 0, or several, such as (run, index))."""
    rng = _generator(seed)
    layout = _compose(rng)
    return Scene(render(layout, rng, size), layout.caption, layout.facts, layout.background)


def draw_alone(seed: int | Sequence[int], shape: str, size: int = SIDE) -> tuple[Scene, Item]:
    """A scene of one object, and where it lies: its other facts are the seed's, its shape is given.

    The background is the seed's too; angle, exact place, shades and noise are each shape's own.
    """
    rng = _generator(seed)
    codes = rng.integers((len(SIZES), len(COLOURS), len(PLACES), len(BACKGROUNDS))).tolist()
    size_word, colour, place = SIZES[codes[0]], COLOURS[codes[1]], PLACES[codes[2]]
    background = BACKGROUNDS[codes[3]]
    rng = rng.spawn(len(SHAPES))[SHAPES.index(shape)]
    fact = (size_word, colour, shape, place)
    form = _form(size_word, shape, *rng.random(2).tolist())
    x0, x1, y0, y1 = _area(place, form)
    u, v = rng.random(2).tolist()
    item = Item(fact, x0 + u * (x1 - x0), y0 + v * (y1 - y0), *form[:3])
    layout = Layout((item,), background)
    return Scene(render(layout, rng, size), layout.caption, layout.facts, background), item


def write_scenes(folder: str | Path, n: int, seed: int = 0, size: int = SIDE) -> Path:
    """Writes scenes (seed, 0) to (seed, n - 1) as PNGs; returns the captions.jsonl beside them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(n):
        scene = draw((seed, index), size)
        name = f"{index:06d}.png"
        scene.image.save(folder / name)
        entry = {"file_name": name, "caption": scene.caption, "facts": scene.facts}
        lines.append(json.dumps({**entry, "background": scene.background}) + "\n")
    captions = folder / "captions.jsonl"
    captions.write_text("".join(lines), encoding="utf-8")
    return captions


def _generator(seed: int | Sequence[int]) -> np.random.Generator:
    words = [seed] if isinstance(seed, int | np.integer) else list(seed)
    # The length comes first because numpy takes 7, (7,) and (7, 0) for the same seed.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([len(words), *words])))


# ---- layout ------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """An object without its place: its size, its angle and its box around (0, 0)."""

    diameter: float
    radius: float
    angle: float
    box: tuple[float, float, float, float]  # left, right, top, bottom


def _compose(rng: np.random.Generator) -> Layout:
    kinds = (len(SIZES), len(COLOURS), len(SHAPES))
    n = int(rng.integers(1, MOST_OBJECTS + 1))
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    facts: list[Fact] = []
    while len(set(facts)) < n:  # no two objects of a scene share all four facts
        codes = rng.integers((*kinds, len(PLACES)), size=(n, 4)).tolist()
        facts = [(SIZES[s], COLOURS[c], SHAPES[h], PLACES[p]) for s, c, h, p in codes]
    forms = [_form(size, shape, *rng.random(2).tolist()) for size, _, shape, _ in facts]
    while True:
        areas = [_area(fact[3], form) for fact, form in zip(facts, forms, strict=True)]
        for _ in range(TRIES):
            places = rng.random((n, 2)).tolist()
            items = [
                Item(fact, x0 + u * (x1 - x0), y0 + v * (y1 - y0), *form[:3])
                for fact, form, (x0, x1, y0, y1), (u, v) in zip(
                    facts, forms, areas, places, strict=True
                )
            ]
            if all(share <= MOST_OVERLAP - SLACK for share in _covered(items)):
                order = in_order(facts)
                items.sort(key=lambda item: order.index(item.fact))
                return Layout(tuple(items), background)
        facts = _elsewhere(facts, rng)


def _elsewhere(facts: list[Fact], rng: np.random.Generator) -> list[Fact]:
    """New places for all, where they were too crowded: each look stays as likely as it was."""
    moved: list[Fact] = []
    while len(set(moved)) < len(facts):
        places = rng.integers(len(PLACES), size=len(facts)).tolist()
        moved = [(*fact[:3], PLACES[place]) for fact, place in zip(facts, places, strict=True)]
    return moved


def _form(size: str, shape: str, u: float, v: float) -> _Form:
    low, high = DIAMETERS[size]
    diameter = low + u * (high - low)
    angle = (2 * v - 1) * (TILT if shape in ("square", "cross") else math.pi)
    corners = outline(shape) @ rotation(angle).T
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    radius = diameter / max(right - left, bottom - top)
    box = (left * radius, right * radius, top * radius, bottom * radius)
    return _Form(diameter, radius, angle, box)


def _area(place: str, form: _Form) -> tuple[float, float, float, float]:
    """Where the centre may be (x from, to, y from, to): in its third and wholly in the picture."""
    row, column = divmod(PLACES.index(place), 3)
    left, right, top, bottom = form.box
    return (
        max(column / 3 + PLACE_MARGIN, FRAME - left),
        min((column + 1) / 3 - PLACE_MARGIN, 1 - FRAME - right),
        max(row / 3 + PLACE_MARGIN, FRAME - top),
        min((row + 1) / 3 - PLACE_MARGIN, 1 - FRAME - bottom),
    )


def _covered(items: Sequence[Item]) -> list[float]:
    """The share of each object's area that lies in the others, whichever is on top."""
    shares = []
    for i, item in enumerate(items):
        near = [
            other
            for j, other in enumerate(items)
            if j != i
            and math.hypot(item.x - other.x, item.y - other.y) < item.radius + other.radius
        ]
        if not near:
            shares.append(0.0)
            continue
        inside = samples(item.fact[2])
        covered = np.zeros(len(inside), dtype=bool)
        for other in near:
            # from this object's own frame, where it is upright and of radius 1, to the other's
            turn = rotation(item.angle - other.angle) * (item.radius / other.radius)
            shift = rotation(-other.angle) @ (item.x - other.x, item.y - other.y) / other.radius
            covered |= contains(other.fact[2], inside @ turn.T + shift)
        shares.append(float(covered.mean()))
    return shares


# ---- painting ----------------------------------------------------------------------------------

SUPERSAMPLE = 4


def render(layout: Layout, rng: np.random.Generator, size: int = SIDE) -> Image.Image:
    """The picture of a layout: `size` x `size`, RGB; small objects lie on large ones."""
    texture = TEXTURES[layout.background]
    shade = texture.shade(rng, size)
    # Colours come first, as in torch: numpy is three times as fast on whole planes.
    picture = _column(texture.tint) * shade + _column(texture.paint, rng)  # (3, size, size)
    for item in sorted(layout.items, key=lambda item: -item.diameter):
        left, top, cover = _cover(item, size)
        box = picture[:, top : top + cover.shape[0], left : left + cover.shape[1]]
        box += cover * (_column(PAINTS[item.fact[1]], rng) - box)
    picture += rng.integers(-NOISE, NOISE + 1, (size, size), dtype=np.int8)
    planes = picture.clip(0, 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _column(colour: Sequence[float], jitter: np.random.Generator | None = None) -> np.ndarray:
    """(3, 1, 1): a colour as it meets planes, with a generator a little off."""
    column = np.array(colour, dtype=np.float32)[:, None, None]
    if jitter is not None:
        column += jitter.uniform(-PAINT_JITTER, PAINT_JITTER, (3, 1, 1)).astype(np.float32)
    return column


def _cover(item: Item, size: int) -> tuple[int, int, np.ndarray]:
    """The share of each pixel that an object covers, in its own box: (left, top, array)."""
    reach = item.radius * size
    left, top = (max(0, math.floor(c * size - reach)) for c in (item.x, item.y))
    side = 2 * math.ceil(reach) + 1
    centre = SUPERSAMPLE * np.array([item.x * size - left, item.y * size - top])
    corners = outline(item.fact[2]) @ rotation(item.angle).T * (SUPERSAMPLE * reach) + centre
    # Pillow counts from the centre of its first pixel, we from the edge.
    mask = paint(item.fact[2], corners - 0.5, centre - 0.5, SUPERSAMPLE * side)
    cover = np.asarray(mask.reduce(SUPERSAMPLE), dtype=np.float32) / 255
    return left, top, cover[: size - top, : size - left]
