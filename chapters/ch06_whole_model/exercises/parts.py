"""What the references of this chapter share: GPT-2's parts once more, and how a class is used."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from chapters.runner.inputs import numbers
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config

# No two sizes are alike: T = 5, H = 3, D = 4, C = 12, P = 11, V = 17. In eval mode no dropout
# shows; explicit attention makes steps that can be pointed at.
SIZES = GPT2Config(
    n_vocab=17, n_ctx=11, n_embd=12, n_head=3, n_layer=2, dropout=0.5, attention="explicit"
)
NO_MODULE = {
    r"has no attribute '(?:eval|named_parameters)'": (
        "what comes out of the constructor is no module: the class must be an nn.Module"
    ),
    r"before Module.__init__\(\) call": "`super().__init__()` belongs first in `__init__`",
    r"takes \d+ positional arguments? but \d+ (?:was|were) given": (
        "it is called with other arguments than the stub had"
    ),
}


def norm(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * g + b


def bend(x: Tensor) -> Tensor:
    """GELU in the tanh form."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def attend(
    x: Tensor,
    state: dict[str, Tensor],
    hidden: Tensor | None,
    past: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Many heads, by einsum; `past` are the keys and values of the tokens before x."""
    y = x @ state["attn.c_attn.w"] + state["attn.c_attn.b"]
    q, k, v = y.unflatten(-1, (3, SIZES.n_head, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    if hidden is None:
        every = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        hidden = every.triu(k.shape[2] - q.shape[2] + 1)
    empty = hidden.all(-1, keepdim=True)  # a padded query, which may see nothing
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(hidden & ~empty, -math.inf).softmax(-1).masked_fill(empty, 0.0)
    mixed = torch.einsum("bhts,bhsd->bthd", weights, v).flatten(2)
    return mixed @ state["attn.c_proj.w"] + state["attn.c_proj.b"], (k, v)


class Kept(KVCache):
    """A cache whose numbers stay in the graph, so that gradients can be compared."""

    def __init__(self, batch: int, length: int, layers: int = SIZES.n_layer) -> None:
        super().__init__(SIZES, batch, length=length, dtype=torch.float64)
        self.layers = layers
        self.held: dict[int, tuple[Tensor, Tensor]] = {}

    def store(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if not 0 <= layer < self.layers:
            last = self.layers - 1
            raise IndexError(f"the cache has layers 0 to {last}; {layer} was asked for")
        if layer in self.held:
            start = self.length - k.shape[2]
            before_k, before_v = (each[:, :, :start] for each in self.held[layer])
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        self.held[layer] = k, v
        return k, v


def state_of(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Numbers for each parameter; gains lie around 1, since they multiply."""
    return {
        name: numbers(*shape, seed=seed + i, scale=0.3) + name.endswith(".g")
        for i, (name, shape) in enumerate(shapes.items())
    }


def listed(state: dict[str, Tensor]) -> dict[str, list[int]]:
    """Names and shapes, as a report shows them."""
    return {name: list(tensor.shape) for name, tensor in state.items()}


def declared(module: nn.Module) -> dict[str, list[int]]:
    """What a file must hold for a module: its parameters, each once, whatever else refers to it,
    and the buffers that are saved with them."""
    found = {name: list(parameter.shape) for name, parameter in module.named_parameters()}
    every = dict(module.named_parameters(remove_duplicate=False))
    return found | {n: list(t.shape) for n, t in module.state_dict().items() if n not in every}


def used(module: nn.Module, state: dict[str, Tensor], *args: object) -> dict[str, object]:
    """Its parameters, and what it gives with those of `state`, if they are the same."""
    module.eval()
    found = declared(module)
    if found != listed(state):
        return {"parameters": dict(sorted(found.items())), "output": None}
    return {"parameters": found, "output": functional_call(module, state, args)}
