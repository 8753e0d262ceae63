"""Each filter of logits against transformers' processor of the same name, and the draw itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from gpt2_scratch import sampling

B, T, V = 3, 29, 53  # distinct primes: no swapped axis passes
NO_IDS = torch.empty(B, 0, dtype=torch.long)


def random_logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(B, V, generator=torch.Generator().manual_seed(seed))


def random_ids(seed: int, below: int = 5, length: int = T) -> torch.Tensor:
    return torch.randint(below, (B, length), generator=torch.Generator().manual_seed(seed))


def with_ties(seed: int) -> torch.Tensor:
    """Logits of few different values: many tokens share the k-th or the crossing place."""
    return random_logits(seed).round()


SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.floats(0.05, 5.0))
def test_temperature_equals_transformers(seed, t):
    logits = random_logits(seed)
    expected = theirs.TemperatureLogitsWarper(t)(NO_IDS, logits)
    assert torch.equal(sampling.temperature(logits, t), expected)


@given(SEEDS, st.integers(1, 2 * V), st.booleans())
def test_top_k_equals_transformers(seed, k, ties):
    logits = with_ties(seed) if ties else random_logits(seed)
    assert torch.equal(sampling.top_k(logits, k), theirs.TopKLogitsWarper(k)(NO_IDS, logits))


@given(SEEDS, st.floats(0.0, 1.0), st.booleans())
def test_top_p_equals_transformers(seed, p, ties):
    logits = with_ties(seed) if ties else random_logits(seed)
    assert torch.equal(sampling.top_p(logits, p), theirs.TopPLogitsWarper(p)(NO_IDS, logits))


@given(SEEDS, st.floats(0.0, 1.0), st.booleans())
def test_min_p_equals_transformers(seed, p, ties):
    logits = with_ties(seed) if ties else random_logits(seed)
    assert torch.equal(sampling.min_p(logits, p), theirs.MinPLogitsWarper(p)(NO_IDS, logits))


@given(SEEDS, st.floats(0.1, 3.0))
def test_repetition_penalty_equals_transformers(seed, penalty):
    logits, ids = random_logits(seed), random_ids(seed, below=V)
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(sampling.repetition_penalty(logits, ids, penalty), expected)


@given(SEEDS, st.integers(1, 6), st.integers(1, T))
def test_no_repeat_ngram_equals_transformers(seed, n, length):
    logits, ids = random_logits(seed), random_ids(seed, below=3, length=length)
    expected = theirs.NoRepeatNGramLogitsProcessor(n)(ids, logits.clone())
    assert torch.equal(sampling.no_repeat_ngram(logits, ids, n), expected)


FILTERS = {
    "temperature": lambda logits, ids: sampling.temperature(logits, 0.7),
    "temperature 0": lambda logits, ids: sampling.temperature(logits, 0),
    "top_k": lambda logits, ids: sampling.top_k(logits, 5),
    "top_p": lambda logits, ids: sampling.top_p(logits, 0.6),
    "min_p": lambda logits, ids: sampling.min_p(logits, 0.1),
    "repetition_penalty": lambda logits, ids: sampling.repetition_penalty(logits, ids, 1.3),
    "no_repeat_ngram": lambda logits, ids: sampling.no_repeat_ngram(logits, ids, 2),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_leave_their_input_alone_and_treat_rows_alone(name):
    logits, ids = random_logits(1), random_ids(1)
    before = logits.clone(), ids.clone()
    out = FILTERS[name](logits, ids)
    assert out.shape == (B, V)
    assert not torch.equal(out, logits), "the filter did nothing"
    assert torch.equal(logits, before[0])
    assert torch.equal(ids, before[1])
    rows = [FILTERS[name](logits[i : i + 1], ids[i : i + 1]) for i in range(B)]
    assert torch.equal(out, torch.cat(rows))


def test_top_p_keeps_the_token_that_crosses_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = sampling.top_p(logits, 0.6).isfinite()[0].tolist()
    assert kept == [True, True, False, False]  # 0.5 is below 0.6, 0.5 + 0.3 crosses it
    alike = torch.zeros(1, 4)  # four times exactly a quarter: two of them reach a half
    assert sampling.top_p(alike, 0.5).isfinite().sum() == 2
    assert theirs.TopPLogitsWarper(0.5)(NO_IDS, alike).isfinite().sum() == 2


def test_top_k_beyond_the_vocabulary_keeps_all():
    logits = random_logits(2)
    assert torch.equal(sampling.top_k(logits, V + 100), logits)


def test_ids_of_minus_one_are_no_token():
    logits, ids = random_logits(3), random_ids(3, length=7)
    padded = torch.cat([torch.full((B, 4), -1), ids], dim=1)
    for name in ("repetition_penalty", "no_repeat_ngram"):
        assert torch.equal(FILTERS[name](logits, padded), FILTERS[name](logits, ids)), name
    nothing = torch.full((B, 4), -1)
    for name in ("repetition_penalty", "no_repeat_ngram"):
        assert torch.equal(FILTERS[name](logits, nothing), logits), name
        assert torch.equal(FILTERS[name](logits, NO_IDS), logits), name


def test_temperature_0_is_argmax():
    logits = random_logits(4)
    cold = sampling.temperature(logits, 0)
    assert torch.equal(cold.isfinite().sum(1), torch.ones(B, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        assert torch.equal(sampling.sample(cold, generator), logits.argmax(-1))
    assert torch.equal(sampling.greedy(logits), logits.argmax(-1))


def test_draws_follow_the_filtered_distribution():
    draws = 4000
    logits = sampling.top_k(random_logits(5, scale=1.0)[:1], 10)
    tokens = sampling.sample(logits.expand(draws, -1), torch.Generator().manual_seed(0))
    assert tokens.shape == (draws,)
    expected = draws * logits.exp()[0] / logits.exp().sum()
    observed = torch.bincount(tokens, minlength=V)
    kept = logits[0].isfinite()
    assert observed[~kept].sum() == 0
    chi_square = ((observed - expected)[kept].square() / expected[kept]).sum()
    # 9 degrees of freedom: above 27.9 by chance once in 1,000; a uniform draw gives over 1,000
    assert chi_square < 27.9


@pytest.mark.parametrize(
    ("call", "got"),
    [
        (lambda x, ids: sampling.temperature(x, -1.0), "temperature=-1.0"),
        (lambda x, ids: sampling.temperature(x, math.nan), "temperature=nan"),
        (lambda x, ids: sampling.top_k(x, 0), "top_k=0"),
        (lambda x, ids: sampling.top_p(x, 1.1), r"top_p=1\.1"),
        (lambda x, ids: sampling.min_p(x, -0.1), r"min_p=-0\.1"),
        (lambda x, ids: sampling.repetition_penalty(x, ids, 0.0), r"repetition_penalty=0\.0"),
        (lambda x, ids: sampling.no_repeat_ngram(x, ids, 0), "no_repeat_ngram=0"),
    ],
)
def test_nonsense_is_refused_by_name_and_value(call, got):
    with pytest.raises(ValueError, match=got):
        call(random_logits(6), random_ids(6))


def test_a_row_without_a_token_left_is_named():
    logits = torch.zeros(3, 4)
    logits[1] = -math.inf
    with pytest.raises(ValueError, match="Row 1 has no token left"):
        sampling.sample(logits)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_broken_is_named(value):
    logits = torch.zeros(3, 4)
    logits[2, 1] = value
    with pytest.raises(ValueError, match="Row 2 has scores that are NaN or infinite"):
        sampling.sample(logits)
