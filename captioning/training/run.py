"""`python -m captioning train`, step by step: from captioned pictures to RUN/model.

Settings, data and memory are checked before the first step; a second start goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captioning.build import build_captioner, describe_parts, fitted, tower
from captioning.config import CaptionerConfig
from captioning.data.batches import Batch
from captioning.data.recognise import read
from captioning.model import Captioner, load_captioner
from captioning.presets import find_preset
from captioning.trained import prepare
from captioning.training.curves import draw_curves, steps_skipped
from captioning.training.forward import computing_loss, shards
from captioning.training.looks import Looker, note_look, pictures_spread
from captioning.training.plan import load_of
from captioning.training.record import as_json, asked
from captioning.training.settings import CaptionTraining
from captioning.training.sources import (
    Sources,
    Told,
    open_sources,
    wants_cache,
    with_cache,
)
from captioning.training.speed import seconds_per_step
from gpt2_scratch.layouts import find_folder, recognise
from gpt2_scratch.model import Block
from gpt2_scratch.training.checkpoint import check_space, load_best, load_last, locked
from gpt2_scratch.training.device import best_precision, free_memory
from gpt2_scratch.training.loop import autocast, train
from gpt2_scratch.training.lora import adapted, merge_lora, remove_lora, save_lora
from gpt2_scratch.training.parallel import by_the_first, least, share_of, world
from gpt2_scratch.training.plan import Load, Plan, choose, describe, span
from gpt2_scratch.training.progress import board_writer
from gpt2_scratch.training.record import before, remember
from gpt2_scratch.training.settings import Precision, TrainingConfig
from gpt2_scratch.training.sharding import is_sharded
from weights.console import one_line
from weights.store import CONFIG, read_config

VALIDATIONS = 10  # of a run

Say = Callable[[str], None]


def sizes_of(settings: CaptionTraining) -> CaptionerConfig:
    """The captioner's sizes, before its weights are in memory: enough for a plan."""
    if settings.model is None:
        sizes = find_preset(settings.preset).sizes
        vision, gpt2 = sizes.vision, sizes.gpt2
        if settings.tower is not None:  # whose numbers stay on the disk
            vision = tower(vision, settings.tower, 0, torch.float32, "cpu").config
        if settings.gpt2 is not None:
            gpt2 = recognise(find_folder(settings.gpt2)).config
        sizes = fitted(sizes, vision, gpt2)
    elif settings.model == "scenes":
        sizes = find_preset("scenes").sizes
    else:
        held = read_config(settings.model)
        sizes = CaptionerConfig.from_dict(held, source=str(Path(settings.model) / CONFIG))
    if settings.dropout is None:
        return sizes
    connector = replace(sizes.connector, dropout=settings.dropout)
    gpt2 = replace(sizes.gpt2, dropout=settings.dropout)
    return replace(sizes, gpt2=gpt2, connector=connector)


def plan_for(settings: CaptionTraining, load: Load, free: int | None, then: dict[str, Any]) -> Plan:
    """How this process does its share of a step."""
    advice = "--train connector, a smaller --longest or a smaller preset"
    if settings.train in ("all", "connector+gpt2"):
        advice = f"--train connector+lora, {advice}"
    return choose(
        load,
        share_of(settings.batch),
        free,
        then,
        rows=settings.micro_batch,
        checkpointing=settings.checkpointing,
        advice=advice,
        row="picture",
    )


def open_captioner(settings: CaptionTraining, device: str) -> tuple[Captioner, dict[str, float]]:
    """The captioner in float32, with what learns set free, and the rates of its parts."""
    if settings.model is not None:
        captioner = load_captioner(settings.model).float().to(device)
    else:
        captioner = build_captioner(
            settings.preset,
            random_init=settings.random_init,
            seed=settings.seed,
            dtype=torch.float32,
            device=device,
            gpt2=settings.gpt2,
            clip=settings.tower,
        )
    if settings.dropout is not None:
        set_dropout(captioner, settings.dropout)
    generator = torch.Generator(device).manual_seed(settings.seed)
    rates = prepare(
        captioner, settings.train, rates=settings.rates, lora=settings.lora, generator=generator
    )
    return captioner, rates


def set_dropout(captioner: Captioner, dropout: float) -> None:
    """Another dropout in GPT-2 and in the connector."""
    config = replace(captioner.config.gpt2, dropout=dropout)
    connector = replace(captioner.config.connector, dropout=dropout)
    captioner.config = replace(captioner.config, gpt2=config, connector=connector)
    captioner.gpt2.config = config
    for part in captioner.connector.modules():
        if isinstance(part, nn.Dropout):
            part.p = dropout
    for block in captioner.gpt2.h:
        assert isinstance(block, Block)
        block.attn.config = config
        block.mlp.dropout = dropout


def training_config(
    settings: CaptionTraining, rates: dict[str, float], captions: int, load: Load, chosen: Plan
) -> TrainingConfig:
    """The loop's settings: steps from epochs, parts from the plan."""
    steps = steps_of(settings, captions)
    return TrainingConfig(
        steps,
        settings.batch,
        rates=rates,
        schedule=settings.schedule,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        precision=load.precision,
        checkpoint_seconds=60 * settings.checkpoint_minutes,
        seed=settings.seed,
        accumulate=chosen.accumulate,
        validate_every=settings.validate_every or max(1, steps // VALIDATIONS),
    )


def steps_of(settings: CaptionTraining, captions: int) -> int:
    return settings.steps or max(1, math.ceil(settings.epochs * captions / settings.batch))


def train_captioner(settings: CaptionTraining, device: str, say: Say) -> Path:
    """Train; the folder of the finished captioner. `say` gets a line at a time."""
    if settings.data is None:
        raise ValueError("There is nothing to train on. Name captioned pictures with --data.")
    read(settings.data, settings.images)  # speaks where there is nothing that it knows
    precision: Precision = settings.precision or best_precision(device)
    sizes = sizes_of(settings)
    free = least(free_memory(device))
    # Before anything large is loaded; how long captions are is not known yet.
    plan_for(
        settings,
        load_of(sizes, settings, precision, device_kind(device), rows=1, longest=8),
        free,
        {},
    )
    captioner, rates = open_captioner(settings, device)
    with locked(settings.out):
        pass  # told before another run's files are written over; the loop locks it for good
    sources = open_sources(settings, captioner, say)
    captions = sources.index.count("train")
    wanted = asked(settings, sources.index.fingerprint, captions)
    then = before(settings.out, wanted)
    precision = then.get("precision", precision)
    steps = steps_of(settings, captions)
    say(describe_parts(captioner))
    shape = features_shape(captioner)
    # As before where it goes on: kept features are rounded, and may have taken the room they need.
    kept = then.get("features")
    cached = by_the_first(lambda: wants_cache(settings, sources, steps, shape, kept))
    load = load_of(
        captioner.config,
        settings,
        precision,
        device_kind(device),
        rows=settings.micro_batch or share_of(settings.batch),
        longest=sources.longest,
        features=cached,
    )
    chosen = plan_for(settings, load, free, then)
    load = replace(load, rows=chosen.rows, recompute=chosen.recompute)
    config = training_config(settings, rates, captions, load, chosen)
    choices = {
        "precision": precision,
        "micro_batch": chosen.rows,
        "checkpointing": chosen.recompute,
        "features": cached,
    }
    by_the_first(lambda: remember(settings.out, wanted, choices, settings=as_json(settings)))
    say(f"Plan: {describe(load, chosen, free, row='pictures with captions, up to')}.")
    if settings.tensorboard and board_writer() is None:
        say("TensorBoard is not installed (pip install tensorboard); curves.png does without.")
    if cached:
        sources = with_cache(sources, captioner, chosen.rows, say)
    run_loop(settings, captioner, sources, config, load, say)
    return write_captioner(captioner, settings, config, say)


def device_kind(device: str) -> str:
    return torch.device(device).type


def features_shape(captioner: Captioner) -> tuple[int, int]:
    """Numbers that the cache holds of a picture: tokens, and channels of each."""
    config = captioner.config.connector
    tokens = config.tokens if config.reducer.picks else config.tokens_in
    return tokens, config.features


def run_loop(
    settings: CaptionTraining,
    captioner: Captioner,
    sources: Sources,
    config: TrainingConfig,
    load: Load,
    say: Say,
) -> None:
    """The steps, with all that is looked at on the way."""
    out, told = settings.out, Told(settings.out, say)
    batches = sources.batches("train", load.rows)
    held_out = sources.batches(sources.looked_at, load.rows)
    pictures = []
    if settings.samples and world().leads:
        pictures = pictures_spread(sources.index, sources.looked_at, settings.samples)
    looker = Looker(captioner, pictures, sources.transform)

    def from_number(n: int) -> Iterator[Batch]:
        return told.watching(batches(n // config.accumulate))

    def on_start(step: int) -> None:
        if step == config.steps:
            say(f"All {config.steps} steps are done already.")
        elif step:
            say(f"Going on at step {step} of {config.steps}.")
        else:
            seconds = seconds_per_step(
                captioner.config,
                settings.train,
                load,
                config,
                lora=settings.lora,
                features=sources.cache is not None,
            )
            say(f"About {span(seconds)} a step, {span(seconds * config.steps)} in all.")

    def on_validation(step: int, loss: float) -> dict[str, float]:
        say(f"step {step} of {config.steps}: {sources.looked_at} loss {loss:.4f}")
        if not world().leads:
            return {}
        with autocast(captioner, config):
            look = looker()
        if look is not None:
            note_look(out, step, look, say)
        draw_curves(out, f"{one_line(out)}: step {step} of {config.steps}")
        return {} if look is None else look.values

    def on_skip(step: int, why: str) -> None:
        say(f"Step {step} changed nothing: its loss or gradient was not finite; {why}.")

    with computing_loss(captioner, recompute=load.recompute, compile=settings.compile) as loss_of:
        train(
            captioner,
            loss_of,
            from_number,
            config,
            out,
            title="captioner",
            unit="images",
            tensorboard=settings.tensorboard,
            shards=shards(captioner) if settings.train == "all" else None,
            validation=lambda: told.watching(held_out.once(settings.validate_on)),
            on_validation=on_validation,
            on_start=on_start,
            on_skip=on_skip,
        )
    if world().leads and (skipped := steps_skipped(out)):
        say(
            f"{skipped:,} of {config.steps:,} steps changed nothing: their numbers were not finite."
        )


def write_captioner(
    captioner: Captioner, settings: CaptionTraining, config: TrainingConfig, say: Say
) -> Path:
    """RUN/model from the best weights, else the last; adapters merged into it, and alone."""
    out = settings.out
    if is_sharded(captioner):
        captioner, _ = open_captioner(settings, str(captioner.device))
        load_last(out, captioner)
    best = load_best(out, captioner)
    if any(adapted(captioner.gpt2)):
        by_the_first(lambda: save_lora(captioner.gpt2, out / "adapters"))
        merge_lora(captioner.gpt2)
        remove_lora(captioner.gpt2)
    size = sum(tensor.nbytes for tensor in captioner.state_dict().values())

    def save() -> None:
        check_space(out / "model", size)
        captioner.save(out / "model")

    by_the_first(save)
    which = "the last weights, since no validation's loss was finite"
    if best is not None:
        loss, step = best
        which = f"the best weights, of step {step} of {config.steps}: loss {loss:.4f}"
    say(f"{one_line(out / 'model')}: {which}.")
    return out / "model"
