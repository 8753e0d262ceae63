"""`finetune`: a GPT-2 goes on learning, from text of your own."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from gpt2_scratch.training.settings import FinetuneConfig
from weights.console import check_device, one_line


@dataclass(frozen=True)
class Finetune(FinetuneConfig):
    """Train a GPT-2 on text, on one GPU or on the CPU; killed at any moment, it goes on.

    RUN gets model/ (Hugging Face's layout, which `generate --model RUN/model` takes; the weights of
    the best validation), log.csv, validation.csv, samples.txt, the last checkpoint and the best.
    Type the same command again to go on. Exit code: 0 when done; 143 after SIGTERM, 130 after
    Ctrl-C, both saved; 2 for what you can put right.
    """

    plan: bool = False
    """Only say what fits into the memory of common GPUs and of this machine, and how long it takes.
    Needs neither text nor weights."""

    def run(self) -> int:
        import torch

        from gpt2_scratch.training.device import best_device
        from gpt2_scratch.training.stopping import Stopped

        device = self.device or best_device()
        check_device(device)
        try:
            if self.plan:
                self._plan(device)
            else:
                self._train(device)
        except Stopped as stopped:
            say(str(stopped))
            return stopped.signal_number + 128
        except FloatingPointError as error:
            raise ValueError(str(error)) from None
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{device} ran out of memory ({str(error).splitlines()[0]}). Take fewer windows at"
                " once (--micro-batch), --checkpointing on, or --train lora; the checkpoint stays."
            ) from None
        return 0

    def _train(self, device: str) -> None:
        from gpt2_scratch.commands.convert import copy_vocabulary
        from gpt2_scratch.training.finetune import finetune

        model, vocabulary = finetune(self, device, say)
        copy_vocabulary(vocabulary, model)
        say(f'Write with it: python -m gpt2_scratch generate "..." --model {one_line(model)}')

    def _plan(self, device: str) -> None:
        from dataclasses import replace

        from gpt2_scratch.training.device import free_memory, seconds_per_step
        from gpt2_scratch.training.finetune import choose, load_of, sizes
        from gpt2_scratch.training.plan import describe, span, within
        from gpt2_scratch.training.settings import TrainingConfig

        config = sizes(self)
        here = load_of(self, config, device)
        there = replace(here, device="cuda", precision=self.precision or "bf16")
        say(
            f"{self.random_init or self.model}: {config.parameters:,} parameters, training"
            f" {self.train}; {self.batch} windows of {here.length:,} tokens a step,"
            f" {there.precision}\n\n  GPU     at once  accumulate  checkpointing   memory"
        )
        for size, fit in within(there, self.batch):
            row = "does not fit"
            if fit is not None:
                again = "on" if fit.recompute else "off"
                row = (
                    f"{fit.rows:7}  {fit.accumulate:10}  {again:>13}"
                    f"  {fit.memory.total / 1e9:4.1f} GB"
                )
            say(f"{size:4} GB  {row}")
        free = free_memory(device)
        say(f"\nHere: {describe(here, chosen := choose(self, here, free, {}), free)}.")
        here = replace(here, rows=chosen.rows, recompute=chosen.recompute)
        training = TrainingConfig(1, self.batch, precision=here.precision)
        seconds = seconds_per_step(here, training)
        total = f", {span(seconds * self.steps)} in all" if self.steps else ""
        say(f"About {span(seconds)} a step{total}.")


def say(line: str) -> None:
    """A line on stdout, above the progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()
