"""The six shapes as outlines and masks, upright around (0, 0), y pointing down."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

RADIUS, REACH = 62, 64  # cells of a shape's stencil from its centre to its corner, to its edge
RING_HOLE = 0.58  # of the ring's radius
STAR_WAIST = 0.42  # of the star's radius
CROSS_ARM = 0.34  # half an arm's width, of its length


def rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@cache
def outline(shape: str) -> np.ndarray:
    """(corners, 2): the shape upright, its centre at 0, its farthest corner at distance 1."""
    if shape == "square":
        points = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif shape == "cross":
        a = CROSS_ARM
        quarter = [(-a, -1.0), (a, -1.0), (a, -a)]
        points = []
        for _ in range(4):
            points += quarter
            quarter = [(-y, x) for x, y in quarter]
    else:
        n = {"triangle": 3, "star": 10}.get(shape, 48)
        points = [(math.sin(2 * math.pi * k / n), -math.cos(2 * math.pi * k / n)) for k in range(n)]
        if shape == "star":
            points[1::2] = [(STAR_WAIST * x, STAR_WAIST * y) for x, y in points[1::2]]
    corners = np.array(points)
    return corners / np.hypot(*corners.T).max()


def paint(shape: str, corners: np.ndarray, centre: np.ndarray, side: int) -> Image.Image:
    """A mask of `side` pixels, 255 inside the shape, its outline and centre at these pixels."""
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    pen.polygon(corners.ravel().tolist(), fill=255)
    if shape == "ring":
        pen.polygon((centre + RING_HOLE * (corners - centre)).ravel().tolist(), fill=0)
    return mask


@cache
def _stencil(shape: str) -> np.ndarray:
    """(2 * REACH, 2 * REACH) booleans: the upright shape at RADIUS cells, its border empty."""
    centre = np.array([REACH, REACH])
    return np.array(paint(shape, centre + RADIUS * outline(shape), centre, 2 * REACH)) > 0


def contains(shape: str, points: np.ndarray) -> np.ndarray:
    """(points, 2) -> (points,): which of them lie in the upright shape of radius 1."""
    cells = (points * RADIUS + REACH).clip(0, 2 * REACH - 1).astype(int)
    return _stencil(shape)[cells[:, 1], cells[:, 0]]


@cache
def samples(shape: str) -> np.ndarray:
    """(points, 2): a fine grid of points inside the upright shape of radius 1."""
    rows, columns = np.nonzero(_stencil(shape)[::4, ::4])
    return (np.stack([columns, rows], axis=1) * 4 + 0.5 - REACH) / RADIUS
