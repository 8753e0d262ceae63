"""`finetune`: a GPT-2 goes on learning, from text of your own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from gpt2_scratch.training.settings import FinetuneConfig
from weights.console import check_device, one_line


@dataclass(frozen=True)
class Finetune(FinetuneConfig):
    """Train a GPT-2 on text, on GPUs or on the CPU; killed at any moment, it goes on.

    RUN gets model/ (Hugging Face's layout, for `generate --model RUN/model`; of the best
    validation), log.csv, validation.csv, samples.txt, the last checkpoint and the best. The same
    command goes on. On several GPUs: torchrun --nproc-per-node N -m gpt2_scratch finetune ...
    Exit code: 0 when done; 143 after SIGTERM, 130 after Ctrl-C, both saved; 2 for a mistake.
    """

    plan: bool = False
    """Only say what fits into the memory of common GPUs and of this machine, and how long it takes.
    Needs neither text nor weights."""

    def run(self) -> int:
        from gpt2_scratch.training.device import best_device
        from gpt2_scratch.training.parallel import joined, world
        from gpt2_scratch.training.stopping import Stopped, at_its_limits

        device = self.device or best_device()
        check_device(device)
        less = "fewer windows at once (--micro-batch), --checkpointing on, or --train lora"
        with at_its_limits(device, self.out, less), joined(device) as device:
            tell = say if world().leads else silent
            if self.plan:
                self._plan(device, tell)
                return 0
            try:
                self._train(device, tell)
            except Stopped as stopped:
                tell(str(stopped))
                return stopped.signal_number + 128
        return 0

    def _train(self, device: str, tell: Callable[[str], None]) -> None:
        from gpt2_scratch.commands.convert import copy_vocabulary
        from gpt2_scratch.training.finetune import finetune
        from gpt2_scratch.training.parallel import by_the_first

        model, vocabulary = finetune(self, device, tell)
        by_the_first(lambda: copy_vocabulary(vocabulary, model))
        tell(f'Write with it: python -m gpt2_scratch generate "..." --model {one_line(model)}')

    def _plan(self, device: str, tell: Callable[[str], None]) -> None:
        from dataclasses import replace

        from gpt2_scratch.training.device import free_memory, seconds_per_step
        from gpt2_scratch.training.finetune import chosen_plan, load_of, sizes
        from gpt2_scratch.training.plan import describe, span, table
        from gpt2_scratch.training.settings import TrainingConfig

        config = sizes(self)
        here = load_of(self, config, device)
        there = replace(here, device="cuda", precision=self.precision or "bf16")
        tell(
            f"{self.random_init or self.model}: {config.parameters:,} parameters, training"
            f" {self.train}; {self.batch} windows of {here.length:,} tokens a step,"
            f" {there.precision}\n\n{table(there, self.batch)}"
        )
        free = free_memory(device)
        chosen = chosen_plan(self, here, free, {})
        tell(f"\nHere: {describe(here, chosen, free)}.")
        here = replace(here, rows=chosen.rows, recompute=chosen.recompute)
        training = TrainingConfig(1, self.batch, precision=here.precision)
        seconds = seconds_per_step(here, training)
        total = f", {span(seconds * self.steps)} in all" if self.steps else ""
        tell(f"About {span(seconds)} a step{total}.")


def say(line: str) -> None:
    """A line on stdout, above the progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def silent(line: str) -> None:
    """Of several processes one speaks."""
