"""Wrong answers that no exercise lists: the report points at the line, or at the step."""

import textwrap

import pytest

from chapters.runner import swap
from chapters.runner.catalog import find
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
