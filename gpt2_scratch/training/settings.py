"""What can be chosen about training: each default stands here, once. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt2_scratch.config import PRESETS, GPT2Config

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["fp32", "bf16", "fp16"]
Trained = Literal["all", "lora"]

# How a run is computed and saved, not what is trained: these may change from start to start.
HOW = ("checkpoint_seconds", "accumulate", "validate_every")
LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of every block of a GPT-2
CONTEXT = 256  # of a model from random numbers that names its own sizes


@dataclass(frozen=True)
class TrainingConfig:
    """How a run goes; `rates` are AdamW's, by prefix of the parameters' names.

    `matrix_rate` gives the weight matrices to Muon at that rate. A step's `batch` rows come in
    `accumulate` parts. `warmup` is a share of the steps; `clip` bounds the norm of all gradients
    together. `validate_every`: steps, None for at the end only.
    """

    steps: int
    batch: int
    rates: dict[str, float] = field(default_factory=lambda: {"": 3e-4})
    matrix_rate: float | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: Precision = "bf16"
    checkpoint_seconds: float = 60.0
    seed: int = 0
    accumulate: int = 1
    validate_every: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: both must be 1 or more.")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not part batch={self.batch} rows evenly."
                " Give a divisor of it."
            )
        if self.validate_every is not None and self.validate_every < 1:
            raise ValueError(f"validate_every={self.validate_every}: give 1 or more, or None.")

    def identity(self, title: str) -> str:
        """What a checkpoint is of: only a run of the same takes it up."""
        settings = {name: value for name, value in asdict(self).items() if name not in HOW}
        return f"{title}: {settings}"


@dataclass(frozen=True)
class LoRAConfig:
    """Adapters beside frozen linears (Hu et al. 2021); by default beside all four of each block."""

    rank: int = 8
    """r, the width between the two thin matrices."""
    alpha: float = 16.0
    """What the adapters add is scaled by alpha / r."""
    dropout: float = 0.0
    """Of the input on its way to the adapters."""
    linears: tuple[str, ...] = LINEARS
    """Ends of the names of those adapted."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank}: LoRA needs 1 or more; 4 to 64 are usual.")
        if not 0 < self.alpha < math.inf:
            raise ValueError(
                f"alpha={self.alpha}: give more than 0; once or twice the rank is usual."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} is not in [0, 1). 0 to 0.1 are usual.")
        if not self.linears:
            raise ValueError(f"LoRA was given no linears. Name some of {', '.join(LINEARS)}.")


def adapter_sizes(config: GPT2Config, lora: LoRAConfig) -> tuple[int, int]:
    """Of one block: how many numbers the adapters have, and how many a token feeds them."""
    c = config.n_embd
    shapes = dict(zip(LINEARS, ((c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)), strict=True))
    chosen = [shape for name, shape in shapes.items() if name.endswith(lora.linears)]
    return lora.rank * sum(i + o for i, o in chosen), sum(i for i, _ in chosen)


@dataclass(frozen=True)
class RunSettings:
    """What every training command asks; what is None is chosen by model, data and device.

    A row is what one sequence of the model is made of: a window of text, or a picture and caption.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="RUN")] = Path("runs/train")
    """Where checkpoint, logs and the finished model go; a second start goes on from there."""
    epochs: float = 3.0
    """How often the data is read."""
    steps: int | None = None
    """How many steps to train, instead of --epochs."""
    batch: int = 8
    """Rows a step, of all processes together: windows of text, or pictures with a caption."""
    micro_batch: int | None = None
    """Rows at once in a process, a divisor of its share of --batch; as many as fit into the memory
    where not given."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again instead of keeping them: a third more time, far less memory."""
    precision: Precision | None = None
    """Of the matrix products: bf16 or, on older GPUs, fp16; fp32 on a CPU."""
    compile: bool = False
    """Let torch compile the blocks: faster steps after minutes of waiting. Needs a C++ compiler."""
    schedule: Schedule = TrainingConfig.schedule
    """How the rate falls after the warm-up."""
    warmup: float = TrainingConfig.warmup
    """The share of the steps in which the rate rises."""
    weight_decay: float = TrainingConfig.weight_decay
    """Of the matrices and tables."""
    clip: float = TrainingConfig.clip
    """The most that the norm of all gradients together may be."""
    dropout: float | None = None
    """While it trains; the model's own where not given."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    validate_every: int | None = None
    """Steps between two validations; a tenth of the run where not given."""
    checkpoint_minutes: float = 10.0
    """How much time a kill may cost."""
    device: str | None = None
    """Where torch computes: cpu, cuda, cuda:1, mps; a GPU where there is one."""
    seed: int = TrainingConfig.seed
    """Of the order of the data, of dropout and of random numbers to start from."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_batch", "validate_every"):
            self.check_positive(name)
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(
                f"got --micro-batch {self.micro_batch}, wanted a divisor of --batch {self.batch}."
            )
        # As many epochs as can be counted; clip and minutes may be inf, which is never.
        self.check_number("epochs", "more than 0, at most a million", lambda x: 0 < x <= 1e6)
        self.check_number("warmup", "0 to 1", lambda x: 0 <= x <= 1)
        self.check_number("weight_decay", "0 or more", lambda x: 0 <= x < math.inf)
        self.check_number("clip", "more than 0", lambda x: x > 0)
        self.check_number("dropout", "0 or more, less than 1", lambda x: 0 <= x < 1)
        self.check_number("checkpoint_minutes", "0 or more", lambda x: x >= 0)
        self.check_number("seed", "a whole number below 2 ** 62", lambda x: abs(x) < 2**62)

    def check_positive(self, name: str) -> None:
        """ValueError where a number that was given is below 1."""
        self.check_number(name, "at least 1; raise it", lambda x: x >= 1)

    def check_number(self, name: str, wanted: str, holds: Callable[[float], bool]) -> None:
        """ValueError where a number that was given is not as wanted, as NaN never is."""
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise ValueError(f"got --{name.replace('_', '-')} {value}, wanted {wanted}.")


@dataclass(frozen=True)
class FinetuneConfig(RunSettings):
    """All that `finetune` asks; what is None is chosen by model, text and device."""

    texts: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="TEXT|FOLDER|-...", help_behavior_hint="(required)"),
    ] = ()
    """Text files in UTF-8, folders of them, or - for the standard input."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")] = Path("runs/finetune")
    """Where checkpoint, logs and the finished model go; a second start goes on from there."""
    model: Annotated[str, tyro.conf.arg(metavar="gpt2|...|FOLDER")] = "gpt2"
    """"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "scenes", or a folder, in any layout."""
    random_init: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Instead of a model, random numbers: gpt2, ..., or LAYERSxWIDTHxHEADS, such as 3x128x4."""
    train_tokenizer: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """With --random-init: learn a vocabulary of N tokens from the text; else GPT-2's is taken."""
    table_scale: float | None = None
    """With --random-init: scale of both embeddings; GPT-2's 0.02 and 0.01 where not given."""
    train: Trained = "all"
    """Every weight, or adapters of a hundredth of them beside the frozen rest."""
    length: int | None = None
    """Tokens of a window; the model's context where not given."""
    rate: float | None = None
    """AdamW's learning rate at its height: 5e-5, with LoRA 3e-4, from random numbers 1e-3."""
    matrix_rate: float | None = None
    """Give the weight matrices to Muon instead, at this rate."""
    held_out: float = 0.05
    """The share of the text that is never trained on: whole documents of ten or more, else the end
    of each."""
    sample: str = ""
    """How the sample texts begin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("length")
        self.check_number("held_out", "0 or more, less than 1", lambda x: 0 <= x < 1)
        for name in ("rate", "matrix_rate", "table_scale"):
            self.check_number(name, "more than 0", lambda x: 0 < x < math.inf)
        if self.random_init is None and (self.train_tokenizer or self.table_scale):
            raise ValueError(
                "--train-tokenizer and --table-scale are for a model from random numbers; add"
                " --random-init 3x128x4, or leave them out."
            )
        if self.random_init is not None and self.train == "lora":
            raise ValueError("LoRA adapts a trained model; with --random-init use --train all.")


def random_sizes(size: str, n_vocab: int, length: int | None) -> GPT2Config:
    """The config that `--random-init` names: a published size, or LAYERSxWIDTHxHEADS.

    `length` is its context; else 1024 as published, or 256.
    """
    if size in PRESETS:
        return GPT2Config.preset(size, n_vocab=n_vocab, n_ctx=length or PRESETS[size].n_ctx)
    parts = size.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(
            f"got --random-init {size}, wanted one of {', '.join(PRESETS)}, or"
            " LAYERSxWIDTHxHEADS, such as 3x128x4."
        )
    layers, width, heads = map(int, parts)
    return GPT2Config(
        n_vocab=n_vocab, n_ctx=length or CONTEXT, n_embd=width, n_head=heads, n_layer=layers
    )
