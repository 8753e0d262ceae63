"""Report pages: what they find, that they need nothing from outside, and the article's figures."""

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from captioning.__main__ import main
from captioning.metrics import score
from captioning.report import Report, Shown, compare_with_article, write_report
from captioning.report.nouns import compare_nouns, count_nouns, nouns
from captioning.report.page import MEANINGS
from captioning.report.phrases import shared_phrases, stutters
from captioning.scenes.draw import draw


class Page(HTMLParser):
    """The text of a page, its tags, and whatever they point at."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html):
        super().__init__()
        self.text, self.points_at, self.open, self.tags = [], [], [], []
        self.feed(html)
        assert not self.open, "a tag is not closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.points_at += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def shown(n=6, **changes):
    scenes = [draw((5, i)) for i in range(n)]
    return [
        Shown(**({"name": f"{i}.png", "caption": s.caption, "references": [s.caption]} | changes))
        for i, s in enumerate(scenes)
    ]


# ---- nouns and phrases -------------------------------------------------------------------------


def test_nouns_are_things_not_words():
    assert nouns("Two women and a puppy sit on benches.") == {"person", "dog", "bench"}
    assert nouns("A hot dog near a fire hydrant, a teddy bear and knives") == {
        *("hot_dog", "fire_hydrant", "teddy_bear", "knife")
    }
    assert nouns("glasses of a glass") == {"glasses", "glass"}
    assert nouns("In this image we can see nothing.") == set()


def test_missing_and_invented_by_hand():
    references = ["a man with a dog", "a person and a cat", "a boy in a hat"]
    # dog, cat, hat: one of three each, too few to be missed, yet they aren't invented.
    assert compare_nouns("a dog on a bed", references) == (["person"], ["bed"])
    assert compare_nouns("a woman", references) == ([], [])
    assert compare_nouns("", ["a ball", "a man"]) == (["ball", "person"], [])  # half is enough
    missing, invented = count_nouns(
        ["a dog on a bed", "a cat on a bed", "a bed"], [references, ["a bed"], ["a cat and a man"]]
    )
    assert missing == [("person", 2, 2), ("cat", 1, 1)]
    assert invented == [("bed", 2, 3), ("cat", 1, 1)]


def test_stutters_count_what_follows_itself_at_once():
    captions = ["a pole pole pole and a pole", "a door a door a door", "a pole pole", "a man a dog"]
    found = stutters([text.split() for text in captions])
    assert found == [("pole", 2, 3), ("a door", 1, 2)]


def test_shared_phrases_are_not_parts_of_each_other():
    captions = ["in this image we can see a dog", "in this image we can see two cats", "a red cat"]
    tokens = [text.split() for text in [*captions, captions[0]]]
    assert shared_phrases(tokens) == [("in this image we can see", 3)]
    assert shared_phrases(tokens[:2]) == []


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_outside(tmp_path):
    curve = tmp_path / "loss.png"
    Image.new("RGB", (20, 10), "red").save(curve)
    pictures = [Shown(s.name, s.caption, s.references, draw((5, 0)).image) for s in shown()]
    html = Report(pictures, curves=[curve]).render()
    page = Page(html)
    assert page.points_at and all(one.startswith("data:image/") for one in page.points_at)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", html)
    assert "url(" not in html and "@import" not in html and "script" not in page.tags
    assert sum(one.startswith("data:image/png") for one in page.points_at) == 1
    assert "Training" in page.words


def test_the_page_shows_metrics_best_and_worst():
    said = [one.caption for one in shown(8)]
    ones = shown(8)
    ones[3] = Shown("3.png", "nothing of the kind", ones[3].references)
    report = Report(ones, title="A run", about={"split": "test"})
    words = Page(report.render()).words
    said[3] = "nothing of the kind"
    values = score(said, [list(one.references) for one in ones])
    for name, value in values.items():
        assert f"{name} {value:.3f}" in words
    assert "A run" in words and "8 pictures; split: test." in words
    best, worst = words.split(" Best ")[1].split(" Worst ")
    assert "nothing of the kind" not in best
    assert "nothing of the kind" in worst.split("CIDEr-D 0.000")[0]
    assert [row.name for row in report.rows] == list(MEANINGS)


def test_what_is_said_cannot_break_the_page():
    evil = '<script>alert("x")</script> & </article>'
    html = Report([Shown(evil, evil, [evil]), *shown(3)], title=evil, about={evil: evil}).render()
    assert "script" not in Page(html).tags
    assert evil in Page(html).words


@pytest.mark.parametrize("n", [1, 2, 3, 13, 40])
def test_any_number_of_pictures(n):
    report = Report(shown(n), resamples=20)
    page = Page(report.render())
    assert len(report.gallery) == len({one.name for one in report.gallery}) == min(n, 12)
    assert report.gallery[-1].name == f"{(min(n, 12) - 1) * n // min(n, 12)}.png"
    assert ("Worst" in page.words) == (n > 1)
    assert page.words.count("no picture") == 2 * min(n, 12)  # the gallery; best and worst


def test_a_picture_that_cannot_be_opened_leaves_its_words(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    for picture in (broken, tmp_path / "gone.png"):
        one = Shown("x.png", "a red star", ["a star"], picture)
        assert "no picture x.png" in Page(Report([one]).render()).words


def test_it_is_the_same_page_each_time(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", Report(shown()))
    assert path.read_text("utf-8") == Report(shown()).render()
    write_report(path, Report(shown(name="caf\udce9.png")))  # a file name that is no UTF-8
    assert "no picture caf?.png" in Page(path.read_text("utf-8")).words


def test_score_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for i in range(3):
        draw((5, i)).image.save(tmp_path / "deep" / f"{i:012d}.png")
    captions = {str(i): draw((5, i)).caption for i in range(3)}
    (tmp_path / "p.json").write_text(json.dumps(captions))
    run = ["score", "p.json", "p.json", "--resamples", "20", "--report", "out/report.html"]
    assert main([*run, "--pictures", "deep"]) == 0
    page = Page((tmp_path / "out/report.html").read_text("utf-8"))
    assert len(page.points_at) == 6 and "captions: p.json" in page.words
    assert "to look at: out/report.html" in capsys.readouterr().err
    assert main(run) == 0
    assert "no picture found for 3 of 3 images" in capsys.readouterr().err
    paths = [{"path": f"deep/{int(i):012d}.png", "caption": c} for i, c in captions.items()]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, paths)))
    assert main(["score", "p.jsonl", "p.json", *run[3:]]) == 0
    assert len(Page((tmp_path / "out/report.html").read_text("utf-8")).points_at) == 6


# ---- the article -------------------------------------------------------------------------------

# From the pairs that the article prints, to the last digit given; worked out independently.
ARTICLE = {
    "mean of the pictures' WER": ("104.896", "89.141"),
    "WER: errors over words": ("96.607", "85.460"),
    "BLEU-char-m7": ("42.622", "45.499"),
    "BLEU-sentence-m7, on words": ("13.873", "18.686"),
    "BLEU-4, split at spaces": ("7.293", "13.264"),
    "CIDEr-D, split at spaces": ("0.1634", "0.2917"),
}


def test_the_articles_pairs_give_the_values_worked_out_from_them(shared):
    pairs = json.loads((shared / "data/article_pairs.json").read_text("utf-8"))
    rows = compare_with_article(pairs)
    found = {"run1": {}, "run2": {}}
    for row in rows:
        for value in (row.recomputed, *row.usual):
            found[row.run][value.name] = value.value
    for name, wanted in ARTICLE.items():
        for run, digits in zip(("run1", "run2"), wanted, strict=True):
            decimals = len(digits.partition(".")[2])
            assert f"{found[run][name]:.{decimals}f}" == digits, (run, name)
    printed = [row.as_printed for row in rows]
    assert printed == ["97.3", "45.9", "1.38", "87.6", "43.5", "2.10"]


def test_the_articles_page(shared, tmp_path, capsys):
    page = tmp_path / "article.html"
    assert main(["article", str(shared / "data/article_pairs.json"), "--out", str(page)]) == 0
    out, words = capsys.readouterr().out, Page(page.read_text("utf-8")).words
    for text in (out, words):
        assert all(number in text for number in ("104.896", "45.9", "42.622", "0.163", "2.10"))
        assert "unknown" in text and "characters" in text
    assert not Page(page.read_text("utf-8")).points_at


def test_pairs_that_are_not_there_are_asked_for(tmp_path, capsys):
    path = tmp_path / "pairs.json"
    for text, message in (
        ('{"run1": [{"reference": "a", "hypothesis": "b"}]}', "'run2' lacks 'run2'"),
        ('{"run1": [{"reference": "a"}]}', "'run1' lacks 'hypothesis'"),
        ("[]", 'is no {"run1"'),
        ("{", "is no JSON"),
        ("[" * 99_999, "is no JSON"),
    ):
        path.write_text(text)
        assert main(["article", str(path)]) == 2
        assert message in capsys.readouterr().err
