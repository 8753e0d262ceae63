"""What several tests of the language model need: a tiny GPT-2 in which every number counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2

PATHS = ("explicit", "sdpa")


def tiny_config(**changes) -> GPT2Config:
    """Sizes that are different primes wherever they can be (C = H D cannot)."""
    sizes = {"n_vocab": 31, "n_ctx": 13, "n_embd": 21, "n_head": 3, "n_layer": 2, "dropout": 0.0}
    return GPT2Config(**(sizes | changes))


@torch.no_grad()
def stir(module: torch.nn.Module, seed: int = 0) -> None:
    """Noise on every parameter, gains and biases too: one missing, swapped or transposed shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(0.2 * noise.to(parameter))


def random_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> GPT2:
    """A tiny GPT-2 in eval mode, in float64 unless told otherwise."""
    model = GPT2(tiny_config(**changes)).to(dtype).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    stir(model, seed)
    return model


def random_ids(rows: int, tokens: int, n_vocab: int = 31, seed: int = 0) -> torch.Tensor:
    """(B, T) ids."""
    return torch.randint(n_vocab, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def grad(tensor: torch.Tensor) -> torch.Tensor:
    """Its gradient, which must be there."""
    assert tensor.grad is not None
    return tensor.grad


def gap(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest absolute difference; a NaN on either side counts as infinite."""
    assert got.shape == wanted.shape, f"{tuple(got.shape)} against {tuple(wanted.shape)}"
    return (got.double() - wanted.double()).abs().nan_to_num(nan=torch.inf).max().item()


@contextmanager
def recorded(model: GPT2) -> Iterator[dict[str, torch.Tensor]]:
    """Fills a dict with every intermediate of the calls inside, under the names of tiny-a."""
    held: dict[str, torch.Tensor] = {}

    def keep_output(name: str):
        return lambda module, args, output: held.__setitem__(name, output.detach())

    def keep_input(name: str):
        return lambda module, args: held.__setitem__(name, args[0].detach())

    with ExitStack() as hooks:
        hooks.enter_context(model.h[0].register_forward_pre_hook(keep_input("embed")))
        hooks.enter_context(model.ln_f.register_forward_hook(keep_output("ln_f")))
        for i, block in enumerate(model.h.children()):
            for name in ("ln_1", "attn", "ln_2", "mlp"):
                part = block.get_submodule(name)
                hook = part.register_forward_hook(keep_output(f"layer{i:02}.{name}"))
                hooks.enter_context(hook)
            ln_2 = block.get_submodule("ln_2")
            hook = ln_2.register_forward_pre_hook(keep_input(f"layer{i:02}.resid_attn"))
            hooks.enter_context(hook)
            hooks.enter_context(block.register_forward_hook(keep_output(f"layer{i:02}.resid")))
        yield held


def present(model: GPT2, ids: torch.Tensor) -> torch.Tensor:
    """Keys and values as OpenAI's code returns them: (B, L, 2, H, T, D), L the number of blocks."""
    cache = KVCache(model.config, len(ids), dtype=model.wte.weight.dtype)
    model.forward_embeddings(model.embed(ids), cache=cache)
    both = torch.stack([cache.keys, cache.values], 2)  # (L, B, 2, H, capacity, D)
    return both[..., : cache.length, :].transpose(0, 1)
