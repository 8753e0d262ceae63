"""Pictures that are no scenes, drawn here: what the embedded model must not pretend to know.

Textures, noise, gradients, and scenes cut into squares and shuffled. No photograph among them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from captioning.scenes.draw import SIDE, draw

UNFAMILIAR = 6  # the first number of these pictures' seeds


def unfamiliar(seed: int, index: int, size: int = SIDE) -> Image.Image:
    """Picture `index` of a seed, RGB, size x size; the kinds take turns."""
    rng = np.random.default_rng((UNFAMILIAR, seed, index))
    picture = KINDS[index % len(KINDS)](rng, size)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """White noise of any strength around any colour."""
    colour, strength = rng.uniform(0, 255, 3), rng.uniform(20, 120)
    return rng.normal(colour, strength, (size, size, 3))


def _blobs(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of many scales added up, as in clouds, stone and leaves."""
    picture = np.full((size, size, 3), rng.uniform(60, 200, 3))
    slope = rng.uniform(0.4, 1.2)
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = rng.normal(0, 90 / cells**slope, (cells, cells, 3))
        picture += np.stack([_enlarge(coarse[..., c], size) for c in range(3)], -1)
    return picture


def _waves(rng: np.random.Generator, size: int) -> np.ndarray:
    """A few gratings of any direction and colour across each other."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.full((size, size, 3), rng.uniform(60, 200, 3))
    for _ in range(rng.integers(1, 5)):
        angle, cycles = rng.uniform(0, np.pi), rng.uniform(1, 40)
        phase = 2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6)
        picture += np.sin(phase)[..., None] * rng.normal(0, 50, 3)
    return picture


def _patches(rng: np.random.Generator, size: int) -> np.ndarray:
    """A scene cut into squares and put together in another order."""
    picture = np.asarray(draw((UNFAMILIAR, int(rng.integers(2**31))), size).image)
    cells = int(rng.choice([3, 4, 6, 8, 12]))
    side = size // cells
    squares = picture[: side * cells, : side * cells].reshape(cells, side, cells, side, 3)
    squares = squares.swapaxes(1, 2).reshape(-1, side, side, 3)[rng.permutation(cells**2)]
    whole = squares.reshape(cells, cells, side, side, 3).swapaxes(1, 2)
    whole = whole.reshape(side * cells, side * cells, 3)
    return np.asarray(Image.fromarray(whole).resize((size, size)))


def _collage(rng: np.random.Generator, size: int) -> np.ndarray:
    """Many soft-edged regions of any colour over one another, as in a room or a street."""
    picture = _blobs(rng, size)
    y, x = np.mgrid[:size, :size] / size
    for _ in range(rng.integers(5, 40)):
        turn, aspect, reach = rng.uniform(0, np.pi), rng.uniform(0.2, 1), rng.uniform(0.03, 0.5)
        dx, dy = x - rng.random(), y - rng.random()
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / reach
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / (reach * aspect)
        power = rng.choice([2, 8])  # an ellipse or a rounded box
        edge = (u**power + v**power - 1) * rng.uniform(3, 60)
        inside = 1 / (1 + np.exp(edge.clip(-50, 50)))
        shade = rng.uniform(0, 255, 3) + (dx * rng.normal(0, 80))[..., None]
        picture += inside[..., None] * (shade - picture)
    return picture + rng.normal(0, rng.uniform(0, 12), picture.shape)


def _enlarge(coarse: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(coarse.astype(np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


Kind = Callable[[np.random.Generator, int], np.ndarray]
KINDS: tuple[Kind, ...] = (_noise, _blobs, _waves, _patches, _collage)
