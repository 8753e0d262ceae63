"""`train`: a captioner learns from captioned pictures, on one device or on many."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from captioning.training.settings import CaptionTraining
from weights.console import check_device, one_line


@dataclass(frozen=True)
class Train(CaptionTraining):
    """Train a captioner on captioned pictures; killed at any moment, it goes on.

    RUN gets model/ (the best weights), curves.png, log.csv, validation.csv, looks.csv,
    samples.txt, tensorboard/, left-out.txt, the last checkpoint and the best. The same command,
    or `--resume`, goes on. On several GPUs: torchrun --nproc-per-node N -m captioning train ...
    Exit code: 0 when done; 143 after SIGTERM, 130 after Ctrl-C, both saved; 2 for a mistake.
    """

    def run(self) -> int:
        from captioning.training.record import resumed
        from captioning.training.run import train_captioner
        from gpt2_scratch.training.device import best_device
        from gpt2_scratch.training.parallel import joined, world
        from gpt2_scratch.training.stopping import Stopped, at_its_limits

        settings = resumed(self) if self.resume else self
        device = settings.device or best_device()
        check_device(device)
        less = "fewer pictures at once (--micro-batch), --checkpointing on, or a smaller --train"
        with at_its_limits(device, settings.out, less), joined(device) as device:
            say = _say if world().leads else _silent
            try:
                model = one_line(train_captioner(settings, device, say))
            except Stopped as stopped:
                say(str(stopped))
                return stopped.signal_number + 128
            say(f"Caption with it: python -m captioning caption PICTURE --model {model}")
        return 0


def _say(line: str) -> None:
    """A line on stdout, above the progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def _silent(line: str) -> None:
    """Of several processes one speaks."""
