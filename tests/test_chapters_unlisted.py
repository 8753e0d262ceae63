"""Wrong answers that no exercise lists: the report points at the line, or at the step."""

import re
import textwrap

import pytest

from chapters.runner import swap
from chapters.runner.catalog import entries, find
from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers
from chapters.runner.judge import judge
from chapters.runner.outcome import Outcome
from chapters.runner.trace import alike

# Each is a whole function; the line with the mistake is the one that ends in "# here".
ATTENTION = """
    def explicit_attention(q, k, v, hidden, dropout=0.0):
        {}
"""
SCORES = "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])"
HIDE = "scores = scores.masked_fill(hidden & ~empty, -math.inf)"
WEIGHTS = "weights = torch.softmax(scores, -1).masked_fill(empty, 0.0)"
EMPTY = "empty = hidden.all(-1, keepdim=True)"
UNLISTED = {
    "adds one under the root": [
        EMPTY,
        "scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1] + 1)  # here",
        HIDE,
        WEIGHTS,
        "return weights @ v",
    ],
    "squashes the scores": [
        EMPTY,
        SCORES,
        "scores = torch.tanh(scores)  # here",
        HIDE,
        WEIGHTS,
        "return weights @ v",
    ],
    "sigmoid for softmax": [
        EMPTY,
        SCORES,
        HIDE,
        "weights = torch.sigmoid(scores).masked_fill(empty, 0.0)  # here",
        "return weights @ v",
    ],
    "values of the neighbouring head": [
        EMPTY,
        SCORES,
        HIDE,
        WEIGHTS,
        "v = v.roll(1, 1)  # here",
        "return weights @ v",
    ],
    "keys read anew instead of transposed": [
        EMPTY,
        "turned = k.reshape(*k.shape[:2], k.shape[3], k.shape[2])  # here",
        "scores = q @ turned / math.sqrt(q.shape[-1])",
        HIDE,
        WEIGHTS,
        "return weights @ v",
    ],
    "weights doubled in the end": [
        EMPTY,
        SCORES,
        HIDE,
        WEIGHTS,
        "mixed = weights @ v",
        "return mixed * 2 - 1  # here",
    ],
    "the first head left out": [
        EMPTY,
        SCORES,
        HIDE,
        WEIGHTS,
        "weights = torch.cat([torch.zeros_like(weights[:, :1]), weights[:, 1:]], 1)  # here",
        "return weights @ v",
    ],
    "queries normalised": [
        EMPTY,
        "q = q / q.norm(dim=-1, keepdim=True)  # here",
        SCORES,
        HIDE,
        WEIGHTS,
        "return weights @ v",
    ],
    "the largest weight alone": [
        EMPTY,
        SCORES,
        HIDE,
        WEIGHTS,
        "weights = F.one_hot(weights.argmax(-1), k.shape[2]).to(v)  # here",
        "return weights @ v",
    ],
    "in loops, with the wrong key": [
        "out = torch.zeros_like(q)",
        "for b in range(q.shape[0]):",
        "    for t in range(q.shape[2]):",
        "        seen = ~hidden[b % hidden.shape[0], 0, t]",
        "        s = q[b, :, t : t + 1] @ k[b][:, seen].mT / math.sqrt(q.shape[-1])",
        "        w = torch.softmax(s * 1.1, -1)  # here",
        "        out[b, :, t] = (w @ v[b][:, seen])[:, 0]",
        "return out",
    ],
}


def report(tmp_path, entry_name, text):
    entry = find(entry_name)
    path = tmp_path / "answer.py"
    head = "import math\nimport torch\nfrom torch.nn import functional as F\n"
    path.write_text(head + textwrap.dedent(text))
    answer = getattr(swap.load(path, path.read_text(), "answer"), entry_name)
    outcome = Outcome(entry.id, entry.name, file=str(path))
    judge(entry.load(), answer, outcome)
    lines = path.read_text().splitlines()
    return outcome, next((i for i, line in enumerate(lines, 1) if "# here" in line), 0)


@pytest.mark.parametrize("name", UNLISTED)
def test_the_line_of_a_mistake_that_nobody_listed(name, tmp_path):
    text = ATTENTION.format("\n        ".join(UNLISTED[name]))
    outcome, line = report(tmp_path, "explicit_attention", text)
    assert outcome.verdict == "wrong" and not outcome.knobs, outcome
    assert any(f"line {line}," in each for each in outcome.where), (line, outcome.where)


def test_a_tensor_is_known_with_its_axes_moved_and_not_when_it_is_cut_anew():
    x = numbers(2, 3, 5, 4)  # B, H, T, D
    for same in (x.movedim(1, 2), x.movedim(1, 2).flatten(2), x.flatten(0, 1), x.mT[:, None]):
        assert alike(same, x) and alike(x, same), same.shape
    joined = x.movedim(1, 2).flatten(2)  # B, T, C
    for other in (x.reshape(2, 5, 12), joined.reshape(2, 3, 5, 4), x.reshape(2, 3, 4, 5)):
        assert not alike(other, x) and not alike(x, other), other.shape


def test_the_step_before_it_is_named_too(tmp_path):
    text = ATTENTION.format("\n        ".join(UNLISTED["sigmoid for softmax"]))
    outcome, _ = report(tmp_path, "explicit_attention", text)
    assert "made the scores divided by sqrt(D): right" in outcome.where[0]
    assert outcome.where[1] == "the next step, the weights, does not appear"


SOFTMAX = {
    "base 2": "return 2**shifted / (2**shifted).sum(dim, keepdim=True)  # here",
    "one in the sum": "return shifted.exp() / (1 + shifted.exp().sum(dim, keepdim=True))  # here",
    "squared": "return (shifted.exp() / shifted.exp().sum(dim, keepdim=True)) ** 2  # here",
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_the_line_of_a_wrong_softmax(name, tmp_path):
    text = f"""
        def softmax(x, dim):
            shifted = x - x.amax(dim, keepdim=True)
            {SOFTMAX[name]}
    """
    outcome, line = report(tmp_path, "softmax", text)
    assert any(f"line {line}," in each for each in outcome.where), outcome.where


# Beyond tensors that torch makes: arrays, lists, chance, modules, errors. The verdict comes first.
ELSEWHERE = {
    "numbers in an array": (
        "wrong",
        """
        def softmax(x, dim):
            a = x.detach().numpy()
            shifted = a - a.max(axis=dim, keepdims=True)
            grown = numpy.exp2(shifted)  # here
            return torch.from_numpy(grown / grown.sum(axis=dim, keepdims=True))
        """,
    ),
    "numbers one by one": (
        "wrong",
        """
        def gelu(x):
            values = []
            for v in x.flatten().tolist():
                inner = math.sqrt(2 / math.pi) * (v + 0.044715 * v**4)  # here
                values.append(0.5 * v * (1 + math.tanh(inner)))
            return torch.tensor(values, dtype=x.dtype).reshape(x.shape)
        """,
    ),
    "in a helper": (
        "wrong",
        """
        def share(v):
            inner = math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)
            return 0.5 + 0.6 * math.tanh(inner)  # here


        def gelu(x):
            values = [v * share(v) for v in x.flatten().tolist()]
            return torch.tensor(values, dtype=x.dtype).reshape(x.shape)
        """,
    ),
    "whole numbers in an array": (
        "wrong",
        """
        def pad(rows, pad_id, side):
            most = max(map(len, rows))
            ids = numpy.full((len(rows), most), pad_id)
            mask = numpy.ones((len(rows), most), dtype=bool)
            for i, row in enumerate(rows):
                place = slice(most - len(row), most) if side == "left" else slice(0, len(row))
                ids[i, place] = sorted(row)  # here
                mask[i, place] = False
            return torch.from_numpy(ids), torch.from_numpy(mask)
        """,
    ),
    "two names mixed up": (
        "nan",
        """
        def layer_norm(x, g, b, eps):
            mean, var = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
            return (x - mean) / torch.sqrt(var + eps) * g + b  # here
        """,
    ),
    "a matrix read anew": (
        "wrong",
        """
        def unembed(states, wte):
            turned = wte.reshape(wte.shape[1], wte.shape[0])  # here
            return states @ turned
        """,
    ),
    "a list that was given": (
        "mutates",
        """
        def pad(rows, pad_id, side):
            most = max(map(len, rows))
            mask = [[False] * len(row) + [True] * (most - len(row)) for row in rows]
            for row in rows:
                row += [pad_id] * (most - len(row))  # here
            return torch.tensor(rows), torch.tensor(mask)
        """,
    ),
    "a tensor that was given, as an array": (
        "mutates",
        """
        def softmax(x, dim):
            a = x.detach().numpy()
            a -= a.max(axis=dim, keepdims=True)  # here
            return x.softmax(dim)
        """,
    ),
    "chance": (
        "unsteady",
        """
        def softmax(x, dim):
            noise = random.random()  # here
            return x.softmax(dim) + noise
        """,
    ),
    "a module in the place of parameters": (
        "wrong",
        """
        class Conv1D(torch.nn.Module):
            def __init__(self, size_in, size_out):
                super().__init__()
                self.linear = torch.nn.Linear(size_in, size_out)  # here

            def forward(self, x):
                return self.linear(x)
        """,
    ),
    "the wrong type": (
        "type",
        """
        def softmax(x, dim):
            right = x.softmax(dim)
            return right.detach().numpy()  # here
        """,
    ),
    "nothing": (
        "none",
        """
        def softmax(x, dim):
            right = x.softmax(dim)  # here
        """,
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_the_line_where_torch_alone_does_not_tell(name, tmp_path):
    verdict, text = ELSEWHERE[name]
    entry = re.findall(r"^ +(?:def|class) (\w+)", text, re.M)
    entry = next(each for each in entry if each in [e.name for e in entries()])
    head = "import random\nimport numpy\n"
    outcome, line = report(tmp_path, entry, head + textwrap.dedent(text))
    assert outcome.verdict == verdict and not outcome.knobs, outcome
    assert any(f"line {line}," in each for each in outcome.where), (line, outcome.where)


def test_what_was_mixed_up_is_named(tmp_path):
    outcome, line = report(tmp_path, "layer_norm", ELSEWHERE["two names mixed up"][1])
    assert f"reads x and the variance (line {line - 1}) and makes" in outcome.where[-1]


def test_an_error_says_which_shapes_met_and_where_they_are_from(tmp_path):
    text = """
        def embed(ids, wte, wpe, start=0):
            words = wte[ids]
            places = wpe[start : ids.shape[1]]
            return words + places  # here
    """
    outcome, line = report(tmp_path, "embed", text)
    assert outcome.verdict == "raised" and f"line {line}," in outcome.where[0]
    there = f"places is (2, 4) (line {line - 1}), words is (2, 5, 4) (line {line - 2})"
    assert outcome.where[1] == f"there {there}"
    assert "the next step, the rows of wpe, does not appear" in outcome.where


# Without tensors: what a line left in a name.


def words(text, *, knobs, steps):
    steps["the text in small letters"] = text = text if "case" in knobs else text.lower()
    steps["its words"] = found = text.split()
    return [word.strip(".,") for word in found]


PLAIN = Exercise(
    name="words",
    target="",
    minutes=1,
    axes="",
    reference=words,
    probes=(Probe("a sentence", lambda: ("The cat, the Dog. A mouse",)),),
    knobs={"case": Diagnosis("capitals are left", "what is `The`?", "lower", "ch01#words")},
    hints=("a", "b", "c"),
    alternatives=(),
)


def plain_report(tmp_path, text):
    path = tmp_path / "answer.py"
    path.write_text(textwrap.dedent(text))
    answer = swap.load(path, path.read_text(), "answer").words
    outcome = judge(PLAIN, answer, Outcome("1.1", "words", file=str(path)))
    lines = path.read_text().splitlines()
    return outcome, next((i for i, line in enumerate(lines, 1) if "# here" in line), 0)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (
            """
            def words(text):
                text = text.lower()
                found = []
                for word in text.split():
                    found.append(word.strip("."))  # here
                return found
            """,
            "puts 'cat,' at place 1, where 'cat' belongs",
        ),
        (
            """
            def words(text):
                found = text.lower().split()
                found = [word.strip(".,") for word in found]
                found[-1] = found[-1][:3]  # here
                return found
            """,
            "puts 'mou' at place 5, where 'mouse' belongs",
        ),
        (
            """
            def words(text):
                found = text.lower().split()
                return [word.strip(".,") for word in found[:-1]]  # here
            """,
            "returns too little: 'mouse' is missing",
        ),
    ],
)
def test_the_line_that_put_the_wrong_thing_there(text, phrase, tmp_path):
    outcome, line = plain_report(tmp_path, text)
    assert outcome.verdict == "wrong"
    assert any(f"line {line}," in each and phrase in each for each in outcome.where), outcome.where


def test_a_right_answer_without_tensors_and_a_listed_mistake(tmp_path):
    right = 'def words(text):\n    return [w.strip(".,") for w in text.lower().split()]\n'
    assert plain_report(tmp_path, right)[0].verdict == "right"
    outcome, _ = plain_report(tmp_path, right.replace(".lower()", ""))
    assert outcome.knobs == ["case"]
    assert outcome.think == "what is `The`?"
