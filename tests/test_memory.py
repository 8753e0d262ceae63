"""GPT-2 Large in the memory that its parameters take, and hardly more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc. Run on Linux: make test-all")
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
