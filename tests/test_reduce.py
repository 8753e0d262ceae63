"""From 577 tokens to 58: lengths, values against plain numpy, and picking before computing."""

import numpy as np
import pytest
import torch

from connector.config import ConnectorConfig, ReducerConfig
from connector.connector import Connector
from connector.reduce import TokenReducer

B, W, C = 2, 5, 7
KINDS = ("article", "conv", "pool", "none")


def configured(reducer: ReducerConfig, *, patches: int = 16, **changes) -> ConnectorConfig:
    sizes = {"vision_width": W, "depth": 6, "patches": patches, "out": C, "dropout": 0.0}
    return ConnectorConfig(**(sizes | changes), reducer=reducer)


def build(config: ConnectorConfig, seed: int = 0) -> Connector:
    torch.manual_seed(seed)
    return Connector(config).double()


def random_tokens(config: ConnectorConfig) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (B, config.tokens_in, config.out)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_states(config: ConnectorConfig) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (B, 1 + config.patches, config.vision_width)
    states = [torch.randn(shape, generator=generator) for _ in range(config.depth + 1)]
    return [state.double().requires_grad_() for state in states]


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """(B, T, C), (C', C, k), (C',) -> (B, N, C'), token by token."""
    kernel = weight.shape[2]
    rows = []
    for start in range(0, x.shape[1] - kernel + 1, stride):
        window = x[:, start : start + kernel]  # (B, k, C)
        rows.append(sum(window[:, i] @ weight[:, :, i].T for i in range(kernel)) + bias)
    return np.stack(rows, axis=1)


def convs_of(reducer: TokenReducer) -> list[tuple[np.ndarray, np.ndarray]]:
    values = {name: p.detach().numpy() for name, p in reducer.named_parameters()}
    return [(values[f"convs.{i}.weight"], values[f"convs.{i}.bias"]) for i in range(2)]


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "between"),
    [((1, 1), 116), ((5, 1), 115), ((3, 1), 115), ((1, 2), 116)],
)
def test_577_tokens_become_58(kernels, between):
    config = ConnectorConfig(1024, 24, 576, 1280, reducer=ReducerConfig(kernels=kernels))
    assert (config.tokens_in, config.tokens) == (577, 58)
    with torch.device("meta"):
        reducer = TokenReducer(config)
        assert reducer.convs[0](torch.empty(1, 1280, 577)).shape == (1, 1280, between)
        assert reducer(torch.empty(1, 577, 1280)).shape == (1, 58, 1280)


@pytest.mark.parametrize("kernels", [(3, 2), (5, 2), (5, 5)])
def test_kernels_that_leave_another_number_are_refused(kernels):
    with pytest.raises(ValueError, match=r"leave 5\d of 577 tokens, wanted 58"):
        ConnectorConfig(1024, 24, 576, 1280, reducer=ReducerConfig(kernels=kernels))


def test_the_article_reads_one_token_in_ten():
    config = ConnectorConfig(1024, 24, 576, 1280)
    with torch.device("meta"):
        reducer = TokenReducer(config)
    assert reducer.keeps(577) == list(range(0, 571, 10))


@pytest.mark.parametrize(
    ("reducer", "tokens"),
    [
        (ReducerConfig("article", strides=(2, 2)), 37),
        (ReducerConfig("conv", strides=(2, 2)), 37),
        (ReducerConfig("pool", window=2), 37),
        (ReducerConfig("pool", window=3), 17),
        (ReducerConfig("none"), 145),
    ],
)
def test_the_tokens_of_twelve_by_twelve_patches(reducer, tokens):
    config = configured(reducer, patches=144)
    connector = build(config)
    assert config.tokens == connector.tokens == tokens
    assert connector(random_states(config)).shape == (B, tokens, C)
    assert configured(reducer, patches=144, variant="dci").tokens in (tokens, tokens - 1)


# --- what -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strides", "kernels"), [((5, 2), (1, 1)), ((2, 3), (3, 2))])
def test_article_equals_numpy(strides, kernels):
    config = configured(ReducerConfig("article", strides, kernels))
    reducer, x = build(config).reducer, random_tokens(config)
    wanted = x.numpy()
    for (weight, bias), stride in zip(convs_of(reducer), strides, strict=True):
        wanted = convolve(wanted, weight, bias, stride)
    # rounding of sums of 21 products
    np.testing.assert_allclose(reducer(x).detach().numpy(), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("strides", [(5, 2), (2, 2), (3, 4)])
def test_conv_equals_numpy_and_reads_every_token(strides):
    config = configured(ReducerConfig("conv", strides))
    reducer, x = build(config).reducer, random_tokens(config).requires_grad_()
    wanted = x.detach().numpy()
    for (weight, bias), stride in zip(convs_of(reducer), strides, strict=True):
        missing = -wanted.shape[1] % stride
        wanted = np.concatenate([wanted, np.zeros((B, missing, C))], axis=1)
        wanted = convolve(wanted, weight, bias, stride)
    got = reducer(x)
    np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=0, atol=1e-13)
    got.square().sum().backward()
    assert x.grad is not None and x.grad.abs().amin(dim=(0, 2)).gt(0).all()


@pytest.mark.parametrize("variant", ["article", "last", "dci", "sci"])
def test_pool_averages_squares_of_the_grid(variant):
    config = configured(ReducerConfig("pool", window=2), variant=variant)
    reducer, x = build(config).reducer, random_tokens(config)
    front = int(variant in ("article", "last"))
    rows = [x[:, :front]]
    for i in (0, 2):
        for j in (0, 2):
            square = [front + 4 * (i + a) + j + b for a in (0, 1) for b in (0, 1)]
            rows.append(x[:, square].mean(1, keepdim=True))
    # rounding of four numbers
    torch.testing.assert_close(reducer(x), torch.cat(rows, 1), rtol=0, atol=1e-15)


def test_none_changes_nothing():
    config = configured(ReducerConfig("none"))
    x = random_tokens(config)
    assert build(config).reducer(x) is x


# --- picked before -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["article", "dci", "sci", "sti", "last"])
@pytest.mark.parametrize("strides", [(5, 2), (2, 2), (1, 3)])
def test_picking_first_gives_the_same_values_and_gradients(variant, strides):
    config = configured(ReducerConfig("article", strides), patches=64, variant=variant)
    connector = build(config)
    literal, picked = random_states(config), random_states(config)
    a, b = connector(literal, literal=True), connector(picked)
    assert a.shape == b.shape == (B, config.tokens, C)
    # rounding: the order of the sums may differ
    torch.testing.assert_close(b, a, rtol=0, atol=1e-12)

    parameters = list(connector.parameters())
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(3), dtype=a.dtype)
    of = {"allow_unused": True, "materialize_grads": True}
    wanted = torch.autograd.grad((a * weight).sum(), [*literal, *parameters], **of)
    got = torch.autograd.grad((b * weight).sum(), [*picked, *parameters], **of)
    assert any(gradient.abs().max() > 0.01 for gradient in wanted)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_picking_first_computes_a_tenth():
    config = configured(ReducerConfig("article"), patches=576)
    connector, seen = build(config), []
    connector.dense.projection[0].register_forward_hook(
        lambda module, given, output: seen.append(given[0].shape[1])
    )
    connector(random_states(config))
    connector(random_states(config), literal=True)
    assert seen == [58, 577]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernels", [(1, 1), (1, 2), (3, 1)])
def test_only_kernel_one_picks(kind, kernels):
    reducer = build(configured(ReducerConfig(kind, kernels=kernels), patches=36)).reducer
    assert (reducer.keeps(37) is not None) == (kind == "article" and kernels == (1, 1))


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reducer", "changes", "says"),
    [
        ({"kind": "mean"}, {}, "kind='mean'"),
        ({"strides": (5,)}, {}, "strides="),
        ({"strides": (5, 0)}, {}, "strides="),
        ({"strides": 5}, {}, "strides=5: must be two whole numbers"),
        ({"strides": (2.5, 2)}, {}, "strides="),
        ({"kernels": ("3", "1")}, {}, "kernels="),
        ({"kernels": (18, 1)}, {}, "17 tokens leave none"),
        ({"kernels": (5, 4)}, {}, "17 tokens leave none"),
        ({"kind": "pool", "window": 3}, {}, "patches=16 with window=3"),
        ({"kind": "pool", "window": 2}, {"patches": 18}, "patches=18"),
        ({"kind": "pool", "window": 0}, {}, "window=0"),
        ({"kind": "pool"}, {"variant": "sti"}, "needs a grid"),
    ],
)
def test_a_wrong_reducer_says_why(reducer, changes, says):
    with pytest.raises(ValueError, match=says):
        configured(ReducerConfig(**reducer), **changes)


def test_tokens_of_another_connector_are_refused():
    config = configured(ReducerConfig("article"))
    with pytest.raises(ValueError, match="got 16 tokens, wanted 17"):
        build(config).reducer(random_tokens(config)[:, 1:])
