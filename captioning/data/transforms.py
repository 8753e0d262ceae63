"""How a picture becomes a square of bytes: CLIP's crop, the article's squashing, or padding.

Augmentation is for training alone, and a function of a seed: the same picture at the same place of
a run is always changed in the same way, whichever process does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from connector.config import ResizeMode
from connector.preprocess import resize_and_crop


@dataclass(frozen=True)
class Augmentation:
    """Random crops and light; never a mirror image, as captions say "on the left".

    `crop` is the smallest share of the area that is kept, `ratio` how far the crop's aspect may
    leave the picture's, `light` how far brightness and contrast may go from 1.
    """

    crop: float = 0.8
    ratio: float = 1.15
    light: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.crop <= 1 <= self.ratio and 0 <= self.light < 1):
            raise ValueError(f"{self}: wanted 0 < crop <= 1 <= ratio and 0 <= light < 1.")

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """A changed RGB picture, of about the old size."""
        area, stretch = random.uniform(self.crop, 1), self.ratio ** random.uniform(-1, 1)
        width = max(1, min(image.width, round(image.width * (area * stretch) ** 0.5)))
        height = max(1, min(image.height, round(image.height * (area / stretch) ** 0.5)))
        left = int(random.integers(image.width - width + 1))
        top = int(random.integers(image.height - height + 1))
        image = image.crop((left, top, left + width, top + height))
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = kind(image).enhance(1 + self.light * random.uniform(-1, 1))
        return image


@dataclass(frozen=True)
class Transform:
    """A picture of any size -> (size, size, 3) uint8; `connector.preprocess.normalise` follows.

    `connector.preprocess` says what the modes are.
    """

    size: int
    mode: ResizeMode = "clip"
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(ResizeMode):
            raise ValueError(f"mode={self.mode!r}: choose of {get_args(ResizeMode)}.")

    @property
    def key(self) -> dict[str, Any]:
        """What decides the pixels, for a cache."""
        return asdict(self)

    def __call__(
        self, image: Image.Image, seed: Sequence[int] | None = None
    ) -> npt.NDArray[np.uint8]:
        """`seed`, whole numbers of at least 0, is what training gives: without it nothing is
        augmented."""
        if self.augment is not None and seed is not None:
            image = self.augment(image, np.random.default_rng(seed))
        return resize_and_crop(image, self.size, self.mode)
