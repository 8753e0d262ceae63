"""`verify` of a tower of ViT-L/14-336's true size, random numbers: time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from connector.config import VisionConfig

LARGE = VisionConfig(
    image_size=336, patch_size=14, width=1024, layers=24, heads=16, quick_gelu=True, projection=768
)
PEAK = 4.2  # GiB: the tower 1.1, what it gave 1.0, imports 0.7 and the work; 3.3 was seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from connector.vision import ClipVision

    place = tmp_path_factory.mktemp("large")
    with torch.device("meta"):
        model = ClipVision(LARGE)
    model.to_empty(device="cpu").initialise(torch.Generator().manual_seed(0))
    model.save(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tower_of_true_size(folder: Path, dtype: str, tmp_path: Path) -> None:
    from PIL import Image

    picture = tmp_path / "a.png"
    Image.radial_gradient("L").resize((500, 400)).save(picture)
    words = ["verify", str(folder), "--image", str(picture), "--dtype", dtype]
    code = [
        "import resource, sys",
        "from connector.__main__ import main",
        f"code = main({words!r})",
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20",
        "print(f'peak {peak:.2f} GiB')",
        "sys.exit(code)",
    ]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=1800
    )
    assert run.returncode == 0, run.stdout + run.stderr
    *_, verdict, peak = run.stdout.splitlines()
    assert verdict == "PASS: 271 of 271 sites pass."
    assert float(peak.split()[1]) < PEAK
