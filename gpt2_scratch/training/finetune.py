"""From text to a trained GPT-2: what `python -m gpt2_scratch finetune` does, step by step.

Text and settings are checked before anything large is loaded; a second start goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from gpt2_scratch.config import PRESETS, GPT2Config
from gpt2_scratch.generate import generate
from gpt2_scratch.layouts import N_VOCAB, find_folder, has_own_tokenizer, load_tokenizer, recognise
from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer, Tokenizer
from gpt2_scratch.training.checkpoint import load_best
from gpt2_scratch.training.device import best_precision, free_memory, seconds_per_step
from gpt2_scratch.training.language import random_language_model, train_language_model
from gpt2_scratch.training.log import note_text
from gpt2_scratch.training.lora import add_lora, merge_lora, remove_lora, save_lora
from gpt2_scratch.training.parallel import by_the_first, least, share_of, world
from gpt2_scratch.training.plan import Load, Plan, choose, describe, span
from gpt2_scratch.training.record import asked, before, remember
from gpt2_scratch.training.settings import FinetuneConfig, TrainingConfig, random_sizes
from gpt2_scratch.training.text import (
    Corpus,
    held_out_windows,
    part_corpus,
    read_texts,
    windows,
)
from weights.console import one_line

RATES = {"all": 5e-5, "lora": 3e-4, "random": 1e-3}
MOST_VALIDATED = 64  # windows, spread evenly over the text held out
VALIDATIONS = 10  # of a run
SAMPLE_TOKENS, SHOWN = 60, 160

Say = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """The model that training begins with, not loaded yet; `folder` also holds its vocabulary."""

    config: GPT2Config
    tokenizer: Tokenizer
    folder: Path


def sizes(settings: FinetuneConfig) -> GPT2Config:
    """The model's config, as far as it is known without its text: enough for a plan."""
    if settings.random_init is not None:
        n_vocab = settings.train_tokenizer or N_VOCAB
        config = random_sizes(settings.random_init, n_vocab, settings.length)
    elif settings.model in PRESETS:
        config = GPT2Config.preset(settings.model)
    else:
        config = recognise(find_folder(settings.model)).config
    return config if settings.dropout is None else replace(config, dropout=settings.dropout)


def find_base(settings: FinetuneConfig, documents: Sequence[str], say: Say, *, anew: bool) -> Base:
    """The model's config and tokenizer; one that is to be trained is kept in the run's folder."""
    if settings.random_init is None:
        folder = find_folder(settings.model)
        config = replace(recognise(folder).config, dropout=sizes(settings).dropout)
        return Base(config, load_tokenizer(folder, config.n_vocab), folder)
    folder, wanted = settings.out, settings.train_tokenizer

    def learn() -> None:
        if wanted is not None and (anew or not has_own_tokenizer(folder)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said below
                BPETokenizer.train(documents, wanted).save(folder)

    by_the_first(learn)
    tokenizer = load_tokenizer(folder, wanted or N_VOCAB)
    if wanted is not None and len(tokenizer) < wanted:
        say(f"The text gives a vocabulary of {len(tokenizer)} tokens, not {wanted}.")
    return Base(replace(sizes(settings), n_vocab=len(tokenizer)), tokenizer, folder)


def chosen_plan(
    settings: FinetuneConfig, load: Load, free: int | None, then: dict[str, Any]
) -> Plan:
    """How this process does its share of a step."""
    advice = "a smaller --length or --model"
    if load.lora is None and settings.random_init is None:
        advice = f"--train lora, {advice}"
    return choose(
        load,
        share_of(settings.batch),
        free,
        then,
        rows=settings.micro_batch,
        checkpointing=settings.checkpointing,
        advice=advice,
        row="window",
    )


def window_length(settings: FinetuneConfig, config: GPT2Config) -> int:
    """Tokens of a window; ValueError where the model's context is shorter."""
    if settings.length is not None and settings.length > config.n_ctx:
        raise ValueError(
            f"got --length {settings.length}, wanted at most the model's context of"
            f" {config.n_ctx}; lower it."
        )
    return settings.length or config.n_ctx


def load_of(settings: FinetuneConfig, config: GPT2Config, device: str) -> Load:
    """What the planner is to judge."""
    return Load(
        config,
        window_length(settings, config),
        settings.micro_batch or share_of(settings.batch),
        settings.precision or best_precision(device),
        recompute=settings.checkpointing == "on",
        lora=settings.lora if settings.train == "lora" else None,
        muon=settings.matrix_rate is not None,
        device=torch.device(device).type,
    )


def training_config(
    settings: FinetuneConfig, corpus: Corpus, load: Load, chosen: Plan
) -> TrainingConfig:
    """The loop's settings: steps from epochs, the rate by what is trained."""
    tokens = settings.batch * load.length
    steps = settings.steps or max(1, math.ceil(settings.epochs * len(corpus.training) / tokens))
    kind = "random" if settings.random_init is not None else settings.train
    return TrainingConfig(
        steps,
        settings.batch,
        rates={"": settings.rate or RATES[kind]},
        matrix_rate=settings.matrix_rate,
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


def open_model(settings: FinetuneConfig, base: Base, device: str) -> GPT2:
    """The model to train, in float32, with adapters where those are trained."""
    if settings.random_init is not None:
        return random_language_model(
            base.config, settings.seed, table_scale=settings.table_scale
        ).to(device)
    model = load_gpt2(base.folder, dtype=torch.float32, device=device, dropout=base.config.dropout)
    if settings.train == "lora":
        torch.manual_seed(settings.seed)
        add_lora(model, settings.lora)
    return model


def finetune(settings: FinetuneConfig, device: str, say: Say) -> tuple[Path, Path]:
    """Train; the folder of the finished model, and the one that holds its vocabulary.

    `say` gets a line at a time.
    """
    out = settings.out
    texts = read_texts(settings.texts, without=out)
    for reason in texts.skipped:
        say(f"Skipped: {one_line(reason)}")
    wanted = asked(settings, texts.documents)
    then = before(out, wanted)
    settings = replace(settings, precision=then.get("precision", settings.precision))
    base = find_base(settings, texts.documents, say, anew=not then)
    load = load_of(settings, base.config, device)
    corpus = part_corpus(base.tokenizer, texts.documents, settings.held_out, settings.seed)
    next(windows(corpus.training, load.length, 1, 0, 0))  # speaks where the text is too short
    if settings.held_out and len(corpus.held_out) < 2:
        raise ValueError(
            f"Of {len(corpus.training):,} tokens, --held-out {settings.held_out} holds nothing"
            " back. Raise it, give more text, or turn validation off: --held-out 0."
        )
    free = least(free_memory(device))
    chosen = chosen_plan(settings, load, free, then)
    load = replace(load, rows=chosen.rows, recompute=chosen.recompute)
    config = training_config(settings, corpus, load, chosen)
    say(
        f"Text: {len(corpus.training):,} tokens to train on; held out: {corpus.split}"
        f" ({len(corpus.held_out):,} tokens)."
    )
    model = open_model(settings, base, device)
    choices = {
        "precision": load.precision,
        "micro_batch": chosen.rows,
        "checkpointing": chosen.recompute,
    }
    by_the_first(lambda: remember(out, wanted, choices))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"Model: {base.config.parameters:,} parameters; trained: {trained:,}.")
    say(f"Plan: {describe(load, chosen, free)}.")

    def on_start(step: int) -> None:
        if step == config.steps:
            say(f"All {config.steps} steps are done already.")
        elif step:
            say(f"Going on at step {step} of {config.steps}.")
        else:
            seconds = seconds_per_step(load, config)
            say(f"About {span(seconds)} a step, {span(seconds * config.steps)} in all.")

    def on_validation(step: int, loss: float) -> None:
        say(
            f"step {step} of {config.steps}: validation loss {loss:.4f},"
            f" perplexity {math.exp(min(loss, 700)):.4g}"
        )
        if not math.isfinite(loss) or not world().leads:
            return
        text = sample(model, base.tokenizer, settings)
        note_text(out / "samples.txt", step, text)
        say(f"  {one_line(text)[:SHOWN]}")

    # This process's batches: of each `size` in a row, one.
    rank, size = world().rank, world().size

    def batches(number: int) -> Iterator[torch.Tensor]:
        first = number * size + rank
        return windows(corpus.training, load.length, chosen.rows, settings.seed, first, every=size)

    def held_out() -> Iterator[torch.Tensor]:
        held = held_out_windows(corpus.held_out, load.length, chosen.rows, MOST_VALIDATED)
        return islice(held, rank, None, size)

    train_language_model(
        model,
        batches,
        config,
        out,
        title="finetune",
        recompute=chosen.recompute,
        compile=settings.compile,
        validation=held_out if len(corpus.held_out) else None,
        on_validation=on_validation,
        on_start=on_start,
    )
    write_model(model, settings, config, say)
    return out / "model", base.folder


def write_model(model: GPT2, settings: FinetuneConfig, config: TrainingConfig, say: Say) -> None:
    """RUN/model from the best weights, else the last; adapters merged into it, and alone."""
    out = settings.out
    best = load_best(out, model)
    if settings.train == "lora":
        by_the_first(lambda: save_lora(model, out / "adapters"))
        merge_lora(model)
        remove_lora(model)
    by_the_first(lambda: save_gpt2(model, out / "model"))
    judge = "no validation loss was finite" if settings.held_out else "nothing was held out"
    which = f"the last weights, since {judge} to judge by"
    if best is not None:
        loss, step = best
        which = f"the best weights, of step {step} of {config.steps}: validation loss {loss:.4f}"
    say(f"{one_line(out / 'model')}: {which}.")


def sample(model: GPT2, tokenizer: Tokenizer, settings: FinetuneConfig) -> str:
    """What the model writes now; the same draws each time, and none of the run's own."""
    device = model.wte.weight.device
    prompt = [tokenizer.end, *tokenizer.encode(settings.sample)]
    room = model.config.n_ctx - len(prompt)
    if room < 1:
        return ""
    ids = generate(
        model,
        torch.tensor([prompt], device=device),
        min(SAMPLE_TOKENS, room),
        temperature=0.8,
        top_p=0.95,
        end=tokenizer.end,
        generator=torch.Generator(device).manual_seed(settings.seed),
    )
    said = [i for i in ids[0].tolist() if i != tokenizer.end and i < len(tokenizer)]
    return settings.sample + tokenizer.decode(said)
