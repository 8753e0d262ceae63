"""Tests of the exercises' tests: each known mistake is caught and named, each right way passes."""

import pytest

from chapters.runner.catalog import entries
from chapters.runner.gate import gate, table

EVERY = entries()


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: f"{entry.id}-{entry.name}")
def test_every_mistake_is_caught_and_named_and_every_right_way_passes(entry):
    score = gate(entry, thorough=False)
    assert not score.problems, "\n".join(score.problems)
    assert score.knobs_named == score.knobs >= 6
    assert score.alternatives >= 3


@pytest.mark.slow
@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: f"{entry.id}-{entry.name}")
def test_every_pair_is_named_or_declared_and_every_generic_mutant_is_caught(entry):
    score = gate(entry)
    assert not score.problems, "\n".join(score.problems)
    named = score.pairs_named + score.pairs_among_three + score.pairs_declared
    assert named == score.pairs
    assert score.mutants_caught + score.survivors == score.mutants > 0
    # Of what nobody listed, nearly all is named or pointed at; shapes and errors speak themselves.
    assert f"| {entry.id} `{entry.name}` |" in table([score])
