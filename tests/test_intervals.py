"""Bootstrap intervals and the paired test: against simulation, enumeration and recomputation."""

from itertools import product

import numpy as np
import pytest

from captioning.metrics import bootstrap, compare, measures
from captioning.metrics.bleu import bleu
from captioning.metrics.measure import Measure, mean


def test_the_interval_is_that_of_recomputed_resamples():
    said = [["a", "b", "c"], ["a", "x"], ["b"], ["c", "a"], ["d", "d", "d"]]
    wanted = [[["a", "b", "d"]], [["a", "y", "z"]], [["b"]], [["c", "a", "b"]], [["d", "d"]]]
    measure = bleu(said, wanted)[0]
    rng, values = np.random.default_rng(1), []
    for _ in range(2000):
        drawn = rng.integers(5, size=5)
        values.append(bleu([said[i] for i in drawn], [wanted[i] for i in drawn])[0].value)
    low, high = np.quantile(values, [0.025, 0.975])
    # Two sets of 2,000 draws: the bounds' own spread is below 0.02.
    assert bootstrap(measure) == pytest.approx((low, high), abs=0.05)
    assert bootstrap(measure)[0] < measure.value < bootstrap(measure)[1]


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        low, high = bootstrap(mean(rng.exponential(size=60)), resamples=300)
        held += low < 1 < high
    assert 0.88 < held / 200 < 0.99  # 95 % less what skewed data of 60 cost, spread 1.6 %


def test_the_same_seed_draws_the_same_images():
    values = mean(np.random.default_rng(0).normal(size=30))
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values) != bootstrap(values, seed=1)
    assert bootstrap(values, level=0.5)[0] > bootstrap(values)[0]


def test_a_system_does_not_differ_from_itself():
    one = measures(["a dog runs", "a cat"], [["a dog sits"], ["the cat"]])["BLEU-1"]
    same = compare(one, one)
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)


def test_a_small_steady_difference_is_found_and_a_large_chance_one_is_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=80)  # what images share; only pairing takes it out
    better = compare(mean(hard + 0.1 + 0.05 * rng.normal(size=80)), mean(hard))
    assert better.difference == pytest.approx(0.1, abs=0.03)
    assert better.interval[0] > 0 and better.p < 0.001
    other = compare(mean(hard), mean(hard[::-1].copy()))
    assert other.difference == pytest.approx(0, abs=1e-9) and other.p > 0.9


def test_p_is_that_of_all_swaps():
    rng = np.random.default_rng(3)
    parts = rng.integers(1, 9, size=(2, 9, 2)).astype(float)  # 9 images, errors and words
    first, second = (Measure(parts[i]) for i in (0, 1))
    gap = abs(first.value - second.value)
    as_large = []
    for swap in product([0, 1], repeat=9):
        one = Measure(parts[np.array(swap), np.arange(9)]).value
        two = Measure(parts[1 - np.array(swap), np.arange(9)]).value
        as_large.append(abs(one - two) >= gap - 1e-12)
    exact = np.mean(as_large)
    assert 0.02 < exact < 0.98
    # 10,000 draws: standard error at most 0.005
    assert compare(first, second, resamples=10_000).p == pytest.approx(exact, abs=0.02)


def test_p_is_even_where_nothing_differs():
    rng = np.random.default_rng(0)
    ps = [
        compare(mean(rng.normal(size=30)), mean(rng.normal(size=30)), resamples=200).p
        for _ in range(200)
    ]
    assert 0.01 < np.mean(np.array(ps) < 0.05) < 0.10  # 5 %, spread 1.5 %


def test_what_is_not_paired_or_not_drawn_is_refused():
    with pytest.raises(ValueError, match="got 3 images of one system and 2 of the other"):
        compare(mean([1, 2, 3]), mean([1, 2]))
    with pytest.raises(ValueError, match="got 0 resamples"):
        bootstrap(mean([1, 2, 3]), resamples=0)
