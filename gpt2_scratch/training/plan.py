"""Will it fit? What a training step of a GPT-2 holds in memory at its worst moment, by arithmetic.

Counted is what autograd keeps of this project's blocks, tensor by tensor; the tests measure it.
Letters as in `model.py`; a "row" is a window of T tokens, of which `rows` are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.training.language import CHUNK
from gpt2_scratch.training.settings import LINEARS, LoRAConfig, Precision

GPUS = (8, 12, 16, 24, 40, 80)  # GB that are sold
WIDE = 4  # bytes of a float32: weights, gradients, and whatever is no matrix product
CUDA_CONTEXT = 600e6  # what CUDA takes for itself, about; not measured here
IN_FLIGHT = 3  # tensors (B, T, 4 C) that the backward pass of one block holds for a moment


@dataclass(frozen=True)
class Load:
    """What is trained, and how: all that the memory of a step depends on."""

    config: GPT2Config
    length: int
    rows: int
    precision: Precision = "bf16"
    recompute: bool = False
    lora: LoRAConfig | None = None
    muon: bool = False
    accumulate: int = 1
    device: str = "cuda"


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


def adapter_sizes(config: GPT2Config, lora: LoRAConfig) -> tuple[int, int]:
    """Of one block: how many numbers the adapters have, and how many a token feeds them."""
    c = config.n_embd
    shapes = dict(zip(LINEARS, ((c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)), strict=True))
    chosen = [shape for name, shape in shapes.items() if name.endswith(lora.linears)]
    return lora.rank * sum(i + o for i, o in chosen), sum(i for i, _ in chosen)


def block_activations(load: Load) -> float:
    """Bytes that autograd keeps of one block, with the copies of its weights in half precision."""
    config, c, h = load.config, load.config.n_embd, load.config.n_head
    tokens = load.rows * load.length
    narrow = WIDE if load.precision == "fp32" else 2
    trained = load.lora is None
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
    """The worst of five moments: before the loss, behind it, in the first block of the backward
    pass, in the last, and at the end, when wte's gradients from head and embedding are added."""
    config, tokens = load.config, load.rows * load.length
    c, layers, table = config.n_embd, config.n_layer, WIDE * config.n_vocab * config.n_embd
    half = load.precision != "fp32"
    parameters = float(WIDE * config.parameters)
    # All numbers trained, those of the tables, those of one block: in bytes of their gradients.
    if load.lora is None:
        trained, tables, one = parameters, float(table), float(WIDE * 12 * c**2)
    else:
        one = float(WIDE * adapter_sizes(config, load.lora)[0])
        trained, tables = layers * one, 0.0
        parameters += trained
    block = block_activations(load)
    if load.recompute:  # each block's input, and while its turn is one block whole
        kept, turn = float(layers * tokens * WIDE * c), block
        at_once = min(CHUNK, tokens)
        # until the forward pass is done; of frozen weights autocast keeps none
        copies = 0.0 if load.lora else layers * weight_copies(load)
    else:
        kept, turn, at_once, copies = layers * block, 0.0, tokens, 0.0
    kept += tokens * c * (2 * WIDE + (2 if half else WIDE))  # ln_f, and what the head reads
    head_copy = table / 2 if half else 0.0
    logits = WIDE * config.n_vocab * at_once  # as float32
    in_flight = IN_FLIGHT * 4 * c * tokens * (2 if half else WIDE)
    before = trained if load.accumulate > 1 else 0.0  # gradients of the parts already done
    optimizer = 2 * trained - (layers * one if load.muon else 0.0)  # Muon keeps one number each
    base = Memory(parameters, optimizer, before, 0.0, 0.0, 0.0)
    if load.device != "cpu":
        base = replace(base, workspace=CUDA_CONTEXT)

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
        activations=turn,
        workspace=base.workspace + in_flight,
    )
    end = replace(base, gradients=trained + 2 * tables)
    return max((forward, loss, first, last, end), key=lambda memory: memory.total)


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


def planned(load: Load, batch: int) -> Plan:
    """What it takes to train `batch` rows a step, `load.rows` at once."""
    parts = batch // load.rows
    memory = estimate(replace(load, accumulate=parts))
    return Plan(load.rows, parts, load.recompute, memory)


def within(load: Load, batch: int) -> list[tuple[int, Plan | None]]:
    """For each size of GPU in GB, a plan that leaves 5 % of it to the allocator's gaps."""
    return [(size, plan(load, batch, 0.95e9 * size)) for size in GPUS]


def describe(load: Load, chosen: Plan, free: int | None) -> str:
    """A plan in words."""
    parts = f", {chosen.rows} at once" if chosen.accumulate > 1 else ""
    kept = "computed again" if chosen.recompute else "kept"
    of = "" if free is None else f" of {gigabytes(free)} free"
    return (
        f"{chosen.rows * chosen.accumulate} windows of {load.length:,} tokens a step{parts};"
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
