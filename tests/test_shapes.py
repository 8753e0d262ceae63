"""The first line of every `forward` is a shape contract; here each is executed.

`(B, T, C) -> (B, T, V)`: the shapes of the inputs, then the output's; `[(B, 1 + P, W)]` is a list
of such. A letter stands for the size that the model was built with, any other name (`in`, `out`)
for what the call brings where it first stands.
"""

import ast
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from connector.config import ConnectorConfig, ReducerConfig, Variant, VisionConfig
from connector.connector import Connector
from connector.vision import ClipVision
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2, Block

OURS = ("gpt2_scratch", "connector", "captioning", "test_shapes")
Sizes = dict[str, int]


class Lie(AssertionError):
    """A contract that the tensors contradict."""


def contract_of(kind: type[nn.Module]) -> tuple[list[str], str]:
    """The shapes that go in and the one that comes out, as written."""
    first = (kind.forward.__doc__ or "").strip().partition("\n")[0]
    before, arrow, after = first.partition(" -> ")
    ins, outs = re.findall(r"\(([^()]*)\)", before), re.findall(r"^\[?\(([^()]*)\)", after)
    if not (ins and arrow and outs):
        raise Lie(f"{kind.__name__}.forward begins with {first!r}, which is no shape contract")
    return ins, outs[0]


def size_of(dim: str, sizes: Sizes) -> int:
    """`1 + P`, `4C`: what a written dimension comes to."""
    total = 0
    for sign, term in re.findall(r"([+-]?)\s*([^+-]+)", dim):
        factors = re.findall(r"\d+|[A-Za-z_]+", term)
        size = math.prod(int(f) if f.isdigit() else sizes[f] for f in factors)
        total += -size if sign == "-" else size
    return total


def check(where: str, written: str, tensor: torch.Tensor, sizes: Sizes) -> None:
    """Hold a tensor against a written shape; names that are not in `sizes` yet are added to it."""
    dims = [dim.strip() for dim in written.split(",")]
    if len(dims) != tensor.ndim:
        raise Lie(f"{where}: ({written}) is written, {tuple(tensor.shape)} came")
    for dim, came in zip(dims, tensor.shape, strict=True):
        if dim.isidentifier():
            sizes.setdefault(dim, came)
        if size_of(dim, sizes) != came:
            raise Lie(f"{where}: {dim} of ({written}) is {size_of(dim, sizes)}, {came} came")


def listed(value: object) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else list(value)  # type: ignore[call-overload]


def run(model: nn.Module, *args: object, known: Sizes) -> set[str]:
    """Call `model` with every module of ours in it watched; the names of those that ran."""
    ran = set()

    def hold(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        kind, sizes = type(module), dict(known)
        ins, out = contract_of(kind)
        for number, written in enumerate(ins):
            for tensor in listed(given[number]):
                check(f"{kind.__name__}.forward, input {number}", written, tensor, sizes)
        for tensor in listed(output):
            check(f"{kind.__name__}.forward, output", out, tensor, sizes)
        ran.add(f"{kind.__module__}.{kind.__name__}")

    for module in model.modules():
        if type(module).__module__.partition(".")[0] in OURS:
            module.register_forward_hook(hold)
    with torch.no_grad():
        model(*args)
    return ran


# Sizes that no two letters share, nor their multiples.
B, T, C, H, V, P, W = 2, 5, 12, 3, 23, 16, 14
GPT = GPT2Config(n_vocab=V, n_ctx=7, n_embd=C, n_head=H, n_layer=2)
VISION = VisionConfig(
    image_size=24, patch_size=6, width=W, layers=4, heads=2, quick_gelu=True, projection=11
)


def run_gpt2(attention: str) -> set[str]:
    config = GPT2Config(**vars(GPT) | {"attention": attention})
    ids = torch.arange(B * T).view(B, T) % V
    return run(GPT2(config), ids, known={"B": B, "T": T, "C": C, "H": H, "D": C // H, "V": V})


def run_vision() -> set[str]:
    return run(ClipVision(VISION), torch.rand(B, 3, 24, 24), known={"B": B, "P": P, "W": W})


def run_connector(
    variant: Variant, reducer: ReducerConfig, n: int, literal: bool = False
) -> set[str]:
    config = ConnectorConfig(
        vision_width=W, depth=4, patches=P, out=C, variant=variant, reducer=reducer
    )
    states = [torch.rand(B, 1 + P, W) for _ in range(5)]
    known = {"B": B, "P": P, "W": W, "C": C, "N": n}
    return run(Connector(config), states, literal, known=known)


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_gpt2(attention):
    names = ("GPT2", "Block", "MultiHeadAttention", "MLP", "Conv1D", "LayerNorm")
    assert run_gpt2(attention) == {f"gpt2_scratch.model.{name}" for name in names}


def test_a_block_with_a_cache_keeps_its_contract():
    cache = KVCache(GPT, B)
    model = GPT2(GPT).eval()
    with torch.no_grad():
        model.forward_embeddings(torch.rand(B, T, C), cache=cache)
        block = model.h[0]
        cache.extend(B, 1, None)
        assert run(block, torch.rand(B, 1, C), None, cache, known={"B": B, "T": 1, "C": C})


def test_vision():
    assert run_vision() == {"connector.vision.ClipVision", "connector.vision.Block"}


# N by hand, for 16 patches: with the class token 17 tokens, `sti` 16 + 2 + 2.
@pytest.mark.parametrize(
    ("variant", "reducer", "n"),
    [
        ("article", ReducerConfig(strides=(2, 2)), 5),  # 0, 4, 8, 12, 16
        ("article", ReducerConfig(strides=(2, 3), kernels=(3, 2)), 3),  # 17 -> 8 -> 3
        ("article", ReducerConfig("conv", strides=(3, 2)), 3),  # 17 -> 6 -> 3
        ("article", ReducerConfig("pool"), 5),  # 1 + 2 x 2
        ("last", ReducerConfig("none"), 17),
        ("dci", ReducerConfig("none"), 16),
        ("sci", ReducerConfig("pool"), 4),
        ("sti", ReducerConfig("conv", strides=(3, 1)), 7),  # 20 -> 7 -> 7
    ],
)
def test_connector(variant, reducer, n):
    ran = run_connector(variant, reducer, n) | run_connector(variant, reducer, n, literal=True)
    assert ran == {
        "connector.connector.Connector",
        "connector.dense.DenseConnector",
        "connector.reduce.TokenReducer",
    }


def test_no_module_is_forgotten():
    """Every class of the two packages that has a `forward` was run above."""
    ran = run_gpt2("sdpa") | run_vision()
    ran |= run_connector("article", ReducerConfig(strides=(2, 2)), 5, literal=True)
    root = Path(__file__).resolve().parents[1]
    written = {
        ".".join((*path.relative_to(root).with_suffix("").parts, kind.name))
        for path in (root / "gpt2_scratch" / "model.py", *(root / "connector").glob("*.py"))
        for kind in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(kind, ast.ClassDef) and any(_is_forward(part) for part in kind.body)
    }
    assert written == ran


def _is_forward(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "forward"


# --- the ruler itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("(B, T, C) -> (B, C, T).", r"Block\.forward, output: C of \(B, C, T\) is 12, 5 came"),
        ("(B, C, T) -> (B, T, C).", r"Block\.forward, input 0: C of \(B, C, T\) is 12, 5 came"),
        ("(B, T, C) -> (B, T, 4C).", r"4C of \(B, T, 4C\) is 48, 12 came"),
        ("(B, T, C) -> (B, 1 + T, C).", r"1 \+ T of \(B, 1 \+ T, C\) is 6, 5 came"),
        ("(B, T, C) -> (B, C).", r"\(B, C\) is written, \(2, 5, 12\) came"),
        ("(B, some, C) -> (B, some, some).", r"some of \(B, some, some\) is 5, 12 came"),
        ("Attention, then MLP.", r"Block\.forward begins with 'Attention, then MLP.', which is no"),
        ("", r"Block\.forward begins with ''"),
    ],
)
def test_a_lie_is_found(lie, says, monkeypatch):
    monkeypatch.setattr(Block.forward, "__doc__", lie)
    with pytest.raises(Lie, match=says):
        run_gpt2("sdpa")


def test_a_truth_about_sums_and_multiples_passes(monkeypatch):
    monkeypatch.setattr(Block.forward, "__doc__", "(B, T, 3D - C + C) -> (B, T - 1 + 1, H D).")
    run_gpt2("sdpa")
