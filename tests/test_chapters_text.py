"""The texts are executed: code runs, printed numbers are compared, symbols and links exist."""

import contextlib
import io
import json
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from chapters.runner.catalog import HERE, chapter, entries, folders
from chapters.runner.exercise import Diagnosis, Exercise, Experiment
from chapters.runner.text import blocks, prose, text_of

NUMBERS = list(folders())
SYMBOL = re.compile(r"`([a-z_0-9.]+):([A-Za-z_][\w.]*)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ANCHOR = re.compile(r'<a id="([\w-]+)"></a>')


def there(needs: str) -> bool:
    """Whether this machine has what a block needs."""
    if needs == "vocabulary":
        from gpt2_scratch.tokenizer import BPETokenizer

        with contextlib.suppress(FileNotFoundError):
            BPETokenizer.gpt2()
            return True
    if needs == "gpt2":
        from weights.cache import locate

        with contextlib.suppress(FileNotFoundError):
            locate("gpt2")
            return True
    return not needs


@pytest.fixture
def vocabulary(monkeypatch):
    """Blocks that need GPT-2's vocabulary run where it lies beside the checkout."""
    cache = Path(os.environ.get("SHARED_DIR", HERE.parents[1] / "shared")) / "tiktoken_cache"
    if "TIKTOKEN_CACHE_DIR" not in os.environ and cache.is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_block_runs_and_prints_what_stands_below_it(
    number, vocabulary, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "text"}
    found = blocks(text_of(number))
    for block in found:
        if not there(block.needs):
            continue
        printed = io.StringIO()
        place = f"text.md of chapter {number}, line {block.line}"
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, place, "exec"), space)
        if block.prints is not None:
            assert printed.getvalue().rstrip() == block.prints.rstrip(), place
        else:
            assert not printed.getvalue(), f"{place} prints, and no text block shows it"
    assert any(block.prints for block in found)
    assert not list(tmp_path.iterdir())  # a text writes no files


@pytest.mark.parametrize("number", NUMBERS)
def test_symbols_links_and_anchors_of_a_text_exist(number):
    text, folder = text_of(number), HERE / folders()[number]
    for module, path in SYMBOL.findall(text):
        value = import_module(module)
        for name in path.split("."):
            value = getattr(value, name)
    for link in LINK.findall(text):
        if link.startswith("#"):
            assert link[1:] in ANCHOR.findall(text), link
        elif not link.startswith("https://"):
            assert (folder / link.partition("#")[0]).exists(), link
    assert "](figures/" in text, "a chapter has a figure"
    assert LINK.findall(text) and "https://github.com/" in text, "a chapter names a thread"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_text_has_the_length_of_a_sitting(number):
    words = len(prose(text_of(number)).split())
    assert 1200 <= words <= 2000, words


@pytest.mark.parametrize("number", NUMBERS)
def test_a_chapter_has_all_its_parts(number):
    found = chapter(number)
    assert found.title and found.question.endswith("?")
    assert len(found.exercises) == 1 if number == 0 else 3 <= len(found.exercises) <= 6
    assert all(need in folders() or need > number for need in found.needs)
    for entry in entries(number):
        assert entry.name == entry.words["name"]
        assert all(isinstance(each, Diagnosis) for each in entry.words["knobs"].values())
        for name, each in entry.words["knobs"].items():
            where, _, anchor = each.text.partition("#")
            assert where == f"ch{number:02}", f"{entry.id} {name}: {each.text}"
            assert anchor in ANCHOR.findall(text_of(number)), f"{entry.id} {name}: {each.text}"


@pytest.mark.parametrize("number", NUMBERS)
def test_figures_are_made_again_to_the_same_bytes(number, tmp_path):
    folder = HERE / folders()[number]
    import_module(f"chapters.{folder.name}.figures").draw(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert made == kept
    for name in made:
        assert f"figures/{name}" in text_of(number), f"{name} is in no text"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_words_read_from_the_source_are_those_of_the_exercise(entry):
    exercise = entry.load()
    assert isinstance(exercise, Exercise)
    for name, value in entry.words.items():
        given = getattr(exercise, name)
        if isinstance(value, tuple):
            value, given = json.dumps(value, default=vars), json.dumps(given, default=vars)
        assert value == given, name


@pytest.mark.parametrize("number", NUMBERS)
def test_an_experiment_says_what_it_asks(number):
    found = import_module(f"chapters.{folders()[number]}.experiment").EXPERIMENT
    assert isinstance(found, Experiment)
    low, high = found.band
    assert low <= high and found.asks and not found.asks.endswith("?") and found.means
