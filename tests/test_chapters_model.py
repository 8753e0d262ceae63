"""Chapters 6 and 7: one list of mistakes with `verify`, unlisted answers, one file at the end."""

import pytest
import torch
from course import with_solution

from chapters.runner import bundle, stub, swap, whole_model
from chapters.runner.catalog import entries, find
from chapters.runner.diagnose import Mistakes
from chapters.runner.judge import judge
from chapters.runner.outcome import Outcome
from chapters.runner.trace import record, unwritten

HEAD = """from __future__ import annotations
import math
import re
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import *
from gpt2_scratch.model import embedding
from weights.tf_wire import *
"""
# Of the solution, what is replaced, by what. The line that is changed is the one to be told.
UNLISTED = [
    ("MLP", "gelu(self.c_fc(x))", "torch.tanh(self.c_fc(x))"),
    ("Block", "return x + self.mlp(self.ln_2(x))", "return 2 * x + self.mlp(self.ln_2(x))"),
    ("Block", "x + self.attn(self.ln_1(x)", "x + 0.5 * self.attn(self.ln_1(x)"),
    ("Block", "x + self.attn(self.ln_1(x)", "x + self.attn(self.ln_1(x.flip(-1))"),
    ("GPT2", "x + self.wpe(positions)", "x + 2 * self.wpe(positions)"),
    ("GPT2", "x = block(x, hidden, cache, layer)", "x = block(self.ln_f(x), hidden, cache, layer)"),
    ("GPT2", "@ self.wte.weight.T", "@ self.wte.weight.T / math.sqrt(12)"),
    ("GPT2", ".clamp(min=0)[:, before:]", ".clamp(min=0).flip(-1)[:, before:]"),
    ("lm_loss", "return losses[counts].mean()", "return losses[counts].median()"),
    ("lm_loss", 'reduction="none")', 'reduction="none", label_smoothing=0.1)'),
    ("initial", "return 1.0, 0.0", "return 1.0, 0.1"),
    ("read_tensor", "torch.from_numpy(data.copy())", "torch.from_numpy(data.copy()).abs()"),
]


BUFFER = "self.register_buffer('bias', torch.ones(3))"
# Right wherever it is tried once, and wrong in graduation, or in the next file: what is told of it.
LATER = [
    ("Block", {"hidden, cache, layer)": "hidden, cache, layer + 1)"}, "layers 0 to 1; 2 was asked"),
    (
        "MultiHeadAttention",
        {"config = config": f"config = config; {BUFFER}"},
        "not asked for: 'bias'",
    ),
    ("MLP", {"dropout = config.dropout": f"dropout = 0.0; {BUFFER}"}, "not asked for: 'bias'"),
    ("read_tensor", {"data.copy()": "data.astype(float)"}, "float64"),
    ("read_tensor", {"data.copy()": "data"}, "only looks at them"),
    (
        "read_entries",
        {
            "key = key[:shared]": "new = key[:shared]",
            "at += fresh": "at, key = at + fresh, key if shared else new",
            "(key, block": "(new, block",
        },
        "wanted b'model/h0/w2'",
    ),
]
# Mistakes that are listed, written as people write them.
LISTED = [
    (
        "masked_softmax",
        "scores.masked_fill(hidden, -math.inf)",
        "scores + hidden * -math.inf",
        "times_infinity",
    ),
    (
        "MultiHeadAttention",
        "k, v = cache.store(layer, k, v)",
        "cache.store(layer, k, v)",
        "cache_ignored",
    ),
    ("assign", "(dict(tensors), assign=True)", "(dict(tensors))", "copies"),
]


def report(tmp_path, name, changes):
    """What is said about a solution with these changes, and the line of the first of them."""
    entry, path = find(name), tmp_path / "answer.py"
    text = right = HEAD + stub.solution_text(entry)
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    outcome = Outcome(entry.id, entry.name, file=str(path))
    answer = getattr(swap.load(path, text, "answer"), name)
    judge(entry.load(), answer, outcome, Mistakes(entry.load(), [swap.solution(entry)]))
    return outcome, right[: right.index(next(iter(changes)))].count("\n") + 1


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(("name", "changes", "phrase"), LATER)
def test_what_would_only_fail_later_is_wrong_at_once(name, changes, phrase, tmp_path):
    outcome, _ = report(tmp_path, name, changes)
    assert outcome.code == 1 and any(phrase in each for each in outcome.says), outcome


@pytest.mark.parametrize(("name", "old", "new", "knob"), LISTED)
def test_a_listed_mistake_is_named_as_people_write_it(name, old, new, knob, tmp_path):
    outcome, _ = report(tmp_path, name, {old: new})
    assert outcome.knobs == [knob], outcome


@pytest.mark.parametrize(("name", "old", "new"), UNLISTED, ids=[f"{n}-{i}" for n, _, i in UNLISTED])
def test_the_line_of_a_mistake_that_nobody_listed(name, old, new, tmp_path):
    outcome, line = report(tmp_path, name, {old: new})
    assert outcome.verdict == "wrong" and not outcome.knobs, outcome
    assert any(f"line {line}," in each for each in outcome.where), (line, outcome.where)


def test_the_models_mistakes_are_the_registrys():
    """Where a knob of GPT2 has a name of the registry, both make the same of it."""
    exercise = find("GPT2").load()
    ids, state, _ = exercise.probes[0].inputs()
    shared = [name for name in exercise.knobs if name in whole_model.CHANGES]
    assert len(shared) >= 4
    for name in (None, *shared):
        knobs = frozenset([name] if name else [])
        mine = exercise.reference(ids, state, knobs=knobs, steps={})
        theirs = whole_model.sites(ids, state, 3, knobs=knobs)
        # float64, in another order of the same sums
        torch.testing.assert_close(mine["logits"], theirs["logits"], rtol=1e-10, atol=1e-10)
        cached = mine["logits with a cache"][:, ids.shape[1] // 2 :]
        torch.testing.assert_close(cached, theirs["cached.logits"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["explicit_attention", "MultiHeadAttention", "MLP", "Block", "GPT2"]
)
def test_a_right_answer_in_another_way_graduates(name):
    """Without a config of its own, with a head that is tied, row by row."""
    from chapters.runner.graduation import GOLDEN
    from gpt2_scratch.verify import verify

    for way in find(name).load().alternatives:
        with swap.placed(find(name), way):
            assert verify(GOLDEN / "hf-prefixed", GOLDEN / "oracle.npz").passed, way.__name__


def test_a_bundle_takes_along_what_its_parts_are_built_on(tmp_path):
    """Attention made of the learner's own scores and softmax, which are no parts of the model."""
    path = tmp_path / "ch04_one_head.py"
    text = stub.chapter_text(4)
    mine = (
        "def explicit_attention(q, k, v, hidden, dropout=0.0):\n"
        "    return masked_softmax(attention_scores(q, k), hidden).nan_to_num() @ v"
    )
    for entry in entries(4):
        if entry.name == "explicit_attention":
            text = text.replace(stub.stub_text(entry), mine)
        else:
            text = with_solution(text, entry)
    path.write_text(text)
    others = [(entry, path) for entry in entries(4)]
    made = bundle.bundle([(find("explicit_attention"), path)], others)
    for name in ("attention_scores", "masked_softmax"):
        assert made.count(f"def {name}(") == 1
        assert made.index(f"def {name}(") < made.index("def explicit_attention(")
    assert "4.1 attention_scores" in made and "4.2 causal_mask" not in made
    assert "import gpt2_scratch" not in made and "from chapters" not in made
    compile(made, "bundle", "exec")


def test_the_experiment_of_a_chapter_can_be_reproduced():
    from importlib import import_module

    for folder in ("ch06_whole_model", "ch07_openai_weights"):
        found = import_module(f"chapters.{folder}.experiment").EXPERIMENT
        number, lines = found.measure(lambda name: swap.solution(find(name)))
        assert found.band[0] <= number <= found.band[1], number
        assert len(lines) > 3


def test_memory_that_nobody_has_written_holds_no_right_numbers():
    """What torch.empty gives may be a wrong step that was just thrown away."""

    def use():
        x = torch.ones(2, 3)
        return torch.empty(2, 3), x.new_empty(2), torch.empty_like(x), torch.zeros(2), x.clone()

    made = record(use)[0].made
    assert [unwritten(each.name) for each in made[-5:]] == [True, True, True, False, False]
