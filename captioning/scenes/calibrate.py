"""Which pictures does the embedded model know? Learned from scenes and drawn non-scenes alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

from captioning.familiarity import statistics
from captioning.model import Captioner
from captioning.scenes.draw import draw
from captioning.scenes.unfamiliar import unfamiliar

CALIBRATION = 5  # the first number of these scenes' seeds
REFUSED = 0.01  # of scenes, the share that may be called unfamiliar
# Of non-scenes, the share that may lie among the scenes: one in five is a scene, shuffled.
NEAR = 0.25


@torch.inference_mode()
def gather(
    captioner: Captioner, picture: Callable[[int], Image.Image], n: int, batch: int = 50
) -> torch.Tensor:
    """Statistics of pictures 0 to n - 1: (n, 4 W)."""
    rows = []
    for start in range(0, n, batch):
        images = [picture(i) for i in range(start, min(start + batch, n))]
        rows.append(statistics(captioner.vision.hidden_states(captioner.pixels(images))))
    return torch.cat(rows)


def calibrate(captioner: Captioner, n: int = 3000) -> None:
    """Fit `captioner.familiarity`: to n scenes, then its bound to others and to n / 5 non-scenes.

    The bound lies halfway (in log distance) between the scenes' 99th percentile and the non-scenes'
    lower quartile, where these lie apart, and at the former otherwise.
    """
    familiarity = captioner.familiarity
    familiarity.fit(gather(captioner, lambda i: draw((CALIBRATION, 0, i)).image, n))
    scenes = gather(captioner, lambda i: draw((CALIBRATION, 1, i)).image, n // 3)
    others = gather(captioner, lambda i: unfamiliar(0, i), n // 5)
    inner = familiarity.distance(scenes).quantile(1 - REFUSED)
    outer = familiarity.distance(others).quantile(NEAR)
    familiarity.bound.copy_((inner + outer) / 2 if outer > inner else inner)
    # A scene at the 99th percentile scores 0.73 and a non-scene at that quartile 0.27.
    familiarity.slope.copy_(2 / (outer - inner).abs().clamp(min=0.1))
