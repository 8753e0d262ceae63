"""Every known mistake, planted in the image tower or before it, is named by `verify`.

`python -m pytest tests/test_connector_verify_names.py -k table -s`: planted -> where -> named.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from towers import random_tower

from connector.diagnose import SETTINGS
from connector.mistakes import MISTAKES
from connector.verify import verify
from connector.wrong import WRONG
from weights.planting import Mistake
from weights.verdict import Report

NAMES = [mistake.name for mistake in MISTAKES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("twelve")
    random_tower().save(place)
    return place


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tower with torch's GELU, as most of LAION's."""
    place = tmp_path_factory.mktemp("plain")
    random_tower(quick_gelu=False, layers=2).save(place)
    return place


def judged(mistake: Mistake, folder: Path, plain: Path) -> Report:
    with mistake.planted():
        return verify(plain if mistake.name == "gelu-quick" else folder)


def test_the_reference_makes_every_mistake_that_can_be_planted() -> None:
    assert {name for name, _ in WRONG} - set(SETTINGS) == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("mistake", MISTAKES, ids=NAMES)
def test_a_planted_mistake_is_named(folder: Path, plain: Path, mistake: Mistake) -> None:
    report = judged(mistake, folder, plain)
    assert report.code == 1 and report.diagnosis is not None, str(report)
    assert report.diagnosis.whose == "this model"
    assert report.diagnosis.steps == ((mistake.name,),), str(report)
    assert report.diagnosis.until is None  # and it explains every site
    assert mistake.says in str(report)


def test_table_of_names(golden: Path, folder: Path, plain: Path) -> None:
    """On the golden tower, where three blocks have no other order as strings."""
    lines = []
    for mistake in MISTAKES:
        sorts = mistake.name == "blocks-sorted-as-strings"
        where = folder if sorts else golden / "clip-tiny" / "hf-full"
        report = judged(mistake, where, plain)
        named = report.diagnosis.names if report.diagnosis else ()
        lines.append((mistake.name, report.first_jump or report.first_failed, " or ".join(named)))
        assert named == (mistake.name,), str(report)
    for planted, site, name in lines:
        sys.stdout.write(f"{planted:26} first at {site:18} named {name}\n")
