"""Will it fit? What a training step of a GPT-2 holds in memory at its worst moment, by arithmetic.

Counted is what autograd keeps of this project's blocks, tensor by tensor; the tests measure it.
Letters as in `model.py`; a "row" is a window of T tokens, of which `rows` are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.training.language import CHUNK
from gpt2_scratch.training.settings import LoRAConfig, Precision
from gpt2_scratch.training.settings import adapter_sizes as adapter_sizes

GPUS = (8, 12, 16, 24, 40, 80)  # GB that are sold
SHARE = 0.9  # of the free memory that a plan may take
WIDE = 4  # bytes of a float32: weights, gradients, and whatever is no matrix product
CUDA_CONTEXT = 600e6  # what CUDA takes for itself, about; not measured here
IN_FLIGHT = 3  # tensors (B, T, 4 C) that the backward pass of one block holds for a moment


@dataclass(frozen=True)
class Prefix:
    """What stands before GPT-2 and gives it vectors, such as an image tower: numbers and bytes.

    `kept` is what autograd keeps of it for a row, `turn` what comes on top while one block of it is
    computed again, `encoding` the most that it holds for a row before GPT-2 begins, `copies` what
    its trained weights take again in half precision.
    """

    parameters: int
    trained: int
    kept: float
    encoding: float
    turn: float = 0.0
    copies: float = 0.0


@dataclass(frozen=True)
class Load:
    """What is trained, and how: all that the memory of a step depends on.

    `predicted` of the `length` tokens of a row get logits, all where None. `frozen`: GPT-2 only
    hands gradients on to the prefix.
    """

    config: GPT2Config
    length: int
    rows: int
    precision: Precision = "bf16"
    recompute: bool = False
    lora: LoRAConfig | None = None
    muon: bool = False
    accumulate: int = 1
    device: str = "cuda"
    predicted: int | None = None
    frozen: bool = False
    prefix: Prefix = Prefix(0, 0, 0.0, 0.0)
    prefix_recomputed: Prefix = Prefix(0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Memory:
    """Bytes at the worst moment of a step, by what holds them."""

    parameters: float
    optimizer: float
    gradients: float
    activations: float
    logits: float
    workspace: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Plan:
    """How to train within a memory, and what it takes."""

    rows: int
    accumulate: int
    recompute: bool
    memory: Memory


def block_activations(load: Load) -> float:
    """Bytes that autograd keeps of one block, with the copies of its weights in half precision."""
    config, c, h = load.config, load.config.n_embd, load.config.n_head
    tokens = load.rows * load.length
    narrow = WIDE if load.precision == "fp32" else 2
    trained = load.lora is None and not load.frozen
    on_cpu, drops = load.device == "cpu", config.dropout > 0

    norms = 2 * (2 if trained else 1) * WIDE * c  # each LayerNorm: centred, and scaled for g
    gelu = 6 * narrow * 4 * c  # x, its multiples and powers, tanh
    queries_keys_values = 3 * narrow * c
    mixed = narrow * c  # attention's output, c_proj's input
    inputs = 6 * narrow * c if trained else 0.0  # of c_attn, c_fc and mlp.c_proj
    masks = 2 * c * (narrow if on_cpu else 1) if drops else 0.0  # a CPU keeps numbers, CUDA bits
    scores = 0.0
    if config.attention == "explicit":  # softmax, what is left of it, dropout
        scores = (3 if drops else 2) * narrow * h * load.length
    elif on_cpu and drops:  # for this torch has no fused kernel on a CPU
        scores, queries_keys_values = 3 * WIDE * h * load.length, 3 * WIDE * c
    if load.lora is not None:
        _, fed = adapter_sizes(config, load.lora)
        inputs = narrow * fed
        if load.lora.dropout:
            inputs += (WIDE if on_cpu else 1) * fed
    each = norms + gelu + queries_keys_values + mixed + inputs + masks + scores
    return tokens * each + weight_copies(load)


def weight_copies(load: Load) -> float:
    """Bytes of one block's matrices in half precision, which autocast makes from float32."""
    return 0.0 if load.precision == "fp32" else 2 * 12 * load.config.n_embd**2


def estimate(load: Load) -> Memory:
    """The worst of seven moments: the prefix, before the loss, behind it, in the first block of the
    backward pass, in the last, when wte's gradients from head and embedding are added, and when
    the prefix has its gradients too."""
    config, tokens = load.config, load.rows * load.length
    c, layers, table = config.n_embd, config.n_layer, WIDE * config.n_vocab * config.n_embd
    predicted = tokens if load.predicted is None else load.rows * load.predicted
    half, learns = load.precision != "fp32", load.lora is None
    prefix = load.prefix_recomputed if load.recompute else load.prefix
    parameters = float(WIDE * config.parameters)
    # All numbers trained, those of the tables, those of one block: in bytes of their gradients.
    if load.frozen:
        trained = tables = one = 0.0
    elif learns:
        trained, tables, one = parameters, float(table), float(WIDE * 12 * c**2)
    else:
        one = float(WIDE * adapter_sizes(config, load.lora or LoRAConfig())[0])
        trained, tables = layers * one, 0.0
        parameters += trained
    beside = float(WIDE * prefix.trained)
    block = block_activations(load)
    if load.recompute:  # each block's input, and while its turn is one block whole
        kept, turn = float(layers * tokens * WIDE * c), block
        at_once = min(CHUNK, predicted)
        # until the forward pass is done; of frozen weights autocast keeps none
        copies = layers * weight_copies(load) if learns and not load.frozen else 0.0
        copies += prefix.copies
        before_it = load.rows * prefix.kept
    else:
        kept, turn, at_once, copies = layers * block, 0.0, predicted, 0.0
        before_it = load.rows * prefix.kept + prefix.copies
    kept += tokens * c * 2 * WIDE + predicted * c * (2 if half else WIDE)  # ln_f; the head's input
    kept += before_it
    head_copy = table / 2 if half else 0.0
    logits = WIDE * config.n_vocab * at_once  # as float32
    in_flight = IN_FLIGHT * 4 * c * tokens * (2 if half else WIDE)
    before = trained + beside if load.accumulate > 1 else 0.0  # gradients of the parts already done
    optimizer = 2 * (trained + beside) - (layers * one if load.muon else 0.0)  # Muon: one number
    base = Memory(parameters + WIDE * prefix.parameters, optimizer, before, 0.0, 0.0, 0.0)
    if load.device != "cpu":
        base = replace(base, workspace=CUDA_CONTEXT)

    encoding = replace(base, activations=load.rows * prefix.encoding)
    forward = replace(
        base, activations=kept + copies + head_copy, logits=logits * (2.5 if half else 2)
    )
    # Kept log-probabilities, the gradient behind them, and the one before.
    loss = replace(base, activations=kept + head_copy, logits=3 * logits)
    first = replace(
        base,
        gradients=before + tables,
        activations=kept + turn,
        workspace=base.workspace + in_flight,
    )
    last = replace(
        base,
        gradients=max(before, trained - one),
        activations=turn + before_it,
        workspace=base.workspace + in_flight,
    )
    end = replace(
        base,
        gradients=max(before, trained) + 2 * tables,
        activations=before_it,
    )
    behind = replace(base, gradients=trained + beside, activations=load.rows * prefix.turn)
    moments = (encoding, forward, loss, first, last, end, behind)
    return max(moments, key=lambda memory: memory.total)


def plan(
    load: Load,
    batch: int,
    budget: float,
    *,
    rows: int | None = None,
    recompute: bool | None = None,
) -> Plan | None:
    """How to train `batch` rows a step within `budget` bytes; None where nothing fits.

    As many rows at once as fit with all activations kept; only where not even one does are they
    computed again, which takes a third more time. `rows` and `recompute` leave no choice.
    """
    for again in (False, True) if recompute is None else (recompute,):
        for at_once in (n for n in range(batch, 0, -1) if batch % n == 0):
            if rows in (None, at_once):
                fit = planned(replace(load, recompute=again, rows=at_once), batch)
                if fit.memory.total <= budget:
                    return fit
    return None


def choose(
    load: Load,
    batch: int,
    free: int | None,
    then: Mapping[str, Any],
    *,
    rows: int | None,
    checkpointing: str,
    advice: str,
    row: str = "row",
) -> Plan:
    """How much at once, and whether activations are kept: as told, as before, or as it fits.

    `batch` are the rows of a step for this process. ValueError where `rows` do not part them, and,
    with `advice`, where nothing fits into the memory that is free, unless `rows` insists.
    """
    if rows is not None and batch % rows:
        raise ValueError(
            f"got --micro-batch {rows}, wanted a divisor of {batch}, each process's share of"
            " --batch; change one of the two."
        )
    budget = math.inf if free is None else SHARE * free
    told = {"auto": None, "on": True, "off": False}[checkpointing]
    if then and rows is None and told is None and batch % then["micro_batch"] == 0:
        before = {"rows": then["micro_batch"], "recompute": then["checkpointing"]}
        if (same := plan(load, batch, budget, **before)) is not None:
            return same
    if (fits := plan(load, batch, budget, rows=rows, recompute=told)) is not None:
        return fits
    if rows is not None:
        return planned(replace(load, recompute=told is not False), batch)
    least = planned(replace(load, rows=1, recompute=told is not False), batch)
    assert free is not None
    raise ValueError(
        f"Training takes about {gigabytes(least.memory.total)} even one {row} at a time, and"
        f" {gigabytes(free)} are free on {load.device}. Take {advice}."
    )


def table(load: Load, batch: int) -> str:
    """For each size of GPU what fits, as text."""
    lines = ["  GPU     at once  accumulate  checkpointing   memory"]
    for size, fit in within(load, batch):
        row = "does not fit"
        if fit is not None:
            again = "on" if fit.recompute else "off"
            row = (
                f"{fit.rows:7}  {fit.accumulate:10}  {again:>13}  {fit.memory.total / 1e9:4.1f} GB"
            )
        lines.append(f"{size:4} GB  {row}")
    return "\n".join(lines)


def planned(load: Load, batch: int) -> Plan:
    """What it takes to train `batch` rows a step, `load.rows` at once."""
    parts = batch // load.rows
    memory = estimate(replace(load, accumulate=parts))
    return Plan(load.rows, parts, load.recompute, memory)


def within(load: Load, batch: int, gpus: Sequence[float] = GPUS) -> list[tuple[float, Plan | None]]:
    """For each size of GPU in GB, a plan that leaves 5 % of it to the allocator's gaps."""
    return [(size, plan(load, batch, 0.95e9 * size)) for size in gpus]


def describe(load: Load, chosen: Plan, free: int | None, *, row: str = "windows of") -> str:
    """A plan in words."""
    parts = f", {chosen.rows} at once" if chosen.accumulate > 1 else ""
    kept = "computed again" if chosen.recompute else "kept"
    of = "" if free is None else f" of {gigabytes(free)} free"
    return (
        f"{chosen.rows * chosen.accumulate} {row} {load.length:,} tokens a step{parts};"
        f" {load.precision}; activations {kept}; about {gigabytes(chosen.memory.total)}{of}"
        f" on {load.device}"
    )


def span(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 10 else f"{seconds:.2g} seconds"


def gigabytes(size: float) -> str:
    """A size in GB, or in MB where it is less than one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
