"""A captioner at its true size with random numbers: does it fit, how fast is it, is it right?

    python -m benchmarks.true_size                       # bf16, fp32, twin: up to 6 GB
    python -m benchmarks.true_size --what bf16 --picture PHOTOGRAPH
    python -m benchmarks.true_size --what train          # 16 GB, and 25 GB on the disk

Each part is a process of its own and a line of JSON. GPT-2's vocabulary must be at hand, in
TIKTOKEN_CACHE_DIR or the weights cache. "peak" is the largest resident size, in GB.

    bf16, fp32  builds, then captions one picture, greedily, to the last token that is asked for
    twin        fp32: image tokens, logits, captions against transformers with the same numbers
    train       three steps of connector+gpt2 in bf16, two pictures at once, activations computed
                again; killed after the first checkpoint, and taken up again by a second process
"""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from captioning.scenes.draw import draw
from weights.console import run_command

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from captioning.model import Captioner

What = Literal["bf16", "fp32", "twin", "train"]
Result = dict[str, Any]


@dataclass(frozen=True)
class TrueSize:
    """What to measure, of which preset, on which picture."""

    what: tuple[What, ...] = ("bf16", "fp32", "twin")
    """Parts, in this order."""
    preset: str = "article"
    """One that `python -m captioning presets` shows."""
    picture: Path | None = None
    """A photograph; a drawn scene where not given."""
    new_tokens: int = 20
    """Tokens of the caption."""
    threads: int = 2
    """Cores that torch may use."""
    disk: Path | None = None
    """Where `train` may put 25 GB for a while; where temporary files go, if not given."""

    def run(self) -> None:
        for what in self.what:
            # Not a fork: its largest resident size would begin at this process's.
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                result = pool.submit(PARTS[what], self, what).result()
            sys.stdout.write(json.dumps({"what": what, "preset": self.preset} | result) + "\n")
            sys.stdout.flush()


def peak(process: int | str = "self") -> float:
    """GB that a process held at most. Linux alone tells."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def timed(function: Callable[..., Any], *inputs: Any, **options: Any) -> tuple[Any, float]:
    """What a function gives, and the seconds that it took."""
    start = time.perf_counter()
    result = function(*inputs, **options)
    return result, time.perf_counter() - start


def picture_of(settings: TrueSize) -> Image.Image:
    """The photograph that was named, or a scene."""
    if settings.picture is None:
        return draw(0).image
    from PIL import Image

    with Image.open(settings.picture) as opened:
        return opened.convert("RGB")


def built(settings: TrueSize, dtype: torch.dtype) -> tuple[Captioner, Result]:
    """The captioner, and what building it took."""
    import torch

    from captioning.build import build_captioner, count_parts

    torch.set_num_threads(settings.threads)
    captioner, seconds = timed(build_captioner, settings.preset, random_init=True, dtype=dtype)
    counts = {name: c.trainable + c.frozen for name, c in count_parts(captioner).items()}
    size = sum(t.nbytes for t in [*captioner.parameters(), *captioner.buffers()]) / 1e9
    figures = {"parameters": counts, "model_gb": round(size, 3), "build_seconds": round(seconds, 2)}
    return captioner, figures | {"build_peak_gb": round(peak(), 3)}


def caption(settings: TrueSize, what: str) -> Result:
    """Build in a precision and caption one picture."""
    import torch

    from gpt2_scratch.generate import generate

    captioner, figures = built(settings, {"bf16": torch.bfloat16, "fp32": torch.float32}[what])
    image = picture_of(settings)
    with torch.inference_mode():
        pixels = captioner.pixels([image])
        tokens, seeing = timed(captioner.image_tokens, pixels)
        ids, saying = timed(generate, captioner.gpt2, tokens, settings.new_tokens)
        captions, whole = timed(captioner.caption, [image], max_new_tokens=settings.new_tokens)
    assert torch.isfinite(tokens).all()
    assert captions == [captioner.tokenizer.decode(until_end(ids[0].tolist(), captioner)).strip()]
    return figures | {
        "image_tokens": tokens.shape[1],
        "image_seconds": round(seeing, 2),
        "caption_seconds": round(whole, 2),
        "tokens_a_second": round(ids.shape[1] / saying, 2),
        "peak_gb": round(peak(), 3),
        "caption": captions[0],
    }


def until_end(ids: list[int], captioner: Captioner) -> list[int]:
    """The ids before the end token."""
    end = captioner.tokenizer.end
    return ids[: ids.index(end)] if end in ids else ids


def twin(settings: TrueSize, what: str) -> Result:
    """How far ours is from transformers with the same numbers, as shares of the largest number."""
    import torch

    from captioning.systems.hf_twin import HFTwin
    from gpt2_scratch.generate import generate

    captioner, figures = built(settings, torch.float32)
    theirs = HFTwin(captioner)
    with torch.inference_mode():
        pixels = captioner.pixels([picture_of(settings)])
        tokens, wanted = captioner.image_tokens(pixels), theirs.image_tokens(pixels)
        logits = captioner.gpt2.forward_embeddings(tokens)
        expected = theirs.gpt2(inputs_embeds=wanted).logits
        ids = generate(captioner.gpt2, tokens, settings.new_tokens, end=theirs.end)
        losses = [
            model.loss_sum(pixels, ids, torch.tensor([ids.shape[1]]))
            for model in (captioner, theirs)
        ]
    pairs = {
        "image_tokens": (tokens, wanted),
        "logits": (logits, expected),
        "loss": (losses[0][0], losses[1]),
    }
    gaps = {name: float((a - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}
    same = torch.equal(ids, theirs.greedy(pixels, settings.new_tokens))
    return figures | {
        "relative_difference": gaps,
        "same_greedy_caption": same,
        "peak_gb": round(peak(), 3),
    }


STEPS, PICTURES = 3, 2  # a step


def train(settings: TrueSize, what: str) -> Result:
    """The command `train`, killed as soon as its first checkpoint lies there, then once more."""
    with tempfile.TemporaryDirectory(dir=settings.disk) as place:
        data, run = Path(place) / "data", Path(place) / "run"
        data.mkdir()
        for number in range(STEPS * PICTURES):
            scene = draw(number)
            scene.image.save(data / f"{number}.png")
            (data / f"{number}.txt").write_text(scene.caption + "\n", "utf-8")
        words = ["-m", "captioning", "train", "--preset", settings.preset, "--random-init"]
        words += ["--data", str(data), "--split", "none", "--out", str(run), "--steps", str(STEPS)]
        words += ["--train", "connector+gpt2", "--batch", str(PICTURES), "--micro-batch"]
        words += [str(PICTURES), "--precision", "bf16", "--checkpointing", "on", "--workers", "0"]
        words += ["--checkpoint-minutes", "0", "--device", "cpu", "--features", "off"]
        words += ["--validate-every", str(STEPS), "--validate-on", "2", "--samples", "1"]
        figures: Result = {}
        for name, until in (("killed", run / "checkpoint.pt"), ("resumed", None)):
            start = time.perf_counter()
            code, most = watched(words, settings.threads, until)
            seconds = round(time.perf_counter() - start, 1)
            figures[name] = {"exit": code, "peak_gb": round(most, 3), "seconds": seconds}
            figures[name]["steps"] = steps_in(run / "log.csv")
        figures["run_gb"] = {
            path.name: round(path.stat().st_size / 1e9, 3)
            for path in sorted(run.rglob("*"))
            if path.is_file() and path.stat().st_size > 1e7
        }
    return figures


def watched(words: list[str], threads: int, until: Path | None) -> tuple[int, float]:
    """Exit code and GB of a Python that runs `words`, killed as soon as `until` is there."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen([sys.executable, *words], env=environment, stdout=sys.stderr) as running:
        most = 0.0
        while running.poll() is None:
            with contextlib.suppress(OSError, IndexError):  # it ended, or is ending
                most = max(most, peak(running.pid))
            if until is not None and until.exists():
                running.kill()
            time.sleep(0.2)
    return running.returncode, most


def steps_in(log: Path) -> list[dict[str, float]]:
    """Number, loss and seconds of each step that a run's log holds."""
    with log.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in ("step", "loss", "seconds")} for row in rows]


PARTS: dict[str, Callable[[TrueSize, str], Result]] = {
    "bf16": caption,
    "fp32": caption,
    "twin": twin,
    "train": train,
}

if __name__ == "__main__":
    sys.exit(run_command(lambda: tyro.cli(TrueSize, description=__doc__).run()))
