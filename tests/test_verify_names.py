"""Every known mistake, planted in the model, is named by `verify`.

`python -m pytest tests/test_verify_names.py -k table -s` prints planted -> where -> named.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import random_model, stir

from gpt2_scratch.diagnose import SETTINGS
from gpt2_scratch.loader import save_gpt2
from gpt2_scratch.mistakes import MISTAKES, Mistake
from gpt2_scratch.verify import verify
from gpt2_scratch.wrong import WRONG
from weights.verdict import Report

NAMES = [mistake.name for mistake in MISTAKES]
# What one batch of logits can't show, as in `Mistake.shows_in`; an untied head's numbers are drawn,
# so that only what lies before it tells.
NEEDS_SITES = {m.name for m in MISTAKES if m.shows_in not in ("logits", "depth")} | {"head-untied"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve blocks, so that their order as strings is another; every number counts."""
    model = random_model(dtype=torch.float32, n_layer=12, n_ctx=31)
    stir(model, seed=1)
    place = tmp_path_factory.mktemp("twelve")
    save_gpt2(model, place)
    return place


def judged(mistake: Mistake, folder: Path, logits_only: bool = False) -> Report:
    with mistake.planted():
        return verify(folder, logits_only=logits_only)


def test_the_reference_makes_every_mistake_that_can_be_planted() -> None:
    """All but an untied head, whose numbers nobody knows."""
    names = {name for name, _ in WRONG}
    assert names - set(SETTINGS) == set(NAMES) - {"head-untied"}


@pytest.mark.parametrize("mistake", MISTAKES, ids=NAMES)
def test_a_planted_mistake_is_named(folder: Path, mistake: Mistake) -> None:
    report = judged(mistake, folder)
    assert report.code == 1 and report.diagnosis is not None, str(report)
    assert report.diagnosis.whose == "this model"
    assert report.diagnosis.steps == ((mistake.name,),)
    assert report.diagnosis.until is None  # and it explains every site
    assert mistake.says in str(report)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NEEDS_SITES))
def test_logits_alone_have_a_name_too(golden: Path, folder: Path, name: str) -> None:
    mistake = MISTAKES[NAMES.index(name)]
    where = folder if mistake.shows_in == "depth" else golden / "tiny-a" / "openai"
    report = judged(mistake, where, logits_only=True)
    assert report.diagnosis is not None and report.diagnosis.steps == ((name,),)


def test_rounding_is_named_by_its_size(folder: Path) -> None:
    """Through twelve blocks no second computation rounds each sum to the same side."""
    report = judged(MISTAKES[NAMES.index("bfloat16")], folder, logits_only=True)
    assert report.diagnosis is not None and report.diagnosis.names == ("bfloat16",)


@pytest.mark.parametrize("name", sorted(NEEDS_SITES - {"head-untied"}))
def test_what_logits_alone_cannot_show(folder: Path, name: str) -> None:
    assert judged(MISTAKES[NAMES.index(name)], folder, logits_only=True).passed


def test_an_untied_head_needs_the_sites_before_it(folder: Path) -> None:
    report = judged(MISTAKES[NAMES.index("head-untied")], folder, logits_only=True)
    assert report.diagnosis is not None and report.diagnosis.steps == ()


def test_table_of_names(golden: Path, folder: Path) -> None:
    """On the golden checkpoint, where three blocks have no other order as strings."""
    lines = []
    for mistake in MISTAKES:
        where = folder if mistake.shows_in == "depth" else golden / "tiny-a" / "openai"
        report = judged(mistake, where)
        named = report.diagnosis.names if report.diagnosis else ()
        lines.append((mistake.name, report.first_jump or report.first_failed, " or ".join(named)))
        assert named == (mistake.name,), str(report)
    for planted, site, name in lines:
        sys.stdout.write(f"{planted:26} first at {site:20} named {name}\n")
