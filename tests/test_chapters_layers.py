"""Chapters 2 and 3: wrong answers that nobody listed, and what a module must be besides right."""

import textwrap

import pytest
import torch

from chapters.ch03_layers.exercises import Conv1D as linear
from chapters.ch03_layers.exercises import LayerNorm as norm
from chapters.runner import swap
from chapters.runner.catalog import find
from chapters.runner.judge import judge
from chapters.runner.outcome import Outcome

HEAD = "import math\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
LINEAR = """
    class Conv1D(nn.Module):
        def __init__(self, size_in, size_out):
            super().__init__()
            self.w = nn.Parameter(torch.empty(size_in, size_out))
            self.b = nn.Parameter(torch.zeros(size_out))
        def forward(self, x):
            {}
"""
# The line that ends in "# here" is the one with the mistake.
UNLISTED = {
    "embed, the id before": """
        def embed(ids, wte, wpe, start=0):
            words = wte[ids - 1]  # here
            places = wpe[start : start + ids.shape[1]]
            return words + places
    """,
    "embed, half a position": """
        def embed(ids, wte, wpe, start=0):
            words = F.embedding(ids, wte)
            places = F.embedding(torch.arange(ids.shape[1]) + start, wpe)
            return words + 0.5 * places  # here
    """,
    "unembed, in loops": """
        def unembed(states, wte):
            out = torch.zeros(*states.shape[:2], len(wte), dtype=states.dtype)
            for v in range(len(wte)):
                out[..., v] = states @ wte[v - 1]  # here
            return out
    """,
    "pad, with lists": """
        def pad(rows, pad_id, side):
            longest = max(len(row) for row in rows)
            ids, mask = [], []
            for row in rows:
                gap = longest - len(row)
                if side == "left":
                    ids.append([pad_id] * gap + row)
                    mask.append([True] * gap + [False] * len(row))
                else:
                    ids.append(row + [pad_id] * gap)
                    mask.append([False] * gap + [True] * len(row))  # here
            return torch.tensor(ids), torch.tensor(mask)
    """,
    "positions, begun anew after padding": """
        def positions(mask):
            out = torch.zeros(mask.shape, dtype=torch.long)
            for b in range(mask.shape[0]):
                n = 0
                for t in range(mask.shape[1]):
                    n = -1 if mask[b, t] else n
                    out[b, t] = max(n, 0)  # here
                    n += 1
            return out
    """,
    "layer norm, the median": """
        def layer_norm(x, g, b, eps):
            middle = x.median(-1, keepdim=True).values  # here
            centred = x - middle
            variance = centred.square().mean(-1, keepdim=True)
            return centred / torch.sqrt(variance + eps) * g + b
    """,
    "layer norm, in loops": """
        def layer_norm(x, g, b, eps):
            out = torch.empty_like(x)
            for i in range(x.shape[0]):
                for t in range(x.shape[1]):
                    row = x[i, t]
                    mean = row.sum() / len(row)
                    var = ((row - mean) ** 2).sum() / (len(row) + 1)  # here
                    out[i, t] = (row - mean) / torch.sqrt(var + eps) * g + b
            return out
    """,
    "gelu, another curve": """
        def gelu(x):
            z = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return 0.5 * x * (1 + torch.atan(z))  # here
    """,
    "gelu, rounded": """
        def gelu(x):
            z = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            y = 0.5 * x * (1 + torch.tanh(z))
            return torch.round(y, decimals=4)  # here
    """,
    "linear, b twice": LINEAR.format(
        "y = x @ self.w + self.b\n            return y + self.b  # here"
    ),
    "linear, w centred": LINEAR.format(
        "w = self.w - self.w.mean(0)  # here\n            return x @ w + self.b"
    ),
}


def report(tmp_path, text):
    """The outcome of a file with one answer, and the line marked in it."""
    path = tmp_path / "answer.py"
    path.write_text(HEAD + textwrap.dedent(text))
    words = textwrap.dedent(text).split()
    name = words[words.index("def" if "def" in words[0] else "class") + 1].split("(")[0]
    entry = find(name)
    outcome = Outcome(entry.id, name, file=str(path))
    judge(entry.load(), getattr(swap.load(path, path.read_text(), "answer"), name), outcome)
    lines = path.read_text().splitlines()
    return outcome, next((i for i, line in enumerate(lines, 1) if "# here" in line), 0)


@pytest.mark.parametrize("name", UNLISTED)
def test_the_line_of_a_mistake_that_nobody_listed(name, tmp_path):
    outcome, line = report(tmp_path, UNLISTED[name])
    assert outcome.verdict == "wrong" and not outcome.knobs, outcome
    assert any(f"line {line}," in each for each in outcome.where), (line, outcome.where)


def test_what_torch_cannot_do_is_no_stub(tmp_path):
    """torch raises NotImplementedError too, as a stub does."""
    outcome, line = report(tmp_path, "def positions(mask):\n    return 1 - mask  # here\n")
    assert outcome.verdict == "raised" and f"line {line}," in outcome.where[0]
    assert "turn a mask round" in " ".join(outcome.says)


def test_a_fixed_dtype_is_not_told_as_a_cut_graph(tmp_path):
    text = LINEAR.format("return x.float() @ self.w.float() + self.b.float()")
    outcome, _ = report(tmp_path, text)
    assert outcome.verdict == "type" and not outcome.diagnosis, outcome
    assert "float32 where float64 came in" in outcome.says[0]


NUMBERS = {  # float32 in the middle of float64: in a model of float32 the same to the bit
    "gelu": """
        def gelu(x):
            inner = torch.sqrt(torch.tensor({})) * (x + 0.044715 * x**3)
            return 0.5 * x * (1 + torch.tanh(inner))
        """,
    "attention_scores": """
        def attention_scores(q, k):
            return q @ k.transpose(-2, -1) / torch.tensor(q.shape[-1] * {}).sqrt()
        """,
}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("gelu", "0.6366197723675814", "0.63662"), ("attention_scores", "1.0", "1.00001")],
)
def test_a_number_of_ones_own_may_be_a_float32_but_no_other(tmp_path, name, right, wrong):
    verdicts = [report(tmp_path, NUMBERS[name].format(number))[0] for number in (right, wrong)]
    assert [each.verdict for each in verdicts] == ["right", "wrong"], verdicts


def test_padding_may_have_any_position_of_the_table():
    exercise = find("positions").load()
    (mask,) = exercise.probes[0].inputs()
    right = exercise.reference(mask, knobs=frozenset(), steps={})
    for filler, legal in (
        (0, True),
        (mask.shape[1] - 1, True),
        (mask.shape[1], False),
        (-1, False),
    ):
        answer = right.masked_fill(mask, filler)
        assert torch.equal(exercise.use(lambda _, a=answer: a, mask), right) == legal, filler


class Twice(norm.Fused):
    """Right, and holds its numbers under second names, which a loader would miss."""

    def __init__(self, size, eps=1e-5):
        super().__init__(size, eps)
        self.inner = torch.nn.LayerNorm(size)
        self.inner.weight, self.inner.bias = self.g, self.b


class Buffers(linear.ByLinear):
    def __init__(self, size_in, size_out):
        super().__init__(size_in, size_out)
        w = self.w.data
        del self.w
        self.register_buffer("w", w)


def test_a_module_holds_its_parameters_and_nothing_else():
    inputs = find("LayerNorm").load().probes[0].inputs()
    assert set(norm.use(Twice, *inputs)["parameters"]) == {"b", "g", "inner.bias", "inner.weight"}
    inputs = find("Conv1D").load().probes[0].inputs()
    found = linear.use(Buffers, *inputs)
    assert found["parameters"] == {"b": "(7,)", "w": "(3, 7), a buffer"} and found["output"] is None


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_bfloat16_may_be_rounded_at_any_step_but_the_mean(steps):
    """Rounding thrice is right, a rounded mean is not."""

    class Rounded(norm.Fused):
        def forward(self, x):
            wide = x.float()
            normed = (wide - wide.mean(-1, keepdim=True)) / wide.std(-1, correction=0, keepdim=True)
            normed = normed.to(x.dtype) if steps > 1 else normed
            scaled = normed * self.g
            return ((scaled.to(x.dtype) if steps > 2 else scaled) + self.b).to(x.dtype)

    class RoundedMean(norm.Fused):
        def forward(self, x):
            mean = x.mean(-1, keepdim=True).float()
            return (F_norm(x.float() - mean) * self.g + self.b).to(x.dtype)

    def F_norm(x):
        return x / x.square().mean(-1, keepdim=True).sqrt()

    exercise = find("LayerNorm").load()
    probe = exercise.probes[-1]
    right = exercise.reference(*probe.inputs(), knobs=frozenset(), steps={})["output"]
    given = norm.use(Rounded, *probe.inputs())["output"]
    torch.testing.assert_close(given, right, rtol=probe.tolerance, atol=probe.tolerance)
    assert norm.use(RoundedMean, *probe.inputs())["mean"] == norm.OFF
