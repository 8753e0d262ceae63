"""`make bench-gpu`: what training steps take on this GPU, beside what the planner said they would.

Models of random numbers at true size; nothing is read or fetched. Ends by itself within four
minutes. One table on stdout, and the same as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from captioning.config import Trained
from captioning.presets import find_preset
from captioning.trained import prepare
from captioning.training.forward import computing_loss as caption_loss
from captioning.training.plan import make_load
from captioning.training.speed import random_batch, random_captioner
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import random_gpt2
from gpt2_scratch.training.language import computing_loss as language_loss
from gpt2_scratch.training.loop import begin, train_step
from gpt2_scratch.training.lora import add_lora
from gpt2_scratch.training.plan import CUDA_CONTEXT, Load, estimate
from gpt2_scratch.training.settings import LoRAConfig, Precision, TrainingConfig

STEPS = 3  # timed, after a first one that makes the optimizer's numbers
MOST = 0.93  # of the GPU: a case that is planned above is left out


@dataclass(frozen=True)
class Case:
    """One way to train. `train`: of GPT-2 alone "gpt2" or "lora", of a preset what learns.

    `length` are a window's tokens, or a caption's.
    """

    model: str
    train: str
    rows: int
    length: int
    precision: Precision = "bf16"
    recompute: bool = False
    features: bool = False


@dataclass(frozen=True)
class Result:
    """Bytes planned and measured (torch's peak and the CUDA context), and seconds a step."""

    case: Case
    planned: float
    measured: float
    reserved: float
    seconds: float
    note: str = ""


CASES = (
    Case("gpt2", "gpt2", 8, 1024),
    Case("gpt2", "gpt2", 8, 1024, recompute=True),
    Case("gpt2", "gpt2", 32, 256),
    Case("gpt2", "gpt2", 4, 1024, "fp32"),
    Case("gpt2", "gpt2", 8, 1024, "fp16"),
    Case("gpt2", "lora", 8, 1024),
    Case("gpt2-large", "gpt2", 4, 1024),
    Case("gpt2-large", "gpt2", 8, 1024, recompute=True),
    Case("gpt2-large", "lora", 4, 1024),
    Case("article-small", "connector+gpt2", 32, 64),
    Case("article-small", "connector", 32, 64),
    Case("article", "connector", 16, 64),
    Case("article", "connector", 32, 64, features=True),
    Case("article", "connector+lora", 16, 64),
    Case("article", "connector+gpt2", 4, 64),
    Case("article", "connector+gpt2", 16, 64),
    Case("article", "connector+gpt2", 16, 64, "fp16"),
    Case("article", "connector+gpt2", 4, 64, "fp32"),
    Case("article", "connector+gpt2", 32, 64, recompute=True),
    Case("article", "connector+gpt2", 8, 256),
    Case("article", "all", 8, 64),
    Case("article", "all", 4, 64, "fp32"),
    Case("article", "all", 16, 64, recompute=True),
    Case("efficient", "connector+gpt2", 16, 64),
    Case("dci", "connector+gpt2", 4, 64),
    Case("dci", "connector+gpt2", 8, 64, recompute=True),
    Case("dci", "connector", 8, 64),
    Case("sti", "connector+lora", 4, 64),
)


def load_of(case: Case) -> Load:
    """What the planner is asked."""
    if case.model.startswith("gpt2"):
        lora = LoRAConfig() if case.train == "lora" else None
        config = GPT2Config.preset(case.model)
        return Load(config, case.length, case.rows, case.precision, case.recompute, lora)
    trained: Trained = case.train  # type: ignore[assignment]
    return make_load(
        find_preset(case.model).sizes,
        trained,
        case.precision,
        "cuda",
        rows=case.rows,
        longest=case.length,
        features=case.features,
        recompute=case.recompute,
    )


def steps(case: Case, device: str) -> float:
    """Seconds of a step, the mean of some."""
    config = TrainingConfig(1, case.rows, precision=case.precision)
    if case.model.startswith("gpt2"):
        model = random_gpt2(GPT2Config.preset(case.model), device=device).train()
        if case.train == "lora":
            add_lora(model, LoRAConfig())
        ids = torch.randint(model.config.n_vocab, (case.rows, case.length + 1))
        with language_loss(model, case.recompute) as loss_of:
            return timed(model, loss_of, ids, config)
    sizes = find_preset(case.model).sizes
    captioner = random_captioner(sizes, device)
    trained: Trained = case.train  # type: ignore[assignment]
    prepare(captioner, trained)
    batch = random_batch(sizes, case.rows, case.length, features=case.features)
    with caption_loss(captioner.train(), recompute=case.recompute) as loss_of:
        return timed(captioner, loss_of, batch, config)


def timed(
    module: torch.nn.Module, loss_of: Callable[[Any], Any], batch: Any, config: TrainingConfig
) -> float:
    run = begin(module, config, "")

    def step() -> None:
        train_step(module, loss_of, [batch], run.optimizers, config, run.scaler)

    step()
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return (time.monotonic() - began) / STEPS


def measure(case: Case, device: str, context: float) -> Result:
    """One case, on a GPU that holds nothing else of this process."""
    planned = estimate(load_of(case)).total
    if planned > MOST * torch.cuda.mem_get_info()[1]:
        return Result(case, planned, 0, 0, 0, "planned above what this GPU has")
    note, seconds = "", 0.0
    torch.cuda.reset_peak_memory_stats()
    try:
        seconds = steps(case, device)
    except torch.OutOfMemoryError:
        note = "out of memory"
    measured = torch.cuda.max_memory_allocated() + context
    reserved = torch.cuda.max_memory_reserved() + context
    gc.collect()
    torch.cuda.empty_cache()
    return Result(case, planned, measured, reserved, seconds, note)


def context_of(device: str) -> float:
    """Bytes that CUDA and its libraries take for themselves, once a product has been computed."""
    x = torch.ones(64, 64, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        x.to(dtype) @ x.to(dtype)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return float(total - free - torch.cuda.memory_reserved())


def line(result: Result) -> str:
    case = result.case
    told = [case.precision, *("again",) * case.recompute, *("features",) * case.features]
    start = (
        f"{case.model:<14}{case.train:<16}{case.rows:>4} x{case.length:>5}  {' '.join(told):<14}"
    )
    if result.note:
        return f"{start}{result.planned / 1e9:8.2f}  {result.note}"
    return (
        f"{start}{result.planned / 1e9:8.2f}{result.measured / 1e9:9.2f}"
        f"{result.planned / result.measured:7.3f}{result.reserved / 1e9:9.2f}"
        f"{result.seconds:9.3f}{case.rows / result.seconds:9.1f}"
    )


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Bench:
    """Plan and measure training steps on this GPU."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("bench-gpu.json")
    """Where the JSON goes."""
    seconds: float = 220.0
    """No case begins after so many seconds."""
    only: str = ""
    """Cases whose line holds this alone, such as "article" or "lora"."""

    def run(self) -> int:
        if not torch.cuda.is_available():
            sys.exit("There is no CUDA here; this measures a GPU.")
        began, device = time.monotonic(), "cuda"
        context = context_of(device)
        name, total = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        tell(f"{name}, {total / 1e9:.1f} GB; torch {torch.__version__}; GB, seconds")
        tell(f"CUDA's own: {context / 1e9:.2f} measured, {CUDA_CONTEXT / 1e9:.2f} planned\n")
        tell(
            f"{'model':<14}{'trained':<16}{'rows x tokens':<12} {'how':<14}{'planned':>8}"
            f"{'measured':>9}{'ratio':>7}{'reserved':>9}{'a step':>9}{'rows/s':>9}"
        )
        results = []
        for case in CASES:
            if self.only not in f"{case}":
                continue
            if time.monotonic() - began > self.seconds:
                tell("The time is up; the rest is left out.")
                break
            results.append(measure(case, device, context))
            tell(line(results[-1]))
        held = {
            "device": name,
            "memory": total,
            "context": context,
            "torch": torch.__version__,
            "results": [asdict(result) for result in results],
        }
        self.out.write_text(json.dumps(held, indent=2) + "\n")
        ratios = [r.planned / r.measured for r in results if not r.note]
        within = sum(0.85 < ratio < 1.15 for ratio in ratios)
        tell(
            f"\n{within} of {len(ratios)} estimates within 15 %, from {min(ratios):.3f} to"
            f" {max(ratios):.3f}; {time.monotonic() - began:.0f} s; also in {self.out}"
        )
        return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(Bench).run())
