"""Numbers that others published about OpenAI's weights (`golden.json`), held against a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from gpt2_scratch.beam import beam_search
from gpt2_scratch.config import PRESETS, GPT2Config
from gpt2_scratch.generate import eval_mode, generate
from gpt2_scratch.layouts import load_tokenizer
from gpt2_scratch.model import GPT2
from gpt2_scratch.training.loss import next_token_loss
from weights.figures import (
    Answer,
    Fact,
    NotRun,
    check_figures,
    read_facts,
    read_file,
    within,
)
from weights.verdict import Figure


def facts() -> list[Fact]:
    """Every published figure that the project knows, each with its source."""
    return read_facts(Path(__file__).with_name("golden.json"))


def size_name(config: GPT2Config) -> str | None:
    """The published size that a config has: "gpt2-large", or None."""
    sizes = [field.name for field in fields(GPT2Config) if field.name.startswith("n_")]
    for name, preset in PRESETS.items():
        if all(getattr(preset, size) == getattr(config, size) for size in sizes):
            return name
    return None


def check_published(
    model: GPT2,
    folder: Path,
    *,
    files: Mapping[str, Path] | None = None,
    slow: bool = False,
    known: list[Fact] | None = None,
) -> tuple[Figure, ...]:
    """Every figure: pass, fail, or not run and why, with its source.

    `files`: the text of a figure that needs one, by its id. `slow`: also those that take minutes.
    `known`: facts other than the project's own.
    """
    known = facts() if known is None else known

    def check(fact: Fact, file: Path | None) -> Answer:
        return _check(fact, model, folder, file, slow)

    return check_figures(known, size_name(model.config), check, files)


@torch.no_grad()
def _check(fact: Fact, model: GPT2, folder: Path, file: Path | None, slow: bool) -> Answer:
    kind = fact["kind"]
    if kind == "training":
        if not slow:
            raise NotRun("ten steps of training take minutes; pass --slow")
        return training(fact, model)
    with eval_mode(model):
        if kind in ("windows", "perplexity"):
            text = read_file(fact, file).decode("utf-8")
            return TEXTS[kind](fact, model, text, encoder(folder, model.config.n_vocab))
        return CHECKS[kind](fact, model)


def _batch(tokens: list[Any], model: GPT2) -> torch.Tensor:
    ids = torch.tensor(tokens, device=model.wte.weight.device)
    return ids[None] if ids.ndim == 1 else ids  # (B, T)


def parameters(fact: Fact, model: GPT2) -> Answer:
    count = sum(parameter.numel() for parameter in model.parameters())
    return count == fact["expected"], f"{count:,}, wanted {fact['expected']:,}"


def wte(fact: Fact, model: GPT2) -> Answer:
    rows = model.wte.weight[[int(row) for row in fact["expected"]]]
    wanted = [row["first3"] + row["last3"] for row in fact["expected"].values()]
    return within(torch.cat([rows[:, :3], rows[:, -3:]], 1), wanted, fact)


def logits(fact: Fact, model: GPT2) -> Answer:
    """The five likeliest tokens at every position, their logits, and those of some others."""
    wanted, got = fact["expected"], model(_batch(fact["tokens"], model))[0].cpu()  # (T, V)
    top = got.topk(5)
    right, says = within(got[:, wanted["sampled_ids"]], wanted["sampled"], fact)
    top_right, _ = within(top.values, wanted["top5"], fact)
    # Where two are nearly equal their order is rounding's: then the values above still agree.
    named = top.indices.sort().values.eq(torch.tensor(wanted["top5_ids"]).sort().values).all()
    return right and top_right and bool(named), f"{says}; the five likeliest tokens of {len(got)}"


def values(fact: Fact, model: GPT2) -> Answer:
    wanted, ids = fact["expected"], _batch(fact["tokens"], model)
    out = model(ids) if wanted["site"] == "logits" else model.states(model.embed(ids))
    rows, columns = slice(*wanted["rows"]), slice(*wanted["columns"])
    return within(out[0, rows, columns], wanted["values"], fact)


def logprobs(fact: Fact, model: GPT2) -> Answer:
    """Log-probabilities of the tokens from the first that is asked for: each, their sum or mean."""
    ids, wanted = _batch(fact["tokens"], model), fact["expected"]
    logs = model(ids[:, :-1]).double().log_softmax(-1)
    each = logs.gather(-1, ids[:, 1:, None])[..., 0][:, wanted["first"] - 1 :]  # (B, n)
    if "each" in wanted:
        return within(each[0], wanted["each"], fact)
    name = "sum" if "sum" in wanted else "mean"
    got = each.sum() if name == "sum" else each.mean()
    return within(got[None], [wanted[name]], fact)[0], f"{got:.5f}, wanted {wanted[name]:.5f}"


def greedy(fact: Fact, model: GPT2) -> Answer:
    wanted, options = fact["expected"], fact.get("options", {})
    got = generate(model, _batch(fact["tokens"], model), len(wanted), **options)[0].tolist()
    return _same_tokens(got, wanted, fact)


def beam(fact: Fact, model: GPT2) -> Answer:
    ids, wanted = _batch(fact["tokens"], model), fact["expected"]
    got, _ = beam_search(model, ids, len(wanted), beams=fact["beams"])
    return _same_tokens(got[0].tolist(), wanted, fact)


def _same_tokens(got: list[int], wanted: list[int], fact: Fact) -> Answer:
    pairs = zip(got, wanted, strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(got), len(wanted)))
    says = f"{same} of {len(wanted)} tokens after {fact.get('prompt', 'the prompt')!r}"
    if got != wanted:
        says += f"; then {got[same : same + 3]}, wanted {wanted[same : same + 3]}"
    return got == wanted, says


def training(fact: Fact, model: GPT2) -> Answer:
    """The loss before each of some steps of AdamW on one batch, on a copy of the model."""
    copy = deepcopy(model).eval()
    ids = _batch(fact["tokens"], copy)[0]
    size = (len(ids) - 1) // fact["rows"]
    batch = ids.unfold(0, size + 1, size)  # each row's last token is the next one's first
    optimizer = torch.optim.AdamW(copy.parameters(), **fact["optimizer"])
    losses = []
    with torch.enable_grad():
        for _ in fact["expected"]:
            total, count = next_token_loss(copy, batch)
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
            losses.append(total.detach() / count)
    return within(torch.stack(losses), fact["expected"], fact)


CHECKS: dict[str, Callable[[Fact, GPT2], Answer]] = {
    "parameters": parameters,
    "wte": wte,
    "logits": logits,
    "values": values,
    "logprobs": logprobs,
    "greedy": greedy,
    "beam": beam,
}


# --- figures about a text that the user has ---------------------------------------------------


def encoder(folder: Path, n_vocab: int) -> Callable[[str], list[int]]:
    """How to encode a text, with the vocabulary of the model's folder or GPT-2's."""
    try:
        return load_tokenizer(folder, n_vocab).encode
    except FileNotFoundError as error:
        raise NotRun(f"needs GPT-2's vocabulary: {error}") from None


def windows(fact: Fact, model: GPT2, text: str, encode: Callable[[str], list[int]]) -> Answer:
    """Mean loss of windows of 256 tokens, of the first nine tenths of a text and of the rest."""
    cut = int(0.9 * len(text))
    got = []
    for part in (text[:cut], text[cut:]):
        ids = _batch(encode(part), model)[0]
        starts = range(0, len(ids) - 256, 256)
        sums = [next_token_loss(model, ids[None, i : i + 257])[0] for i in starts]
        got.append(torch.stack(sums).mean() / 256)
    right, _ = within(torch.stack(got), list(fact["expected"].values()), fact)
    told = zip(got, fact["expected"].items(), strict=True)
    return right, ", ".join(f"{name} {loss:.4f}, wanted {x:.4f}" for loss, (name, x) in told)


def perplexity(fact: Fact, model: GPT2, text: str, encode: Callable[[str], list[int]]) -> Answer:
    """Of each token once, given up to n_ctx - stride tokens before it or more, for each stride."""
    ids, context = _batch(encode(text), model)[0], model.config.n_ctx
    got = []
    for stride in map(int, fact["expected"]):
        total, count, done = 0.0, 0, 1
        for start in range(0, len(ids), stride):
            end = min(start + context, len(ids))
            logits = model(ids[None, start : end - 1])[0, done - 1 - start :]
            total += float(F.cross_entropy(logits.double(), ids[done:end], reduction="sum"))
            count, done = count + end - done, end
            if end == len(ids):
                break
        got.append(torch.tensor(total / count).exp())
    right, _ = within(torch.stack(got), list(fact["expected"].values()), fact)
    told = zip(got, fact["expected"].items(), strict=True)
    return right, ", ".join(f"stride {name}: {p:.2f}, wanted {x:.2f}" for p, (name, x) in told)


TEXTS = {"windows": windows, "perplexity": perplexity}
