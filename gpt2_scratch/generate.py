"""Autoregressive generation, written out: score the next token, choose one, append it, again.

`_loop` is the loop. `generate`, `stream` and `generate_with_logprobs` are three ways to take its
tokens; `steps` holds the one list of what they accept.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch.nn import functional as F

from gpt2_scratch import sampling
from gpt2_scratch.cache import KVCache
from gpt2_scratch.model import GPT2

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits (B, V), seen (B, T) -> (B,)


@torch.no_grad()
def _loop(
    model: GPT2,
    x: torch.Tensor,
    mask: torch.Tensor | None,
    seen: torch.Tensor,
    max_new_tokens: int,
    choose: Choose,
    end: int | None,
    use_cache: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each step's ids (B,) and their log-probabilities (B,) until all rows have ended."""
    cache = new_cache(model, x, max_new_tokens) if use_cache else None
    ended = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(max_new_tokens):
        logits = next_logits(model, x, mask, cache)  # (B, V)
        ids = choose(logits, seen)
        logprobs = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]  # (B,)
        if end is not None:
            ids = ids.masked_fill(ended, end)
            logprobs = logprobs.masked_fill(ended, 0.0)
            ended = ended | (ids == end)
        yield ids, logprobs
        if ended.all():
            return
        seen = torch.cat([seen, ids[:, None]], dim=1)  # (B, T + 1)
        new = model.embed(ids[:, None])  # (B, 1, C)
        if use_cache:
            x, mask = new, None  # the cache remembers the rest
        else:
            x = torch.cat([x, new], dim=1)  # (B, T + 1, C)
            mask = None if mask is None else F.pad(mask, (0, 1))


def steps(
    model: GPT2,
    prompt: torch.Tensor,
    max_new_tokens: int,
    *,
    padding_mask: torch.Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    end: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Prompt ids (B, T) or embeddings (B, T, C) -> for each new token ids (B,), logprobs (B,).

    `padding_mask` (B, T): True = padding, on either side. Temperature 0 takes the likeliest token.
    Penalties see the prompt where it is ids. Rows that reached `end` go on with it, at log 1 = 0.
    """

    def choose(logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        if repetition_penalty != 1.0:
            logits = sampling.repetition_penalty(logits, seen, repetition_penalty)
        if no_repeat_ngram:
            logits = sampling.no_repeat_ngram(logits, seen, no_repeat_ngram)
        if temperature == 0:
            return sampling.greedy(logits)
        logits = sampling.temperature(logits, temperature)
        if top_k is not None:
            logits = sampling.top_k(logits, top_k)
        if top_p is not None:
            logits = sampling.top_p(logits, top_p)
        if min_p is not None:
            logits = sampling.min_p(logits, min_p)
        return sampling.sample(logits, generator)

    x, mask, seen = start(model, prompt, max_new_tokens, padding_mask, end)
    return _loop(model, x, mask, seen, max_new_tokens, choose, end, use_cache)


def _takes_what(
    function: Callable[Arguments, Any],
) -> Callable[[Callable[..., Result]], Callable[Arguments, Result]]:
    """For `help` and mypy: the decorated function has the parameters of `function`."""

    def decorate(wrapper: Callable[..., Result]) -> Callable[Arguments, Result]:
        own = inspect.signature(wrapper).return_annotation
        signature = inspect.signature(function).replace(return_annotation=own)
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper

    return decorate


@_takes_what(steps)
def stream(*prompt: Any, **options: Any) -> Iterator[torch.Tensor]:
    """Yield the ids (B,) of each new token as it comes; `steps` explains the arguments."""
    return (ids for ids, _ in steps(*prompt, **options))


@_takes_what(steps)
def generate(*prompt: Any, **options: Any) -> torch.Tensor:
    """The new tokens only, (B, n) with n <= max_new_tokens; `steps` explains the arguments.

    Rows that ended early are filled with `end`.
    """
    return torch.stack(list(stream(*prompt, **options)), dim=1)  # (B, n)


@_takes_what(steps)
def generate_with_logprobs(*prompt: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As `generate`, and each token's log-probability: (B, n), (B, n).

    It is the model's own, before temperature, filters and penalties; 0 where a row is filled.
    """
    ids, logprobs = zip(*steps(*prompt, **options), strict=True)
    return torch.stack(ids, dim=1), torch.stack(logprobs, dim=1)  # (B, n)


# What beam search needs as well.


def start(
    model: GPT2,
    prompt: torch.Tensor,
    max_new_tokens: int,
    padding_mask: torch.Tensor | None,
    end: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Check a prompt -> embeddings (B, T, C), padding_mask (B, T), ids (B, T) with -1 = no token.

    Padding is moved to the left, so that the last position is each row's newest token.
    """
    _check(model, prompt, max_new_tokens, padding_mask, end)
    if padding_mask is not None:
        order = (~padding_mask).long().argsort(dim=1, stable=True)  # padding first
        rows = torch.arange(len(prompt), device=prompt.device)[:, None]
        prompt, padding_mask = prompt[rows, order], padding_mask[rows, order]
    if prompt.is_floating_point():
        prompt = prompt.to(model.wte.weight.dtype)  # as `embed` gives: bfloat16 for such a model
        return prompt, padding_mask, torch.empty(len(prompt), 0).long().to(prompt.device)
    seen = prompt.long()
    if padding_mask is not None:
        seen = seen.masked_fill(padding_mask, -1)
    return model.embed(seen.clamp(min=0)), padding_mask, seen  # padding takes any vector: hidden


def next_logits(
    model: GPT2, x: torch.Tensor, mask: torch.Tensor | None, cache: KVCache | None
) -> torch.Tensor:
    """The scores of the next token: (B, T, C) -> (B, V), without dropout."""
    with eval_mode(model):
        newest = model.states(x, mask, cache)[:, -1:]  # (B, 1, C)
        return model.unembed(newest)[:, 0].float()  # (B, V); bfloat16 would make ties


def new_cache(model: GPT2, x: torch.Tensor, max_new_tokens: int) -> KVCache:
    """An empty cache for `x` (B, T, C) and all that is generated after it."""
    batch, tokens, _ = x.shape
    length = tokens + max_new_tokens
    return KVCache(model.config, batch, length=length, dtype=x.dtype, device=x.device)


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards each module is in its own mode again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(
    model: GPT2,
    prompt: torch.Tensor,
    max_new_tokens: int,
    padding_mask: torch.Tensor | None,
    end: int | None,
) -> None:
    config, shape = model.config, tuple(prompt.shape)
    if prompt.ndim != (3 if prompt.is_floating_point() else 2) or 0 in shape:
        raise ValueError(
            f"The prompt is {shape} of {prompt.dtype}. Give ids (B, T) as integers or embeddings "
            "(B, T, C) as floats, with at least one row and one token: the end token will do."
        )
    if prompt.ndim == 3 and shape[2] != config.n_embd:
        raise ValueError(
            f"The prompt's vectors have {shape[2]} numbers, this model's n_embd={config.n_embd}. "
            "Project them to that width first."
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} came. Give at least 1.")
    if shape[1] + max_new_tokens > config.n_ctx:
        raise ValueError(
            f"{shape[1]} prompt tokens and max_new_tokens={max_new_tokens} are more than this "
            f"model's context of n_ctx={config.n_ctx}. Shorten the prompt or ask for fewer."
        )
    if end is not None and not 0 <= end < config.n_vocab:
        raise ValueError(
            f"end={end} is no token of this model: give 0 to {config.n_vocab - 1}, or None."
        )
    if padding_mask is not None:
        if padding_mask.shape != prompt.shape[:2] or padding_mask.dtype != torch.bool:
            raise ValueError(
                f"padding_mask is {tuple(padding_mask.shape)} of {padding_mask.dtype}, the prompt "
                f"{shape}. Give one boolean a token, True = padding: {shape[:2]}."
            )
        if padding_mask.all(1).any():
            row = int(padding_mask.all(1).nonzero()[0])
            raise ValueError(f"Row {row} of the prompt is all padding. Give it a token to go on.")
    if prompt.ndim == 2:
        real = prompt if padding_mask is None else prompt[~padding_mask]
        if real.min() < 0 or real.max() >= config.n_vocab:
            raise ValueError(
                f"The prompt holds the ids {int(real.min())} to {int(real.max())}, this model "
                f"knows 0 to {config.n_vocab - 1}. Encode it with this model's tokenizer."
            )
