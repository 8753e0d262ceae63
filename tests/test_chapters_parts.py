"""The parts of the course beside its judge: mutants, games, texts, figures, bundles."""

import ast
import math

import pytest
import torch

from chapters.runner import bundle, games, gate, stub, svg, whole_model
from chapters.runner.catalog import entries, find
from chapters.runner.inputs import ids, numbers
from chapters.runner.mutants import mutants
from chapters.runner.text import blocks, prose
from gpt2_scratch.mistakes import MISTAKES

ATTENTION = find("explicit_attention")


def test_mutants_are_many_different_and_each_one_change():
    text = stub.solution_text(ATTENTION)
    made = list(mutants(text))
    assert len({source for _, _, source in made}) == len(made) > 20
    says = " ".join(each for each, _, _ in made)
    for change in ("k.transpose(-2, -1) -> k", "hidden & ~empty -> hidden | ~empty", "-> v @ "):
        assert change in says, change
    plain = ast.unparse(ast.parse(text))
    for _, _, changed in made:
        assert changed != plain
        ast.parse(changed)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_every_exercise_can_be_played(entry):
    for turn in range(3):
        chosen, says = games.spot(entry, turn)
        assert says and 1 <= chosen.line <= len(chosen.source.splitlines())
        ast.parse(chosen.source)
    exercise = entry.load()
    for name in games.secrets(exercise):
        shows = [games.differs(exercise, probe.inputs(), name) for probe in exercise.probes]
        assert any(shows), name
    for probe in exercise.probes:
        assert games.contract(exercise, probe.inputs()) is None
    assert "def probe():" in games.break_text(entry)


def test_blocks_of_a_text_and_what_they_print():
    text = (
        "One `x`.\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\nTwo.\n\n"
        "```python needs=vocabulary\nx = 2\n```\n\nWords.\n\n```text\nnot of it\n```\n"
    )
    first, second = blocks(text)
    assert (first.code, first.prints, first.needs) == ("print(1)\n", "1\n", "")
    assert (second.code, second.prints, second.needs) == ("x = 2\n", None, "vocabulary")
    assert prose(text).split() == ["One", "`x`.", "Two.", "Words."]
    with pytest.raises(ValueError, match="needs="):
        blocks("```python skip\n1\n```\n")


def test_probe_numbers_are_fixed_and_look_drawn():
    x = numbers(200, 50, seed=3)
    assert torch.equal(x, numbers(200, 50, seed=3)) and x.dtype == torch.float64
    assert abs(x.mean().item()) < 0.05 and abs(x.std().item() - 1) < 0.1
    assert not torch.equal(x, numbers(200, 50, seed=4))
    assert x.flatten()[:5].tolist() != x.flatten()[:5].sort().values.tolist()
    drawn = ids(7, 11, below=5)
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_no_probe_has_two_axes_of_one_size(entry):
    """Squares that are meant (queries and keys of a mask) come with a probe that has none."""
    exercise = entry.load()
    square = []
    for probe in exercise.probes:
        tensors = [t for t in probe.inputs() if isinstance(t, torch.Tensor)]
        sizes = [[n for n in t.shape if n != 1] for t in tensors]
        square.append(any(len(set(each)) != len(each) for each in sizes))
    assert not all(square) or not square, entry.name


def test_a_figure_is_the_same_twice_and_escapes_its_words(tmp_path):
    for name in ("a.svg", "b.svg"):
        figure = svg.Figure(100, 50, "a < b")
        figure.text(1, 2, "x & y")
        figure.heat(0, 0, 10, [[0.5, math.nan]], labels=True)
        place = figure.axes((10, 10, 80, 30), (0, 1), (0, 2), (0, 1), (0, 2), "x", "y")
        figure.line([place(0, 0), place(1, 2)], svg.COLOURS[0])
        figure.save(tmp_path / name)
    a, b = (tmp_path / "a.svg").read_text(), (tmp_path / "b.svg").read_text()
    assert a == b and "a &lt; b" in a and "x &amp; y" in a
    assert place(0, 0) == (10, 40) and place(1, 2) == (90, 10)


def test_a_bundle_refuses_what_would_not_run_alone(tmp_path):
    path = tmp_path / "ch04_one_head.py"
    body = "def explicit_attention(q, k, v, hidden, dropout=0.0):\n    return {}\n"
    path.write_text("import gpt2_scratch.model as m\n\n\n" + body.format("m.gelu(q)"))
    with pytest.raises(ValueError, match="line 1: `import gpt2_scratch"):
        bundle.bundle([(ATTENTION, path)])
    (tmp_path / "helper.py").write_text("def scale(q):\n    return q\n")
    path.write_text("from helper import scale\n\n\n" + body.format("scale(q)"))
    with pytest.raises(ValueError, match=r"helper\.py is a helper of yours"):
        bundle.bundle([(ATTENTION, path)])
    path.write_text(
        "from gpt2_scratch.model import gelu as bend\n\nHALF = 0.5\n\n\n"
        "def scale(q):\n    return q * HALF\n\n\n" + body.format("bend(scale(q))")
    )
    text = bundle.bundle([(ATTENTION, path)])
    for part in (
        "HALF = 0.5",
        "def scale(q):",
        "def gelu(",
        "bend = gelu",
        "class GPT2(nn.Module)",
    ):
        assert part in text, part
    assert "gpt2_scratch" not in text
    compile(text, "bundle", "exec")


def test_the_whole_model_is_judged_by_the_registry_of_mistakes():
    from helpers import random_ids, random_model

    model = random_model(n_layer=2)
    ids = random_ids(2, 7)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    right = whole_model.sites(ids, tensors, model.config.n_head)
    with torch.no_grad():
        # float64 against float64 in another order of the same sums
        torch.testing.assert_close(right["logits"], model(ids), rtol=1e-10, atol=1e-10)
    shown = 0
    for mistake in MISTAKES:
        if mistake.name in whole_model.CHANGES and mistake.shows_in == "logits":
            knobs = frozenset({mistake.name})
            wrong = whole_model.sites(ids, tensors, model.config.n_head, knobs=knobs)["logits"]
            with mistake.planted(), torch.no_grad():
                planted = model(ids)
            if mistake.name not in ("head-untied", "bfloat16"):  # drawn, and rounded
                torch.testing.assert_close(wrong, planted, rtol=1e-9, atol=1e-9)
            assert not torch.allclose(wrong, right["logits"], rtol=0, atol=1e-6), mistake.name
            shown += 1
    assert shown > 15
    groups = whole_model.exclusive(["gelu-exact", "gelu-quick", "no-mean", "post-norm"])
    assert groups == (("gelu-exact", "gelu-quick"),)


def test_the_table_goes_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{gate.MARKS[0]}\nold\n{gate.MARKS[1]}\nbelow\n")
    for _ in range(2):
        gate.put_into(readme, gate.table([gate.Score("1.1", "f", knobs=6, knobs_named=6)]))
        text = readme.read_text()
        assert "old" not in text and text.count("| 1.1 `f` | 6 of 6 |") == 1
        assert text.startswith("above\n") and text.endswith("\nbelow\n")
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks"):
        gate.put_into(readme, "")
