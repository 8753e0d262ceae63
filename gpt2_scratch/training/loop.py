"""The training loop: for GPT-2 alone and for the captioner, killed at any moment and resumed.

A batch is a function of its number, so the data position needs no memory of its own. In several
processes (`parallel`) each computes its share of a step's rows; the step is the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt2_scratch.generate import eval_mode
from gpt2_scratch.training.checkpoint import (
    BEST,
    LAST,
    Run,
    check_space,
    checkpoint_size,
    load_checkpoint,
    locked,
    save_best,
    save_checkpoint,
)
from gpt2_scratch.training.log import Table
from gpt2_scratch.training.optim import build_optimizers, rate_at, set_rate
from gpt2_scratch.training.parallel import (
    by_the_first,
    gathered,
    gradients_kept,
    highest,
    shared,
    summed,
    world,
)
from gpt2_scratch.training.progress import Progress, Step
from gpt2_scratch.training.settings import TrainingConfig as TrainingConfig
from gpt2_scratch.training.sharding import gathered_whole, is_sharded, shard, through, whole
from gpt2_scratch.training.stopping import Stopped, first_not_finite, noting_signals

MOST_SKIPPED = 10  # steps in a row without a finite loss before the run stops
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STREAMS = 1_000_003  # apart are the seeds of two processes
Loss = tuple[torch.Tensor, torch.Tensor | int]
LossOf = Callable[[Any], Loss]


def train(
    module: nn.Module,
    loss_of: LossOf,
    batches: Callable[[int], Iterable[Any]],
    config: TrainingConfig,
    folder: Path,
    *,
    title: str = "training",
    unit: str | None = None,
    tensorboard: bool = False,
    shards: Iterable[nn.Module] | None = None,
    validation: Callable[[], Iterable[Any]] | None = None,
    on_validation: Callable[[int, float], Mapping[str, float] | None] | None = None,
    on_start: Callable[[int], None] | None = None,
    on_skip: Callable[[int, str], None] | None = None,
) -> None:
    """Train `module` for `config.steps`; what `folder` holds of the same run is taken up again.

    `loss_of(batch)` gives the sum of the losses and their number; `batches(n)` this process's
    batches from its number n on, of which a step takes `accumulate`; `validation()` its share of
    those never trained on. Several processes each keep a share of the weights where `shards` names
    the blocks. SIGTERM and Ctrl-C: `Stopped`, after the step is done and saved.
    """
    with locked(folder), noting_signals() as signals:
        if shards is not None and world().size > 1:
            check_shardable(config)
            shard(module, shards)
        run = begin(module, config, title)
        load_checkpoint(folder, run)
        if world().leads and run.step == 0:
            (folder / BEST).unlink(missing_ok=True)  # of a run that came to no checkpoint
        if run.step < config.steps:  # rather now than after an hour
            by_the_first(lambda: check_space(folder / LAST, checkpoint_size(run)))
        if on_start is not None:
            on_start(run.step)
        module.train()

        def validate() -> None:
            if validation is not None:
                more = None
                with whole(module):
                    loss = mean_loss(module, loss_of, validation(), config)
                    note_validation(folder, run.step, loss)
                    progress.flush()  # whoever is told may draw them
                    if on_validation is not None:
                        more = on_validation(run.step, loss)
                keep_best(folder, run, loss)
                progress.add(run.step, {"validation/loss": loss, **(more or {})})
                progress.again()

        with Progress(
            folder,
            title,
            run.step,
            config.steps,
            rows=config.batch,
            unit=unit,
            tensorboard=tensorboard,
            device=device_of(module),
        ) as progress:
            if run.step == 0:
                validate()
            progress.again()
            saved = time.monotonic()
            for step in steps(run, loss_of, batches, config, title, on_skip):
                progress.note(run.step, step)
                last = run.step == config.steps
                if last or (config.validate_every and run.step % config.validate_every == 0):
                    validate()
                now = time.monotonic()
                signal, due = highest(
                    signals[0] if signals else 0,
                    world().leads and now - saved > config.checkpoint_seconds,
                )
                if signal or last or due:
                    progress.flush()
                    save_checkpoint(folder, run)
                    saved = now
                    progress.again()
                if signal and not last:
                    raise Stopped(
                        f"{title} stopped at step {run.step} of {config.steps}, which is saved in"
                        f" {folder}. The same command goes on from there.",
                        int(signal),
                    )
        module.eval()


def check_shardable(config: TrainingConfig) -> None:
    """ValueError for fp16, whose scale each process would change by its own share's overflows."""
    if config.precision == "fp16":
        raise ValueError(
            "fp16 can't be trained in several processes that share out the weights; use --precision"
            " bf16 or fp32, or train less than all."
        )


def begin(module: nn.Module, config: TrainingConfig, title: str) -> Run:
    """A run at step 0, seeded: each process draws other dropout."""
    torch.manual_seed(config.seed + STREAMS * world().rank)
    optimizers = build_optimizers(
        module,
        config.rates,
        weight_decay=config.weight_decay,
        betas=config.betas,
        matrix_rate=config.matrix_rate,
    )
    scaler = torch.amp.GradScaler(device_of(module).type, enabled=config.precision == "fp16")
    return Run(config.identity(title), module, optimizers, scaler)


def steps(
    run: Run,
    loss_of: LossOf,
    batches: Callable[[int], Iterable[Any]],
    config: TrainingConfig,
    title: str,
    on_skip: Callable[[int, str], None] | None = None,
) -> Iterator[Step]:
    """Do the steps that are left, one a turn. A step without a finite loss changes nothing.

    `on_skip` hears of the first of several such, and why. FloatingPointError after 10 in a row,
    with the part of the module where it began.
    """
    left = run.step < config.steps
    stream = iter(batches(run.step * config.accumulate) if left else ())
    skipped, compute = 0, None
    while run.step < config.steps:
        parts = list(islice(stream, config.accumulate))
        if len(parts) < config.accumulate:
            raise ValueError(
                f"{title}: the batches ended at step {run.step} of {config.steps}."
                " Give more of them, or fewer steps."
            )
        if compute is None:
            with autocast(run.module, config):
                sharded = is_sharded(run.module)
                wrap = through if sharded else partial(shared, batch=parts[0])
                compute = wrap(run.module, loss_of)
        share = rate_at(run.step, config.steps, warmup=config.warmup, schedule=config.schedule)
        set_rate(run.optimizers, share)
        loss, norm, tokens = train_step(
            run.module, compute, parts, run.optimizers, config, run.scaler
        )
        run.step += 1
        finite = math.isfinite(loss) and math.isfinite(norm)
        # In fp16 a gradient may overflow by its scale alone; then the scale was halved.
        scaled = math.isfinite(loss) and run.scaler.is_enabled() and run.scaler.get_scale() >= 1
        skipped = 0 if finite or scaled else skipped + 1
        if skipped == 1 and on_skip is not None:
            on_skip(run.step, origin(run.module, loss_of, parts, config))
        if skipped == MOST_SKIPPED:
            raise FloatingPointError(
                f"{title}: the loss or its gradient was not finite in {skipped} steps in a row, the"
                f" last of them step {run.step}; {origin(run.module, loss_of, parts, config)}."
                " Lower the rate, or train in fp32."
            )
        yield Step(loss, norm, tokens, run.optimizers[-1].param_groups[0]["lr"])


def train_step(
    module: nn.Module,
    loss_of: LossOf,
    parts: Sequence[Any],
    optimizers: list[torch.optim.Optimizer],
    config: TrainingConfig,
    scaler: torch.amp.GradScaler,
) -> tuple[float, float, int]:
    """Forward and backward of each part, clip, step: mean loss, gradients' norm, number of losses.

    The mean is over all losses of the step, however they are spread over its parts. Where loss or
    norm is not finite, no parameter changes.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    processes = world().size
    losses, counts = [], []
    first: Any = 1
    for i, part in enumerate(parts):
        with gradients_kept(loss_of) if i + 1 < len(parts) else nullcontext():
            with autocast(module, config):
                total, count = loss_of(part)
            losses.append(total.detach())
            counts.append(count)
            if i == 0:
                # How many the step has is not known yet: the first part's number stands for it.
                if processes > 1:
                    count = summed(torch.as_tensor(count, device=total.device))
                first = count or 1
            loss = total / first
            if processes > 1:
                loss = loss * processes  # for gradients are averaged over them, not added up
            scaler.scale(loss).backward()
    number = int(summed(torch.as_tensor(sum(counts), device=losses[0].device)))
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    if len(parts) > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(int(first)).div_(number)
    norm = gathered_whole(nn.utils.clip_grad_norm_(parameters, config.clip))
    mean = summed(torch.stack(losses).sum()) / number
    finite = bool(torch.isfinite(norm) & torch.isfinite(mean))
    for optimizer in optimizers:
        if finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    scaler.update()
    return mean.item(), norm.item(), number


def origin(module: nn.Module, loss_of: LossOf, parts: Sequence[Any], config: TrainingConfig) -> str:
    """Where in `module` these batches, or another process's, first give something that is not
    finite, in words. All processes must ask."""
    with whole(module), autocast(module, config):
        found = first_not_finite(module, lambda: [loss_of(part)[0] for part in parts])
    name = next((name for name in gathered(found) if name), None)
    return f"it began in {name}" if name else "the outputs of all parts were finite"


@torch.no_grad()
def mean_loss(
    module: nn.Module, loss_of: LossOf, batches: Iterable[Any], config: TrainingConfig
) -> float:
    """The mean loss over all losses of all `batches`, without dropout."""
    total, number = 0.0, 0.0
    with eval_mode(module), autocast(module, config):
        for batch in batches:
            loss, count = loss_of(batch)
            total, number = total + loss.item(), number + int(count)
    total, number = summed(torch.tensor([total, number], dtype=torch.float64)).tolist()
    if not number:
        raise ValueError("There is nothing to validate on. Give batches, or no validation.")
    return total / number


def note_validation(folder: Path, step: int, loss: float) -> None:
    """A row in `validation.csv`."""
    if world().leads:
        with Table(folder / "validation.csv", ("step", "loss"), step - 1) as table:
            table.write({"step": step, "loss": loss})


def keep_best(folder: Path, run: Run, loss: float) -> None:
    """Keep the weights where no trained step was better."""
    if run.step and loss < (math.inf if run.best is None else run.best[0]):  # never by NaN
        run.best = (loss, run.step)
        save_best(folder, run)


def device_of(module: nn.Module) -> torch.device:
    """Where a module is computed."""
    return next(module.parameters()).device


def autocast(module: nn.Module, config: TrainingConfig) -> torch.autocast:
    """Inside, matrix products are computed in the run's precision."""
    half = config.precision != "fp32"
    dtype = DTYPES[config.precision] if half else torch.bfloat16  # which a disabled one never uses
    return torch.autocast(device_of(module).type, dtype, enabled=half)
