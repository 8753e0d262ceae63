"""The six backgrounds, each a cheap texture of smooth noise, waves or masonry."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image


class Texture(NamedTuple):
    """A background's colour and how its pattern, `shade`, lightens and darkens it."""

    paint: tuple[int, int, int]
    tint: tuple[int, int, int]  # what a shade of 1 adds
    shade: Callable[[np.random.Generator, int], np.ndarray]  # (size, size), about -1 to 1


def _soft(rng: np.random.Generator, rows: int, columns: int, size: int) -> np.ndarray:
    """(size, size) smooth noise from -1 to 1: this many random values each way, blended."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _masonry(
    rng: np.random.Generator, rows: int, columns: int, shift: float, joint: float, size: int
) -> np.ndarray:
    """(size, size) courses of blocks, each of its own shade, with light joints between them."""
    x, y = rng.random(2)
    down = np.arange(size) / size * rows + y
    course = down.astype(int)
    across = np.arange(size) / size * columns + x + shift * course[:, None]
    column = across.astype(int)
    shades = rng.uniform(-0.6, 0.2, (rows + 1, column.max() + 1))
    wall = shades[course[:, None], column]  # (size, size)
    wall[(down % 1 < joint * rows)[:, None] | (across % 1 < joint * columns)] = 1
    return (wall + 0.15 * _soft(rng, size // 4, size // 4, size)).astype(np.float32)


def _sky(rng: np.random.Generator, size: int) -> np.ndarray:
    clouds = 0.7 * _soft(rng, 5, 3, size) + 0.3 * _soft(rng, 12, 7, size)
    return clouds + np.linspace(-0.4, 0.4, size, dtype=np.float32)[:, None]


def _grass(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.8 * _soft(rng, 24, 80, size) + 0.3 * _soft(rng, 4, 4, size)


def _sand(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.6 * _soft(rng, 80, 80, size) + 0.4 * _soft(rng, 5, 5, size)


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    sway = 2.5 * _soft(rng, 5, 4, size)
    waves = np.linspace(0, 14 * 2 * math.pi, size, dtype=np.float32)[:, None]
    return 0.7 * np.sin(waves + sway + np.float32(rng.uniform(0, 6))) + 0.2 * _soft(
        rng, 40, 10, size
    )


def _bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    return _masonry(rng, 12, 6, 0.5, 0.012, size)


def _stones(rng: np.random.Generator, size: int) -> np.ndarray:
    return -_masonry(rng, 5, 5, 0.0, 0.016, size)


# Of mid lightness and little saturation, so that each of the eight colours stands out on each.
TEXTURES = {
    "sky": Texture((128, 166, 196), (20, 16, 10), _sky),
    "grass": Texture((122, 144, 84), (24, 24, 20), _grass),
    "sand": Texture((184, 160, 124), (16, 16, 14), _sand),
    "water": Texture((92, 146, 152), (18, 18, 18), _water),
    "bricks": Texture((158, 118, 102), (24, 26, 26), _bricks),
    "stones": Texture((142, 140, 136), (24, 24, 24), _stones),
}
