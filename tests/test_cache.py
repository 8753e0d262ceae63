"""The key/value cache: whatever is asked in steps comes out as if it had been asked at once."""

import itertools

import pytest
import torch
from helpers import PATHS, gap, random_ids, random_model, tiny_config

from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2

EXACT = 1e-12  # float64: rounding is about 1e-15


def in_steps(
    model: GPT2, ids: torch.Tensor, steps: tuple[int, ...], padding: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, T, V) logits, `steps` tokens at a time."""
    assert sum(steps) == ids.shape[1]
    cache = KVCache(model.config, len(ids), length=ids.shape[1], dtype=torch.float64)
    logits, start = [], 0
    for end in itertools.accumulate(steps):
        mask = None if padding is None else padding[:, start:end]
        x = model.embed(ids[:, start:end])
        logits.append(model.forward_embeddings(x, mask, cache))
        start = end
        assert cache.length == end
    return torch.cat(logits, 1)


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [(13,), (1,) * 13, (5, 8), (1, 12), (12, 1), (7, 1, 2, 3)])
def test_steps_give_what_one_call_gives(path: str, steps: tuple[int, ...]) -> None:
    model, ids = random_model(attention=path), random_ids(3, 13)
    assert gap(in_steps(model, ids, steps), model(ids)) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [(5,), (1,) * 5, (2, 3), (3, 1, 1), (1, 4)])
def test_steps_with_padding_anywhere(path: str, steps: tuple[int, ...]) -> None:
    """All 32 masks of 5 tokens in one batch, against each row's real tokens alone."""
    model, ids = random_model(attention=path), random_ids(32, 5)
    masks = torch.tensor(list(itertools.product([False, True], repeat=5)))
    logits = in_steps(model, ids, steps, masks)
    assert logits.isfinite().all()
    for row, mask in enumerate(masks):
        if not mask.all():
            assert gap(logits[row][~mask], model(ids[row][~mask][None])[0]) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mask", [None, torch.zeros(3, 1, dtype=torch.bool)])
def test_a_padded_prompt_goes_on(path: str, mask: torch.Tensor | None, side: str) -> None:
    """Only the prompt has padding; the tokens that follow bring no mask, or one without."""
    model, ids, lengths = random_model(attention=path), random_ids(3, 9), (5, 3, 1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    for row, length in enumerate(lengths):
        padding[row, : 5 - length] = side == "left"
        padding[row, length:] = side == "right"
    cache = KVCache(model.config, 3, dtype=torch.float64)
    logits = [model.forward_embeddings(model.embed(ids[:, :5]), padding, cache)]
    for t in range(5, 9):
        logits.append(model.forward_embeddings(model.embed(ids[:, t : t + 1]), mask, cache))
    real = torch.cat([~padding, torch.ones(3, 4, dtype=torch.bool)], 1)
    assert torch.equal(cache.padding_mask, ~real)
    for row in range(3):
        alone = model(ids[row][real[row]][None])[0]
        assert gap(torch.cat(logits, 1)[row][real[row]], alone) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("rows", [[2, 0, 0], [1], [0, 1, 2, 2]])
def test_reorder_moves_repeats_and_drops_rows(rows: list[int]) -> None:
    model, ids, more = random_model(), random_ids(3, 7), random_ids(len(rows), 2, seed=1)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[0, :2] = padding[2, -1:] = True
    cache = KVCache(model.config, 3, dtype=torch.float64)
    model.forward_embeddings(model.embed(ids), padding, cache)
    cache.reorder(torch.tensor(rows))
    got = model.forward_embeddings(model.embed(more), cache=cache)
    whole = torch.cat([ids[rows], more], 1)
    mask = torch.cat([padding[rows], torch.zeros(len(rows), 2, dtype=torch.bool)], 1)
    assert gap(got, model(whole, mask)[:, 7:]) < EXACT


@torch.no_grad()
def test_a_cache_is_taken_once_and_holds_what_it_says() -> None:
    model, cache = random_model(), KVCache(tiny_config(), 2, length=7, dtype=torch.float64)
    assert cache.keys.shape == cache.values.shape == (2, 2, 3, 7, 7)  # L, B, H, tokens, D
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    in_it = random_ids(2, 7)
    for t in range(7):
        model.forward_embeddings(model.embed(in_it[:, t : t + 1]), cache=cache)
    assert (cache.keys.data_ptr(), cache.values.data_ptr()) == places
    assert cache.padding_mask.shape == (2, 7) and not cache.padding_mask.any()


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_cache_without_a_type_takes_the_models(path: str, dtype: torch.dtype) -> None:
    model, ids = random_model(dtype=dtype, attention=path), random_ids(2, 7)
    cache = KVCache(model.config, 2)
    logits = [model.forward_embeddings(model.embed(part), cache=cache) for part in ids.split(4, 1)]
    assert cache.keys.dtype == cache.values.dtype == dtype
    if dtype == torch.float64:
        assert gap(torch.cat(logits, 1), model(ids)) < EXACT


def test_large_takes_the_bytes_that_the_docstring_says() -> None:
    cache = KVCache(GPT2Config(), 1, length=1)
    assert cache.keys.nbytes + cache.values.nbytes == 368_640


@torch.no_grad()
def test_a_full_cache_says_so_and_stays_as_it_was() -> None:
    model, ids = random_model(), random_ids(2, 8)
    cache = KVCache(model.config, 2, length=7, dtype=torch.float64)
    before = model.forward_embeddings(model.embed(ids[:, :5]), cache=cache)
    with pytest.raises(ValueError, match=r"holds 5 of 7 tokens and 3 more came.*larger length"):
        model.forward_embeddings(model.embed(ids[:, 5:]), cache=cache)
    assert cache.length == 5
    after = model.forward_embeddings(model.embed(ids[:, 5:7]), cache=cache)
    assert gap(torch.cat([before, after], 1), model(ids[:, :7])) < EXACT


@torch.no_grad()
def test_the_context_ends_with_a_cache_too() -> None:
    model = random_model()
    cache = KVCache(model.config, 1, dtype=torch.float64)
    model.forward_embeddings(model.embed(random_ids(1, 13)), cache=cache)
    with pytest.raises(ValueError, match=r"14 tokens came; .*n_ctx=13"):
        model.forward_embeddings(model.embed(random_ids(1, 1)), cache=cache)
    assert cache.length == 13


@pytest.mark.parametrize("length", [0, 14])
def test_a_cache_longer_than_the_context_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"cache of {length} tokens .* 1 to n_ctx=13"):
        KVCache(tiny_config(), 1, length=length)


@pytest.mark.parametrize("rows", [1, 3])  # one row would spread over both without a word
def test_a_cache_for_another_batch_is_refused(rows: int) -> None:
    model, cache = random_model(), KVCache(tiny_config(), 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"holds 2 rows and {rows} came"):
        model.forward_embeddings(model.embed(random_ids(rows, 1)), cache=cache)
