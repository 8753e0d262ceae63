"""Attention: both paths, the mask, and what a query may see."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from helpers import PATHS, gap, grad, random_ids, random_model, stir, tiny_config
from torch import nn

from gpt2_scratch import model as model_file
from gpt2_scratch.model import (
    MultiHeadAttention,
    explicit_attention,
    fused_attention,
    hidden_positions,
)

# float64: rounding is about 1e-15, and a mistake is never that small.
EXACT = 1e-12


def random_qkv(
    queries: int = 5, keys: int = 7, *, size: int = 11, grad: bool = False
) -> list[torch.Tensor]:
    """q (2, 3, T, D), k and v (2, 3, S, D)."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, n, size, generator=generator, dtype=torch.float64).requires_grad_(grad)
        for n in (queries, keys, keys)
    ]


def some_padding(keys: int = 7) -> torch.Tensor:
    """(2, S): row 0 padded on the left (its first queries have no key), row 1 in the middle."""
    padding = torch.zeros(2, keys, dtype=torch.bool)
    padding[0, :4] = True
    padding[1, 3] = True
    return padding


def test_hidden_positions_are_the_future_and_the_padding() -> None:
    hidden = hidden_positions(3, 5, some_padding(5), torch.device("cpu"))
    assert hidden.shape == (2, 1, 3, 5)
    for row in range(2):
        for query in range(3):
            for key in range(5):
                future = key > query + 2  # the queries are the last 3 of the 5 tokens
                wanted = future or bool(some_padding(5)[row, key])
                assert hidden[row, 0, query, key] == wanted


@pytest.mark.parametrize("attend", [explicit_attention, fused_attention])
def test_attention_is_its_formula(attend) -> None:
    q, k, v = random_qkv()
    hidden = hidden_positions(5, 7, some_padding(), q.device)
    got = attend(q, k, v, hidden)
    for row in range(2):
        for head in range(3):
            for query in range(5):
                keys = [key for key in range(7) if not hidden[row, 0, query, key]]
                scores = [torch.dot(q[row, head, query], k[row, head, key]) for key in keys]
                raised = [math.exp(score / math.sqrt(11)) for score in scores]
                mixed = torch.zeros(11, dtype=torch.float64)
                for weight, key in zip(raised, keys, strict=True):
                    mixed += weight / sum(raised) * v[row, head, key]
                assert gap(got[row, head, query], mixed) < EXACT


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("padded", [False, True])
def test_multi_head_attention_is_torchs(path: str, padded: bool) -> None:
    ours = MultiHeadAttention(tiny_config(attention=path)).double().eval()
    nn.init.normal_(ours.c_attn.w)
    nn.init.normal_(ours.c_proj.w)
    stir(ours)
    theirs = nn.MultiheadAttention(21, 3, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.c_attn.w.T)
        theirs.in_proj_bias.copy_(ours.c_attn.b)
        theirs.out_proj.weight.copy_(ours.c_proj.w.T)
        theirs.out_proj.bias.copy_(ours.c_proj.b)
    x = torch.randn(2, 11, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padding = torch.zeros(2, 11, dtype=torch.bool)
    padding[0, 7:] = padded  # on the right, so that no query is left without a key (NaN in torch's)
    future = torch.ones(11, 11, dtype=torch.bool).triu(1)
    wanted, _ = theirs(x, x, x, attn_mask=future, key_padding_mask=padding, need_weights=False)
    hidden = hidden_positions(11, 11, padding, x.device) if padded else None
    torch.testing.assert_close(ours(x, hidden), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 7])
def test_both_paths_agree_in_values_and_gradients(queries: int, padded: bool) -> None:
    hidden = hidden_positions(queries, 7, some_padding() if padded else None, torch.device("cpu"))
    results = []
    for attend in (explicit_attention, fused_attention):
        q, k, v = random_qkv(queries, grad=True)
        out = attend(q, k, v, hidden)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        results.append([out, grad(q), grad(k), grad(v)])
    for explicit, fused in zip(*results, strict=True):
        torch.testing.assert_close(explicit, fused, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("queries", [1, 7])
def test_no_mask_means_that_only_the_future_is_hidden(queries: int) -> None:
    q, k, v = random_qkv(queries)
    causal = hidden_positions(queries, 7, None, q.device)
    assert gap(fused_attention(q, k, v, None), explicit_attention(q, k, v, causal)) < EXACT


@pytest.mark.parametrize("attend", [explicit_attention, fused_attention])
def test_a_query_without_a_key_gives_zeros_and_passes_no_gradient(attend) -> None:
    q, k, v = random_qkv(7, grad=True)
    hidden = hidden_positions(7, 7, some_padding(), q.device)
    out = attend(q, k, v, hidden)
    assert not out[0, :, :4].any()  # the four padded tokens on the left of row 0
    assert out[0, :, 4:].all() and out[1].all()
    out.square().sum().backward()
    for x in (q, k, v):
        assert grad(x).isfinite().all()
    assert not grad(q)[0, :, :4].any()
    for x in (k, v):  # nobody saw these keys
        assert not grad(x)[0, :, :4].any() and not grad(x)[1, :, 3].any()


@pytest.mark.parametrize("attend", [explicit_attention, fused_attention])
def test_gradients_are_those_of_finite_differences(attend) -> None:
    hidden = hidden_positions(5, 7, some_padding(), torch.device("cpu"))
    assert torch.autograd.gradcheck(
        lambda *qkv: attend(*qkv, hidden), random_qkv(size=2, grad=True)
    )


@contextmanager
def softmax_inputs() -> Iterator[list[torch.Tensor]]:
    """Everything that `torch.softmax` is given inside the block."""
    seen: list[torch.Tensor] = []
    right = torch.softmax

    def spy(scores: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        seen.append(scores.detach().clone())
        return right(scores, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file.torch, "softmax", spy)
        yield seen


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_hidden_scores_are_minus_infinity_and_no_others(side: str) -> None:
    model = random_model(attention="explicit")
    padding = torch.zeros(3, 7, dtype=torch.bool)
    if side == "left":
        padding[0, :3] = padding[1, :] = True  # row 1 is padding throughout
    elif side == "right":
        padding[0, -3:] = padding[1, :] = True
    with softmax_inputs() as seen:
        model(random_ids(3, 7), None if side == "none" else padding)
    assert len(seen) == 2  # one for each block
    for scores in seen:
        assert scores.shape == (3, 3, 7, 7)
        for row in range(3):
            for query in range(7):
                keys = [key for key in range(query + 1) if not padding[row, key]]
                if not keys:
                    continue  # a query with no key left: its weights are zeroed afterwards
                others = [key for key in range(7) if key not in keys]
                assert (scores[row, :, query, others] == -math.inf).all()
                assert scores[row, :, query, keys].isfinite().all()


@pytest.mark.parametrize("path", PATHS)
def test_sdpa_is_called_by_the_one_path_only(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("called")

    monkeypatch.setattr(model_file.F, "scaled_dot_product_attention", refuse)
    model = random_model(attention=path)
    if path == "explicit":
        model(random_ids(2, 5))
    else:
        with pytest.raises(AssertionError, match="called"):
            model(random_ids(2, 5))
