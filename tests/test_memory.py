"""GPT-2 Large in the memory that its parameters take, and hardly more."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from layouts import write_layout

from benchmarks.load_gpt2 import measure, warm
from benchmarks.make_openai_folder import MakeFolder
from gpt2_scratch.__main__ import main
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import random_gpt2

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc. Run on Linux: make test-all"
)

# In a process of its own: memory that other tests took, and gave back, is not counted.
SCRIPT = """
import json, sys
from pathlib import Path

import torch
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.generate import generate
from gpt2_scratch.loader import random_gpt2

def kilobytes(entry):
    status = Path("/proc/self/status").read_text()
    return int(status.split(entry + ":")[1].split()[0])

before = kilobytes("VmRSS")
model = random_gpt2(GPT2Config.preset("gpt2-large"), dtype=getattr(torch, sys.argv[1]))
peak = kilobytes("VmHWM")  # of this process; imports alone never come near it
new = generate(model, torch.tensor([[1, 2, 3], [4, 5, 6]]), 5)
size = sum(p.nbytes for p in model.parameters())
print(json.dumps({"peak": (peak - before) * 1024, "parameters": size, "shape": new.shape}))
"""


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_large_is_built_once_and_generates(root: Path, dtype: str, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, dtype],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["parameters"] == 774_030_080 * size
    assert seen["shape"] == [2, 5]
    # One more copy of any size would be 2.0; a float32 detour of bfloat16, 3.0.
    sys.stdout.write(f"{dtype}: {seen['peak'] / seen['parameters']:.3f}\n")
    assert 0.9 < seen["peak"] / seen["parameters"] <= 1.1


@LINUX
@pytest.mark.parametrize("layout", ["safetensors", "openai", "bin"])
def test_no_second_copy_while_numbers_change_type(tmp_path: Path, layout: str) -> None:
    """51 MB in float32, of which 26 stay; what torch takes at first use is some 8 MB more."""
    model = random_gpt2(GPT2Config(n_vocab=1000, n_ctx=64, n_embd=512, n_head=8, n_layer=4))
    write_layout(layout, model, tmp_path)
    seen = measure("ours", tmp_path, "bfloat16")
    assert seen["bytes"] == 2 * model.config.parameters
    assert 0.9 < seen["peak"] < 2  # with the whole file at once: 3


# --- GPT-2 Large in both published layouts, 6.2 GB on disk --------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    place = tmp_path_factory.mktemp("large")
    openai, huggingface = place / "openai", place / "huggingface"
    MakeFolder(out=openai, preset="gpt2-large").run()
    assert main(["convert", str(openai), str(huggingface)]) == 0
    for file in (openai / "model.ckpt.data-00000-of-00001", huggingface / "model.safetensors"):
        warm(file)
    yield {"TensorFlow": openai, "safetensors": huggingface}
    for folder in (openai, huggingface):  # pytest would keep them for three runs
        for path in folder.iterdir():
            path.unlink()


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["TensorFlow", "safetensors"])
def test_large_is_loaded_in_the_memory_of_its_parameters(
    large: dict[str, Path], layout: str, dtype: str | None
) -> None:
    seen = measure("ours", large[layout], dtype)
    assert seen["bytes"] == 774_030_080 * (2 if dtype == "bfloat16" else 4)
    sys.stdout.write(f"{layout} {dtype}: {seen}\n")
    # A second copy would be 2; the whole file beside its bfloat16, 3.
    assert seen["peak"] <= 1.15 and 0.9 < seen["in_use"] <= 1.15


@LINUX
@pytest.mark.slow
def test_large_is_loaded_faster_than_it_is_copied(large: dict[str, Path]) -> None:
    ours, copied = (measure(what, large["safetensors"], None) for what in ("ours", "copied"))
    sys.stdout.write(f"{ours['seconds']:.2f} s, load_file and a copy {copied['seconds']:.2f} s\n")
    assert ours["seconds"] < 0.5 * copied["seconds"]  # a twentieth, since nothing is copied
