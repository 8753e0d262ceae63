"""A picture as the tower takes it: a square by one of three ways, CLIP's mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from connector.config import ResizeMode

# B batch

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, per channel
DEVIATION = (0.26862954, 0.26130258, 0.27577711)

BICUBIC = Image.Resampling.BICUBIC  # Pillow's widens with the scale: antialiased
WHOLE = 2**24  # pixels of a resized picture that is held whole: an aspect ratio of 148 at 336


def preprocess(images: Sequence[Image.Image], size: int, mode: ResizeMode = "clip") -> Tensor:
    """RGB pictures -> (B, 3, size, size), float32, normalised."""
    pixels = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        row.copy_(torch.from_numpy(resize_and_crop(image, size, mode)).permute(2, 0, 1))
    return normalise(pixels)


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (B, 3, size, size) -> the same, float32, by CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return pixels.float().div_(255).sub_(mean).div_(deviation)


def resize_and_crop(
    image: Image.Image, size: int, mode: ResizeMode = "clip"
) -> npt.NDArray[np.uint8]:
    """An RGB picture -> (size, size, 3) uint8, before normalisation.

    `clip` keeps the aspect ratio and crops the centre; `squash` is torchvision's
    `Resize((size, size))`, bilinear, which loses the ratio and nothing of the picture; `pad`
    resizes the longer side and fills up with CLIP's mean colour.
    """
    if image.mode != "RGB":
        raise ValueError(
            f"picture has mode {image.mode!r}, wanted 'RGB'. Use image.convert('RGB')."
        )
    width, height = image.size
    if min(width, height) < 1:
        raise ValueError(f"picture is {width} x {height}, wanted at least one pixel.")
    if mode not in SQUARES:
        raise ValueError(f"mode={mode!r}: must be one of {tuple(SQUARES)}.")
    return SQUARES[mode](image, size)


def crop(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """The middle of a picture whose shorter side became `size`."""
    width, height = image.size
    short = min(width, height)
    wide, high = size * width // short, size * height // short
    # Halves to even, as torchvision; transformers rounds them down, a pixel apart on some pictures.
    left, top = round((wide - size) / 2), round((high - size) / 2)
    if wide * high <= WHOLE:
        resized = image.resize((wide, high), BICUBIC)
        return np.array(resized.crop((left, top, left + size, top + size)))
    # A strip of 1 x 5000 would become 336 x 1,680,000: one axis at a time, of the middle alone.
    first, last, x = seen(left, size, width / wide)
    above, below, y = seen(top, size, height / high)
    middle = image.crop((first, above, min(last, width), min(below, height)))
    columns = middle.resize((size, middle.height), BICUBIC, (x[0], 0, x[1], middle.height))
    return np.array(columns.resize((size, size), BICUBIC, (0, y[0], size, y[1])))


def seen(start: int, size: int, scale: float) -> tuple[int, int, tuple[float, float]]:
    """First and last pixel that BICUBIC looks at for `size` new ones from the new one `start` on,
    `scale` to one, and where those begin and end, counted from that first one.

    Counted from 0, the ends of a long side would be more than Pillow's float32 can tell apart.
    """
    reach = math.ceil(2 * max(scale, 1)) + 1
    first = max(0, math.floor(start * scale) - reach)
    last = math.ceil((start + size) * scale) + reach
    return first, last, (start * scale - first, (start + size) * scale - first)


def squash(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """The whole picture, its sides made equal."""
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR))


def pad(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """The whole picture in the middle of a square, its longer side made `size`."""
    longer = max(image.size)
    width, height = (max(1, round(size * side / longer)) for side in image.size)
    square = Image.new("RGB", (size, size), tuple(round(255 * mean) for mean in MEAN))
    resized = image.resize((width, height), BICUBIC)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return np.array(square)


SQUARES: dict[str, Callable[[Image.Image, int], npt.NDArray[np.uint8]]] = {
    "clip": crop,
    "squash": squash,
    "pad": pad,
}
