"""The model: each piece against torch's own, and what must hold whatever the weights are."""

import itertools
import math

import pytest
import torch
from helpers import PATHS, gap, grad, random_ids, random_model, stir, tiny_config
from torch import nn
from torch.nn import functional as F

from gpt2_scratch.model import GPT2, MLP, Block, Conv1D, LayerNorm, gelu

# float64: rounding is about 1e-15 an operation; the smallest mistake worth the name is above 1e-8.
EXACT = 1e-12


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# The pieces.


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at 1e-3 the epsilon is ten times the variance
def test_layer_norm_is_torchs(scale: float) -> None:
    norm = LayerNorm(23).double()
    stir(norm)
    x = scale * drawn(3, 7, 23) + 5
    wanted = F.layer_norm(x, (23,), norm.g, norm.b, eps=1e-5)
    torch.testing.assert_close(norm(x), wanted, rtol=1e-10, atol=EXACT)


def test_layer_norm_of_half_precision_is_computed_in_float32() -> None:
    norm = LayerNorm(23).bfloat16()
    x = (drawn(3, 7, 23) + 100).bfloat16()
    wanted = F.layer_norm(x.double(), (23,)).float()
    assert norm(x).dtype == torch.bfloat16
    assert gap(norm(x), wanted) < 2**-7  # half a step of bfloat16 around 2, the largest value


def test_gelu_is_torchs_tanh_form() -> None:
    x = torch.linspace(-11, 11, 1009, dtype=torch.float64)
    torch.testing.assert_close(gelu(x), F.gelu(x, approximate="tanh"), rtol=1e-10, atol=EXACT)
    assert 4e-4 < gap(gelu(x), F.gelu(x)) < 4.8e-4  # what the docstring says of the exact form


def test_conv1d_is_torchs_linear_with_its_weight_turned() -> None:
    linear = Conv1D(13, 17).double()
    nn.init.normal_(linear.w)
    stir(linear)
    x = drawn(2, 7, 13)
    torch.testing.assert_close(linear(x), F.linear(x, linear.w.T, linear.b), rtol=1e-10, atol=EXACT)


def test_conv1d_stays_narrow_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv1D(13, 17)(drawn(2, 7, 13).float()).dtype == torch.bfloat16


@pytest.mark.parametrize("piece", [LayerNorm(7), Conv1D(7, 5), MLP(tiny_config(n_embd=6))])
def test_gradients_are_those_of_finite_differences(piece: nn.Module) -> None:
    piece = piece.double().eval()
    for parameter in piece.parameters():
        nn.init.normal_(parameter)
    x = drawn(1, 3, 6 if isinstance(piece, MLP) else 7).requires_grad_()
    names, values = zip(*piece.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(piece, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


# Whatever the weights are.


@pytest.mark.parametrize("path", PATHS)
def test_the_future_changes_nothing_bit_for_bit(path: str) -> None:
    model = random_model(attention=path, dtype=torch.float32)
    ids = random_ids(2, 11)
    before = model(ids)
    for t in range(11):
        other = ids.clone()
        other[:, t] = (other[:, t] + 1) % 31
        after = model(other)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t] != before[:, t]).any(-1).all()  # it does change itself


@pytest.mark.parametrize("path", PATHS)
def test_a_batch_is_its_rows(path: str) -> None:
    model, ids = random_model(attention=path), random_ids(5, 11)
    together = model(ids)
    for row in range(5):
        assert gap(together[row], model(ids[row : row + 1])[0]) < EXACT


def test_both_paths_give_the_same_logits_and_gradients() -> None:
    ids, padding = random_ids(3, 11), torch.zeros(3, 11, dtype=torch.bool)
    padding[0, :4] = padding[1, -4:] = True
    explicit, fused = (random_model(attention=path) for path in PATHS)
    for mask in (None, padding):
        logits = [model(ids, mask) for model in (explicit, fused)]
        assert gap(*logits) < EXACT
        for model, out in zip((explicit, fused), logits, strict=True):
            model.zero_grad()
            out.square().sum().backward()
        for (name, one), other in zip(explicit.named_parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(grad(one), grad(other), rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("path", PATHS)
def test_padding_anywhere_changes_no_real_token(path: str) -> None:
    """All 32 masks of 5 tokens in one batch: left, right, both, in the middle, none, all."""
    model = random_model(attention=path)
    masks = torch.tensor(list(itertools.product([False, True], repeat=5)))
    ids = random_ids(32, 5)
    logits = model(ids, masks)
    assert logits.isfinite().all()
    for row, mask in enumerate(masks):
        if not mask.all():
            alone = model(ids[row][~mask][None])[0]
            assert gap(logits[row][~mask], alone) < EXACT


@pytest.mark.parametrize("path", PATHS)
def test_left_right_and_no_padding_agree(path: str) -> None:
    """Every mix of three lengths from 0 to 4, 125 batches."""
    model, ids = random_model(attention=path), random_ids(3, 4)
    alone = {(r, n): model(ids[r : r + 1, :n])[0] for r in range(3) for n in range(1, 5)}
    for lengths in itertools.product(range(5), repeat=3):
        at_left, at_right = torch.zeros_like(ids), torch.zeros_like(ids)
        left, right = torch.ones(2, 3, 4, dtype=torch.bool)
        for row, length in enumerate(lengths):
            at_left[row, 4 - length :] = at_right[row, :length] = ids[row, :length]
            left[row, 4 - length :] = right[row, :length] = False
        from_left, from_right = model(at_left, left), model(at_right, right)
        assert from_left.isfinite().all() and from_right.isfinite().all()
        for row, length in enumerate(lengths):
            if length:
                assert gap(from_left[row, 4 - length :], alone[row, length]) < EXACT
                assert gap(from_right[row, :length], alone[row, length]) < EXACT


@pytest.mark.parametrize("path", PATHS)
def test_what_stands_in_the_padding_is_never_read(path: str) -> None:
    model, ids = random_model(attention=path), random_ids(3, 7)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[0, :3] = padding[1, -3:] = padding[2] = True
    x = model.embed(ids).detach()
    before = model.forward_embeddings(x, padding)
    x[padding] = 1e3
    assert torch.equal(model.forward_embeddings(x, padding)[~padding], before[~padding])


@pytest.mark.parametrize("path", PATHS)
def test_padding_takes_no_gradient_and_leaks_none(path: str) -> None:
    """One padded batch, an all-padding row in it, has the gradients of its rows run alone."""
    model, ids, lengths = random_model(attention=path), random_ids(4, 7), [7, 4, 1, 0]
    padding = torch.ones(4, 7, dtype=torch.bool)
    for row, length in enumerate(lengths):
        padding[row, 7 - length :] = False
    x = model.embed(ids).detach().requires_grad_()
    model.forward_embeddings(x, padding)[~padding].square().sum().backward()
    assert not grad(x)[padding].any() and grad(x)[~padding].any(-1).all()
    padded = {name: grad(p).clone() for name, p in model.named_parameters()}

    model.zero_grad()
    for row, length in enumerate(lengths[:3]):
        alone = model.embed(ids[row : row + 1, 7 - length :]).detach()
        model.forward_embeddings(alone).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert padded[name].isfinite().all(), name
        torch.testing.assert_close(padded[name], grad(parameter), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_a_loss_over_padding_too_stays_finite(path: str) -> None:
    """No NaN in between either: torch's anomaly mode looks at every step backwards."""
    model, padding = random_model(attention=path), torch.ones(2, 5, dtype=torch.bool)
    padding[0, 2:] = False
    with torch.autograd.set_detect_anomaly(True):
        model(random_ids(2, 5), padding).square().sum().backward()
    assert all(grad(p).isfinite().all() for p in model.parameters())


def test_a_mask_of_no_padding_is_no_mask() -> None:
    model, ids = random_model(), random_ids(2, 5)
    assert gap(model(ids, torch.zeros(2, 5, dtype=torch.bool)), model(ids)) < EXACT


def test_embeddings_enter_where_ids_do() -> None:
    model, ids = random_model(), random_ids(2, 5)
    x = model.embed(ids)
    assert torch.equal(x, model.wte.weight[ids])
    assert torch.equal(model.forward_embeddings(x), model(ids))
    assert torch.equal(model.unembed(model.states(x)), model(ids))


def test_the_head_is_the_token_embedding_itself() -> None:
    model = random_model()
    states = drawn(2, 3, 21)
    assert gap(model.unembed(states), states @ model.wte.weight.T) < EXACT
    assert len(list(model.parameters())) == 2 + 12 * 2 + 2  # nothing beside what tiny-a names
    model.unembed(states).sum().backward()
    assert grad(model.wte.weight).any()


# Errors.


@pytest.mark.parametrize("path", PATHS)
def test_the_context_is_used_to_its_end_and_no_further(path: str) -> None:
    model = random_model(attention=path)
    assert model(random_ids(1, 13)).shape == (1, 13, 31)
    with pytest.raises(ValueError, match=r"14 tokens came; .*n_ctx=13"):
        model(random_ids(1, 14))


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(2, 4, dtype=torch.bool),
        torch.zeros(5, dtype=torch.bool),
        torch.ones(2, 5, dtype=torch.long),  # 1 = real, as Hugging Face's attention_mask
    ],
)
def test_a_padding_mask_of_another_kind_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"padding_mask is .*\(B, T\) beside \(B, T, C\)"):
        random_model()(random_ids(2, 5), mask)


# Dropout and initialisation.


def test_dropout_is_off_in_eval_and_on_in_training() -> None:
    for path in PATHS:
        model, ids = random_model(dropout=0.3, attention=path), random_ids(2, 7)
        assert torch.equal(model(ids), model(ids))
        assert gap(model(ids), random_model(dropout=0.0, attention=path)(ids)) < EXACT
        model.train()
        torch.manual_seed(0)
        assert gap(model(ids), model(ids)) > 0.1


def at_dropouts(model: GPT2, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What leaves each of the four places where dropout stands, run on x."""
    block, left = model.h[0], []
    assert isinstance(block, Block)

    def keep(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        left.append(args[0])

    with block.register_forward_pre_hook(keep):
        model.states(x)
    with block.attn.c_proj.register_forward_pre_hook(keep):
        attended = block.attn(x)
    embedded, mixed = left
    return {"embedding": embedded, "weights": mixed, "attention": attended, "mlp": block.mlp(x)}


@pytest.mark.parametrize("path", PATHS)
def test_dropout_stands_at_four_places_and_keeps_the_mean(path: str) -> None:
    """A thousand rows of the same token: a share p of zeros, the mean as without."""
    torch.manual_seed(0)
    p = 0.25
    model = GPT2(tiny_config(dropout=p, attention=path, n_layer=1)).double()
    stir(model)
    x = drawn(1, 1, 21).expand(1000, 1, 21)
    with_dropout, without = at_dropouts(model.train(), x), at_dropouts(model.eval(), x)
    for place, wanted in without.items():
        got = with_dropout[place]
        # 3,000 independent draws or more (a weight for each head and row): sigma < 0.008
        assert (got == 0).double().mean().item() == pytest.approx(p, abs=0.03), place
        if place != "attention":  # that one varies before its dropout, by the weights'
            assert gap(torch.where(got == 0, wanted, got * (1 - p)), wanted) < EXACT, place
        # The mean of 1,000 draws of a value w has a sigma of w sqrt(p / (1 - p) / 1000) = 0.018 w.
        assert gap(got.mean(0), wanted.mean(0)) < 0.2 * wanted.abs().max(), place


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_are_drawn_as_documented(seed: int) -> None:
    """0.02; wpe 0.01; the projections into the residual stream 0.02 / sqrt(2 L); g 1 and b 0."""
    torch.manual_seed(seed)
    model = GPT2(tiny_config(n_vocab=101, n_ctx=97, n_embd=96, n_layer=5))
    for name, parameter in model.named_parameters():
        if name.endswith(".b"):
            assert not parameter.any()
        elif name.endswith(".g"):
            assert (parameter == 1).all()
        else:
            wanted = 0.01 if name.startswith("wpe") else 0.02
            wanted /= math.sqrt(2 * 5) if "c_proj" in name else 1
            # At least 9,000 numbers each: the std of a sample is within 0.8 % (one sigma).
            assert parameter.std().item() == pytest.approx(wanted, rel=0.04), name
            assert abs(parameter.mean().item()) < 0.04 * wanted, name


def test_initialising_again_with_a_generator_repeats() -> None:
    one, other = GPT2(tiny_config()), GPT2(tiny_config())
    for model in (one, other):
        model.initialise(torch.Generator().manual_seed(5))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
