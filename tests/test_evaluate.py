"""`python -m captioning evaluate`: the figures by hand, and how they are printed."""

import json

import pytest

import captioning.model
from captioning.__main__ import main
from captioning.evaluate import GREY, HELD_OUT, evaluate_scenes
from captioning.scenes.draw import draw
from captioning.scenes.facts import read_facts, score_facts

SEED = 7


class Knowing:
    """Tells scene (HELD_OUT, SEED, i) rightly, but for what `spoil` does; grey as the first one."""

    def __init__(self, n, spoil=lambda i, caption: caption):
        scenes = [draw((HELD_OUT, SEED, i)) for i in range(n)]
        self.said = {s.image.tobytes(): spoil(i, s.caption) for i, s in enumerate(scenes)}
        self.said[GREY.tobytes()] = scenes[0].caption
        self.batches, self.options = [], []

    def caption(self, images, **options):
        self.batches.append(len(images))
        self.options.append(options)
        return [self.said[image.tobytes()] for image in images]


def test_a_perfect_captioner_is_perfect():
    captioner = Knowing(12)
    result = evaluate_scenes(captioner, 12, SEED, batch_size=5)
    assert captioner.batches == [5, 5, 2, 1]
    assert (result["facts_f1"], result["exact_match"], result["n"]) == (1, 1, 12)
    assert set(result["recall_by_kind"].values()) == {1}
    drawn = [draw((HELD_OUT, SEED, i)) for i in range(12)]
    readings = [(scene.facts, scene.background) for scene in drawn]

    def pooled(said):
        scores = [score_facts(*pair) for pair in zip(said, readings, strict=True)]
        right = sum(score.right for score in scores)
        return 2 * right / sum(score.said + score.drawn for score in scores)

    nexts = [read_facts(drawn[(i + 1) % 12].caption) for i in range(12)]
    swapped = [score_facts(readings[i], nexts[i]) for i in range(12)]
    right = sum(score.right for score in swapped)
    f1 = 2 * right / sum(score.said + score.drawn for score in swapped)
    assert result["facts_f1_shuffled"] == pytest.approx(f1)
    assert result["facts_f1_shuffled"] < 0.7
    assert result["facts_f1_blank"] == pytest.approx(pooled([readings[0]] * 12))


def test_each_kind_of_fact_is_counted_by_itself():
    def spoil(i, caption):
        for colour in ("red", "orange", "yellow", "green", "blue", "purple", "white", "black"):
            caption = caption.replace(f" {colour} ", " pink ")
        return caption

    # "pink" is no colour, so no object can be read, and with none no count was said.
    recall = evaluate_scenes(Knowing(6, spoil), 6, SEED)["recall_by_kind"]
    assert recall == {
        "count": 0,
        "size": 0,
        "colour": 0,
        "shape": 0,
        "place": 0,
        "background": 1,
    }
    swap = {"small": "large", "large": "small"}
    result = evaluate_scenes(
        Knowing(6, lambda i, said: " ".join(swap.get(word, word) for word in said.split(" "))),
        6,
        SEED,
    )
    others = {name: share for name, share in result["recall_by_kind"].items() if name != "size"}
    assert set(others.values()) == {1}
    assert result["recall_by_kind"]["size"] < 0.5
    assert result["exact_match"] == 0


def test_evaluate_prints_one_line_of_json(monkeypatch, capsys):
    monkeypatch.setattr(captioning.model, "load_captioner", lambda *_, **__: Knowing(10))
    assert main(["evaluate", "--scenes", "10", "--seed", str(SEED), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and err == ""
    result = json.loads(out)
    names = ["facts_f1", "exact_match", "n", "facts_f1_shuffled", "facts_f1_blank"]
    assert list(result) == names
    assert (result["facts_f1"], result["exact_match"], result["n"]) == (1, 1, 10)


def test_evaluate_prints_a_table(monkeypatch, capsys):
    captioner = Knowing(3)
    monkeypatch.setattr(captioning.model, "load_captioner", lambda *_, **__: captioner)
    assert main(["evaluate", "--scenes", "3", "--seed", str(SEED), "--beams", "2"]) == 0
    assert captioner.options == 2 * [{"beams": 2, "max_new_tokens": None}]
    out = capsys.readouterr().out
    for name in ("count", "colour", "shape", "size", "place", "background", "grey picture"):
        assert name in out
