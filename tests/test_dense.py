"""The Dense Connector's variants against plain numpy, with the layers of each depth by hand."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from connector import dense
from connector.config import ConnectorConfig, ReducerConfig, Variant
from connector.dense import DenseConnector

B, P, W, C = 2, 16, 5, 7

# depth: sparse layers low, middle, high; where dci splits its states; where article splits its own
LAYERS = {
    24: ((7, 15, 23), 12, 12),  # CLIP ViT-L, as in the paper's code and the article
    12: ((3, 7, 11), 6, 6),
    7: ((1, 3, 6), 3, 4),
    4: ((0, 1, 3), 2, 2),
    3: ((0, 1, 2), 1, 2),
}
FOR_ALL = pytest.mark.parametrize("depth", LAYERS)
VARIANTS = pytest.mark.parametrize("variant", dense.VARIANTS)


def random_states(depth: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (B, 1 + P, W)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(depth + 1)]


def average(states: list[np.ndarray]) -> np.ndarray:
    total = np.zeros_like(states[0])
    for state in states:
        total += state
    return total / len(states)


def reference(variant: str, states: list[torch.Tensor]) -> np.ndarray:
    """The definitions of the paper and of the article, with LAYERS in place of formulas."""
    whole = [state.numpy() for state in states]
    patches = [state[:, 1:] for state in whole]
    (low, middle, high), half, article_half = LAYERS[len(states) - 1]
    if variant == "article":
        groups = [average(whole[:article_half]), average(whole[article_half:])]
        return np.concatenate([whole[high + 1], *groups], axis=2)
    if variant == "dci":
        groups = [average(patches[:half]), average(patches[half : high + 1])]
        return np.concatenate([patches[high], *groups], axis=2)
    if variant == "sci":
        return np.concatenate([patches[high], patches[low], patches[middle]], axis=2)
    if variant == "last":
        return whole[high + 1]
    runs = [
        np.stack([state[:, 8 * i : 8 * i + 8].sum(1) / 8 for i in range(P // 8)], axis=1)
        for state in (patches[low], patches[middle])
    ]
    return np.concatenate([patches[high], *runs], axis=1)


@FOR_ALL
@VARIANTS
def test_variant_equals_numpy(variant, depth):
    states = random_states(depth)
    got = dense.VARIANTS[variant](states)
    # rounding of sums of 25 numbers; another layer or another order moves it by 1
    np.testing.assert_allclose(got.numpy(), reference(variant, states), rtol=0, atol=1e-13)


@FOR_ALL
@VARIANTS
def test_keep_picks_tokens_of_the_result(variant, depth):
    states = random_states(depth)
    function, keep = dense.VARIANTS[variant], slice(0, None, 3)
    # rounding of the means
    torch.testing.assert_close(
        function(states, keep), function(states)[:, keep], rtol=0, atol=1e-14
    )


def test_the_sizes_of_clip_large():
    """(tokens, channels) of each variant as the paper and the article print them."""
    printed = {
        "article": (577, 3072),
        "dci": (576, 3072),
        "sci": (576, 3072),
        "sti": (720, 1024),
        "last": (577, 1024),
    }
    states = [torch.empty(1, 577, 1024, device="meta") for _ in range(25)]
    for variant, (tokens, channels) in printed.items():
        config = ConnectorConfig(1024, 24, 576, 1280, variant=variant)
        with torch.device("meta"):
            module = DenseConnector(config)
        assert module.features(states).shape == (1, tokens, channels)
        assert (config.tokens_in, config.features) == (tokens, channels)
        assert module(states).shape == (1, tokens, 1280)


def test_the_parameters_of_both_projections():
    def count(variant: Variant) -> int:
        with torch.device("meta"):
            module = DenseConnector(ConnectorConfig(1024, 24, 576, 1280, variant=variant))
        return sum(p.numel() for p in module.parameters())

    assert count("dci") == 5_573_120  # 3072 -> 1280 -> 1280 with biases
    assert count("article") == 3072 * 1280 + 1280 + 2 * 1280
    assert count("last") == 1024 * 1280 + 1280 + 2 * 1280


def build(variant: Variant) -> DenseConnector:
    torch.manual_seed(1)
    module = DenseConnector(ConnectorConfig(W, 7, P, C, variant=variant)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def linear(module: nn.Module, x: np.ndarray) -> np.ndarray:
    parameters = dict(module.named_parameters())
    return x @ parameters["weight"].detach().numpy().T + parameters["bias"].detach().numpy()


@VARIANTS
def test_projection_equals_numpy(variant):
    module, states = build(variant).eval(), random_states(7)
    first, second, third = module.projection
    x = linear(first, reference(variant, states))
    if variant in ("article", "last"):  # Linear, Dropout (off), LayerNorm
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        x = x * third.weight.detach().numpy() + third.bias.detach().numpy()
        assert isinstance(second, nn.Dropout) and second.p == 0.1
    else:  # Linear, GELU (exact), Linear
        x = linear(third, x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
    got = module(states).detach().numpy()
    # rounding; the tanh GELU would be 1e-4 away, the sample variance 1e-1
    np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-10)


def test_dropout_is_on_in_training_alone():
    module, states = build("article"), random_states(7)
    assert not torch.equal(module.train()(states), module(states))
    assert torch.equal(module.eval()(states), module(states))


@pytest.mark.parametrize("variant", ["article", "dci", "sci", "last"])
def test_the_class_token_stays_where_the_article_keeps_it(variant):
    states = random_states(7)
    moved = [torch.cat([state[:, :1] + 1, state[:, 1:]], 1) for state in states]
    function = dense.VARIANTS[variant]
    assert torch.equal(function(states), function(moved)) == (variant in ("dci", "sci"))


def test_states_of_another_tower_are_refused():
    module = build("article")
    with pytest.raises(ValueError, match=r"got 7 hidden states of 16 patches, wanted 8 of 16"):
        module(random_states(7)[1:])  # the classic: layer 0 forgotten
    with pytest.raises(ValueError, match="of 15 patches, wanted 8 of 16"):
        module([state[:, 1:] for state in random_states(7)])  # the class token dropped before


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "mean"},
        {"depth": 2, "variant": "sci"},
        {"depth": 1, "variant": "dci"},
        {"patches": 20, "variant": "sti"},
        {"dropout": 1.0},
        {"out": 0},
        {"vision_width": 2.5},
        {"depth": 2.5},
        {"depth": "24"},
    ],
)
def test_a_wrong_config_says_which_value(wrong):
    sizes = {"vision_width": W, "depth": 24, "patches": P, "out": C} | wrong
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        ConnectorConfig(**sizes)


def test_a_config_survives_json():
    reducer = ReducerConfig("article", strides=(2, 3), kernels=(1, 2))
    config = ConnectorConfig(W, 7, P, C, variant="dci", reducer=reducer)
    assert ConnectorConfig(**json.loads(json.dumps(asdict(config)))) == config
