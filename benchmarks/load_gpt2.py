"""How long a GPT-2 takes to load, and in how much memory, from both published layouts.

    python benchmarks/load_gpt2.py                        # gpt2-large, in a temporary folder
    python benchmarks/load_gpt2.py --folder FOLDER        # keeps the files there, or finds them

Each line is a process of its own on files that the system has cached. Peaks are the largest
resident size minus that right after the imports, in parameter bytes; pages of a mapped file count
once they are touched, which "in use" does with every number.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import tyro

from benchmarks.make_openai_folder import MakeFolder
from weights.console import run_command

# Arguments: what to do, the folder, the dtype or "None". Prints seconds, bytes and both peaks.
CHILD = """
import json, sys, time
from pathlib import Path

import torch
from safetensors.torch import load_file
from gpt2_scratch.loader import load_gpt2

what, folder, dtype = sys.argv[1:]
dtype = getattr(torch, dtype) if dtype != "None" else None

def resident(entry):
    return int(Path("/proc/self/status").read_text().split(entry + ":")[1].split()[0]) * 1024

def load():
    if what == "ours":
        return list(load_gpt2(folder, dtype=dtype).parameters())
    return [t.clone() for t in load_file(Path(folder) / "model.safetensors").values()]

before = resident("VmRSS")
start = time.perf_counter()
held = load()
seconds = time.perf_counter() - start
peak = resident("VmHWM") - before  # not ru_maxrss, which begins at the parent's
for tensor in held:
    tensor.detach().view(torch.uint8).max()
used = resident("VmHWM") - before
size = sum(t.nbytes for t in held)
print(json.dumps({"seconds": seconds, "bytes": size, "peak": peak / size, "in_use": used / size}))
"""


def measure(what: Literal["ours", "copied"], folder: Path, dtype: str | None) -> dict[str, Any]:
    """Load once in a process of its own: `seconds`, `bytes`, `peak` and `in_use`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, what, str(folder), str(dtype)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(f"loading {folder} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


@dataclass(frozen=True)
class LoadBenchmark:
    """Make a model of random numbers in both layouts, unless it is there, and load it each way."""

    folder: Path | None = None
    """Where the files are or go, twice the model's size; a temporary folder where not given."""
    preset: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] = "gpt2-large"
    """The sizes of the model."""
    repeats: int = 3
    """Of each line; the fastest counts."""

    def run(self) -> None:
        with TemporaryDirectory() if self.folder is None else nullcontext(self.folder) as place:
            openai, huggingface = Path(place) / "openai", Path(place) / "huggingface"
            if not openai.exists():
                MakeFolder(out=openai, preset=self.preset).run()
            if not huggingface.exists():
                words = ["-m", "gpt2_scratch", "convert", str(openai), str(huggingface)]
                subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            for file in (*openai.glob("*.data-*"), huggingface / "model.safetensors"):
                warm(file)
            copied = self.line("load_file and a copy", "copied", huggingface, None)
            for name, folder in (("safetensors", huggingface), ("TensorFlow", openai)):
                for dtype in (None, "float32", "bfloat16"):
                    self.line(f"{name}, dtype={dtype}", "ours", folder, dtype, copied)

    def line(
        self,
        name: str,
        what: Literal["ours", "copied"],
        folder: Path,
        dtype: str | None,
        copied: float | None = None,
    ) -> float:
        """Print one line of the table and return its seconds."""
        runs = [measure(what, folder, dtype) for _ in range(self.repeats)]
        seconds = min(run["seconds"] for run in runs)
        ratio = f"{seconds / copied:6.2f} x" if copied else "        "
        peak, used = (max(run[key] for run in runs) for key in ("peak", "in_use"))
        sys.stdout.write(
            f"{name:<28} {seconds:7.2f} s {ratio}   peak {peak:5.3f}   in use {used:5.3f}"
            f"   of {runs[0]['bytes'] / 1e6:,.0f} MB\n"
        )
        sys.stdout.flush()
        return seconds


def warm(file: Path) -> None:
    """Read a file once, so that the system has it cached."""
    with file.open("rb", buffering=0) as opened:
        while opened.read(1 << 24):
            pass


if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(LoadBenchmark, description=__doc__).run()))
