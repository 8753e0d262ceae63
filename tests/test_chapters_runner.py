"""The parts of the course's runner: stubs, comparison, diagnosis, swapping."""

import ast
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from chapters.runner import source, stub, swap
from chapters.runner.catalog import Entry, entries, find, folders, needed, select
from chapters.runner.compare import compare, shape_message
from chapters.runner.diagnose import Mistakes, tells
from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers
from chapters.runner.judge import judge
from chapters.runner.outcome import CODES, TITLES, Outcome
from chapters.runner.run import changed
from gpt2_scratch import model

ATTENTION, SOFTMAX = find("explicit_attention"), find("softmax")

# --- stubs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_a_stub_keeps_signature_and_docstring_and_nothing_of_the_body(entry):
    _, _, right = stub.solution(entry)
    node = ast.parse(stub.stub_text(entry)).body[0]
    assert type(node) is type(right) and node.name == entry.name
    assert ast.get_docstring(node) == ast.get_docstring(right)
    if isinstance(right, ast.FunctionDef):
        assert ast.dump(node.args) == ast.dump(right.args)
    if not entry.words.get("starter"):
        assert "raise NotImplementedError" in stub.stub_text(entry)
        assert "#" not in stub.stub_text(entry).split('"""')[-1]  # comments are hints
    assert stub.normal(node) != stub.normal(right)


@pytest.mark.parametrize("number", folders())
def test_a_chapter_of_stubs_is_whole_python_that_loads(number):
    text = stub.chapter_text(number)
    module = swap.load(stub.HERE / "none.py", text, "stubs")
    for entry in entries(number):
        assert callable(getattr(module, entry.name))
    for line in text.splitlines():
        assert len(line) <= 100


def test_stub_of_a_class_keeps_what_it_is_told_to(tmp_path, monkeypatch):
    text = '''
import math
from torch import nn
LIMIT = 3

class Thing(nn.Module):
    """A thing."""

    size = LIMIT  # kept

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = math.floor(size)  # a comment

    @property
    def half(self) -> int:
        """Half of it."""
        return self.size // 2  # gone

    def forward(self, x):  # gone too
        return x * LIMIT
'''
    tree = ast.parse(text)
    monkeypatch.setattr(stub, "read", lambda module: (text, tree))
    monkeypatch.setattr(Entry, "words", {"target": "m:Thing", "keep": ("__init__",)})
    made = stub.stub_text(ATTENTION)
    assert "self.size = math.floor(size)  # a comment" in made  # kept whole
    assert '@property\n    def half(self) -> int:\n        """Half of it."""\n' in made
    assert made.count("raise NotImplementedError") == 2
    assert "gone" not in made and "* LIMIT" not in made
    node = stub.definition(tree, "Thing")
    lines = stub.imports("m", [node], ("Thing",))
    assert lines == ["import math", "from torch import nn", "from m import LIMIT"]


def test_a_hash_changes_with_what_is_computed_and_with_nothing_else():
    def of(text):
        return stub.fingerprint(stub.closure(ast.parse(text), "f", ("g",)))

    text = (
        "def h(x):\n    return x\n\ndef f(x):\n    return h(x) + g(x)\n\ndef g(x):\n    return 1\n"
    )
    same = text.replace("return x", "'''Docs.'''\n    # comment\n    return (x)")
    assert of(text) == of(same)
    assert of(text) == of(text.replace("return 1", "return 2"))  # g is an exercise of its own
    assert of(text) != of(text.replace("return x", "return -x"))  # h is a helper of f
    assert of(text) != of(text.replace("h(x) + g(x)", "g(x) + h(x)"))


# --- the catalog ---------------------------------------------------------------------------------


def test_exercises_are_found_by_id_by_name_and_by_chapter():
    assert find("0.1") == find("softmax") == SOFTMAX
    assert select("0") == (SOFTMAX,) and select("all") == entries()
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names)  # so that a name is enough
    for wrong in ("0.2", "77", "softmaxx"):
        with pytest.raises(ValueError, match="There is no"):
            select(wrong)


def test_needs_are_earlier_and_come_in_order():
    for entry in entries():
        found = needed(entry)
        assert entry not in found
        assert list(found) == sorted(found, key=entries().index)
        assert all(entries().index(each) < entries().index(entry) for each in found)


# --- comparison ----------------------------------------------------------------------------------

AXES = ["batch", "heads", "query", "d"]


@pytest.mark.parametrize(
    ("got", "phrase"),
    [
        ((2, 5, 3, 4), "heads and query are swapped"),
        ((4, 2, 3, 5), "the axes come as d, batch, heads, query"),
        ((2, 3, 5), "d is missing"),
        ((2, 15, 4), "heads and query are still one axis"),
        ((2, 3, 5, 1), "d is 1: it was summed away or never spread out"),
        ((2, 3, 5, 5), "where d belongs there is query"),
        ((2, 3, 5, 12), "d is 3 times too long"),
        ((2, 3, 5, 2), "where d belongs there is batch"),
        ((2, 3, 7, 4), "query is 7 long"),
        ((2, 1, 3, 5, 4), "there is an axis of 1 too many, at place 1"),
        ((2, 3, 5, 2, 2), "d is still split into 2 and 2"),
    ],
)
def test_a_shape_says_what_was_done_to_it(got, phrase):
    says = shape_message(got, (2, 3, 5, 4), AXES)
    assert says.startswith("expected (batch 2, heads 3, query 5, d 4), yours (")
    assert says.endswith(phrase), says


def test_differences_have_a_kind():
    def kind(got, wanted):
        found = compare(got, wanted, 1e-9, [""])
        return found.kind if found else None

    x = numbers(2, 3)
    assert kind(x, x.clone()) is None and kind(x + 1e-11, x) is None
    assert kind(x + 1e-7, x) == "wrong"
    assert kind(x.float(), x) == "type"  # right numbers in fewer bits
    assert kind(x.float() + 0.1, x) == "wrong"
    assert kind(x / 0, x) == "nan" and kind(torch.full_like(x, math.nan), x) == "nan"
    assert kind(x > 0, x) == "type" and kind(x.tolist(), x) == "type"
    assert kind(None, x) == "none" and kind(x.T, x) == "shape"
    assert kind((x > 0).long(), x > 0) == "type"
    assert kind({"a": 1, "b": x}, {"a": 1, "b": x}) is None
    assert kind({"a": 1}, {"a": 1, "b": x}) == "wrong"
    assert kind((x, x), (x, x + 1)) == "wrong" and kind([1, 2], (1, 2)) is None
    assert kind(b"a", "a") == "type" and kind("a", "b") == "wrong"
    assert kind(1.0 + 1e-12, 1.0) is None and kind(torch.tensor(1.0), 1.0) is None


def test_lists_say_where_they_differ():
    found = compare(["a", "b", "x"], ["a", "b", "c", "d"], 0.0, [""])
    assert found and "item 2 'x', wanted 'c'" in found.says[0]
    found = compare(["a"], ["a", "b"], 0.0, [""])
    assert found and "1 long, wanted 2; what should follow is 'b'" in found.says[0]
    found = compare(["a", "b"], ["a"], 0.0, [""])
    assert found and "item 1 and on is not asked for: 'b'" in found.says[0]


def test_what_the_numbers_tell():
    exercise = SOFTMAX.load()
    right = exercise.reference(*exercise.probes[0].inputs(), knobs=frozenset(), steps={})

    def told(got):
        return tells(exercise, 0, got, right, ["batch", "row", "column"], {})

    assert told(3 * right) == ["everything is 3 times the expected value"]
    assert told(right + 0.5) == ["everything is 0.5 more than the expected value"]
    assert told(-right) == ["your output is the right one with the sign turned round"]
    assert told(right.flip(0)) == ["these are the right numbers in the wrong places"]
    assert told(torch.zeros_like(right)) == ["every number of your output is 0"]
    wrong = right.clone()
    wrong[:, 2:] += torch.rand(2, 1, 5)
    assert told(wrong)[0] == "right up to row 1, wrong from 2 on"
    x = exercise.probes[0].inputs()[0]
    assert told(x) == ["your output is the input x, unchanged"]


# --- diagnosis -----------------------------------------------------------------------------------


def test_a_triple_is_named_and_several_explanations_are_told_as_such():
    exercise = ATTENTION.load()
    names = ("no_scale", "no_causal", "no_pad")
    mistakes = Mistakes(exercise)
    outcome = judge(exercise, mistakes.answer(frozenset(names)), Outcome("", ""), own=True)
    assert set(outcome.knobs) == set(names)
    assert outcome.diagnosis.startswith("three things at once: (1) ")
    assert outcome.diagnosis.endswith("On every probe your output equals that.")


def test_a_mistake_must_fit_every_probe():
    """Right on the unpadded probe and wrong elsewhere is not any mistake of the unpadded one."""
    exercise = ATTENTION.load()

    def answer(q, k, v, hidden, dropout=0.0):
        if hidden.shape[-1] == 7:  # of one probe only
            return torch.softmax(q @ k.mT, -1) @ v
        return exercise.reference(q, k, v, hidden, knobs=frozenset(), steps={})

    outcome = judge(exercise, answer, Outcome("", ""), own=True)
    assert outcome.verdict == "wrong" and not outcome.knobs
    assert [stage.ok for stage in outcome.stages] == [True, True, False, True]


def test_the_oracle_alone_judges():
    """An answer that makes none of the reference's steps is right all the same."""
    exercise = ATTENTION.load()
    for way in exercise.alternatives:
        assert judge(exercise, way, Outcome("", ""), own=True).verdict == "right"


def test_confusable_mistakes_are_told_as_one():
    twin = Diagnosis("it is halved", "what is half?", "no", "ch00#axes", confusable=("b",))
    exercise = Exercise(
        name="f",
        target="",
        minutes=1,
        axes="row column",
        reference=lambda x, *, knobs, steps: x / (2 if {"a", "b"} & knobs else 1),
        probes=(Probe("two by three", lambda: (numbers(2, 3),)),),
        knobs={"a": twin, "b": twin, "c": twin},
        hints=("", "", ""),
        alternatives=(),
    )
    outcome = judge(exercise, lambda x: x / 2, Outcome("", ""), own=True)
    assert outcome.knobs == ["a"] and outcome.think == "what is half?"


def test_every_verdict_has_an_exit_code_of_the_seven():
    assert set(CODES.values()) == {0, 1, 3, 4, 5, 6}
    assert set(TITLES) <= set(CODES)
    assert CODES["right"] == 0 and list(CODES.values()).count(0) == 1


def test_an_outcome_survives_the_pipe():
    outcome = Outcome("1.1", "f", "wrong", says=["a"], knobs=["b"])
    judge(SOFTMAX.load(), lambda x, dim: x, outcome, own=True)
    assert Outcome.of(outcome.data()) == outcome
    assert outcome.data()["code"] == 1


# --- swapping ------------------------------------------------------------------------------------


def test_a_learners_piece_stands_in_the_packages_place_and_is_taken_out_again(monkeypatch):
    from gpt2_scratch import mistakes as another

    monkeypatch.setattr(another, "explicit_attention", model.explicit_attention, raising=False)
    before = model.explicit_attention

    def mine(*args):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), swap.placed(ATTENTION, mine):
        assert model.explicit_attention is another.explicit_attention is mine
        model.explicit_attention()
    assert model.explicit_attention is another.explicit_attention is before


def test_the_packages_own_is_out_of_reach():
    with swap.forbidden(ATTENTION), pytest.raises(swap.PackageUsedError, match="asks for"):
        model.explicit_attention(1, 2, 3, 4)
    assert callable(model.explicit_attention)


def test_a_forbidden_class_can_be_neither_made_nor_inherited(monkeypatch):
    monkeypatch.setattr(Entry, "words", {"target": "gpt2_scratch.model:LayerNorm"})
    with swap.forbidden(ATTENTION):
        with pytest.raises(swap.PackageUsedError):
            model.LayerNorm(3)
        with pytest.raises(swap.PackageUsedError):
            type("Mine", (model.LayerNorm,), {})


def test_a_class_made_of_a_forbidden_one_is_forbidden_too():
    from gpt2_scratch.bpe import Codec
    from gpt2_scratch.tokenizer import BPETokenizer

    with swap.forbidden(find("Codec")):
        with pytest.raises(swap.PackageUsedError):
            BPETokenizer([])
        assert Codec([]).end == 256  # of our own, which explains
    assert len(BPETokenizer([])) == 257


def test_whose_code_it_is(tmp_path):
    from chapters.runner.judge import from_file

    path = tmp_path / "mine.py"
    path.write_text(
        "import functools, torch\n"
        "def f(x):\n    return x\n"
        "g = torch.no_grad()(f)\n"
        "h = functools.wraps(f)(lambda x: x)\n"
        "class C(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
        "class D(torch.nn.ReLU):\n    pass\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass E:\n    x: int\n    def f(self):\n        return 1\n"
        "from math import sqrt\nk = torch.softmax\n"
    )
    module = swap.load(path, path.read_text(), "mine_alone")
    own = {name: from_file(getattr(module, name), str(path)) for name in "fghCDE"}
    assert own == {"f": True, "g": True, "h": True, "C": True, "D": False, "E": True}
    assert not from_file(module.sqrt, str(path)) and not from_file(module.k, str(path))
    sys.modules.pop("mine_alone")


def test_an_input_from_which_something_was_taken_has_changed():
    def reference(tensors, sizes):
        raise NotImplementedError

    of = SimpleNamespace(reference=reference)
    held = {"w": torch.ones(2), "b": torch.zeros(2)}
    for after in ({"w": torch.ones(2)}, {"b": torch.zeros(2)}, {**held, "b": None}):
        assert changed(of, (held, [1]), (after, [1])).startswith("tensors")
    assert changed(of, (held, [1]), (held, [1, 2])) == "sizes"
    assert changed(of, (held, [1]), (dict(held), [1])) == ""


# --- the file before it runs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "verdict", "phrase"),
    [
        ("def softmax(x, dim):\n    return x +\n", "syntax", "line 2: invalid syntax"),
        ("return 1\n", "syntax", "'return' outside function"),
        ('"""Only words."""\n', "empty", "holds no code"),
        ("def sofmax(x, dim):\n    return x\n", "missing", "it has `sofmax`"),
        ("x = 1\n", "missing", "has no `softmax`."),
        ("from torch import softmax\n", "foreign", "is imported"),
        ("from torch import *\n", "missing", "has no `softmax`"),
    ],
)
def test_what_is_said_of_a_file_that_does_not_even_run(text, verdict, phrase, tmp_path):
    path = tmp_path / "ch00_warmup.py"
    path.write_text(text)
    found = source.read(SOFTMAX, path)
    assert isinstance(found, Outcome) and found.verdict == verdict
    assert phrase in " ".join(found.says)


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        (b"\xef\xbb\xbfdef softmax(x, dim):\r\n    return x\r\n", ""),  # as Notepad saves it
        (b"# \xe9\ndef softmax(x, dim):\n    return x\n", "line 1: ch00_warmup.py is not UTF-8"),
        ("def softmax(x, dim): ...".encode("utf-16"), "line 1: ch00_warmup.py is not UTF-8"),
    ],
)
def test_encodings(data, phrase, tmp_path):
    path = tmp_path / "ch00_warmup.py"
    path.write_bytes(data)
    found = source.read(SOFTMAX, path)
    if not phrase:
        assert isinstance(found, source.Source)
    else:
        assert found.verdict == "syntax" and phrase in found.says[0]


def test_the_last_definition_counts(tmp_path):
    path = tmp_path / "ch00_warmup.py"
    path.write_text("def softmax(x, dim):\n    return x\n\n\ndef softmax(x, dim):\n    return -x\n")
    found = source.read(SOFTMAX, path)
    assert isinstance(found, source.Source) and found.line == 5
