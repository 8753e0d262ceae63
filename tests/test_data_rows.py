"""Ids and captions: what is one, what is none, and what would leave the folder of pictures."""

import json
import os
from pathlib import Path

import pytest
from data_sets import faults, kinds, narrative, picture_bytes, pictures, put, rows

from captioning.data.rows import Bad, caption_text, image_id


def test_ids_are_the_same_as_numbers_and_as_strings(tmp_path):
    pictures(tmp_path, ["000000000139.jpg", "7.jpg"])
    lines = [{"image_id": i, "caption": "A."} for i in (139, "139", "000000000139", 7, "7")]
    file = put(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert [Path(row.place.path).name for row in rows(file)] == ["000000000139.jpg"] * 3 + [
        "7.jpg"
    ] * 2


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, "", "  ", "\ud800"])
def test_what_is_no_id(value):
    with pytest.raises(Bad, match="malformed"):
        image_id(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "malformed"),
        (["A cat."], "malformed"),
        (1, "malformed"),
        ("A \ud83d cat", "malformed"),
        ("", "empty caption"),
        (" \t\n\u3000", "empty caption"),
        ("\u200b\u200b", "empty caption"),
        ("A\x00cat", "control characters"),
        ("A cat\x0b", "control characters"),
        ("A\ncat", "control characters"),
        ("A\tcat", "control characters"),
        ("A\x85cat", "control characters"),
    ],
)
def test_what_is_no_caption(value, kind):
    with pytest.raises(Bad) as caught:
        caption_text(value)
    assert caught.value.kind == kind


def test_captions_lose_only_the_white_space_around_them():
    assert caption_text(" \tEin Hündchen 🐶  mit “Ball”. \r\n") == "Ein Hündchen 🐶  mit “Ball”."
    assert caption_text("1") == "1" and caption_text("?") == "?"


@pytest.mark.parametrize(
    "image", ["../secret", "a/../../secret", "/etc/hostname", "..\\secret", "C:secret", "\\secret"]
)
def test_ids_that_lead_out_are_refused(tmp_path, image):
    put(tmp_path / "secret.jpg", picture_bytes())
    put(tmp_path / "set" / "a.jpg", picture_bytes())
    file = put(tmp_path / "set" / "a.jsonl", narrative(image, "A.") + narrative("a", "B."))
    assert kinds(faults(file)) == [("outside", 1)] and len(rows(file)) == 1


def test_whole_paths_into_the_folder_are_paths_below_it(tmp_path):
    """A table that a program wrote often has them; where the folder lies is no part of an id."""
    pictures(tmp_path / "set", ["a/b.jpg"])
    paths = [tmp_path / "set" / "a" / "b.jpg", tmp_path / "set" / ".." / "set" / "a" / "b.jpg"]
    lines = ["image_path,caption", *(f"{path},A cat." for path in paths), f"{tmp_path}/set/,Void."]
    file = put(tmp_path / "set" / "table.csv", "\n".join(lines))
    assert [row.image for row in rows(file)] == ["a/b.jpg"]
    assert kinds(faults(file)) == [("outside", 3), ("outside", 4)]


def test_links_that_lead_out_are_refused(tmp_path):
    put(tmp_path / "outside" / "secret.jpg", picture_bytes())
    folder = tmp_path / "set"
    put(folder / "real.jpg", picture_bytes())
    os.symlink(tmp_path / "outside" / "secret.jpg", folder / "out.jpg")
    os.symlink(tmp_path / "outside", folder / "folder")
    os.symlink("real.jpg", folder / "in.jpg")
    names = ["out", "folder/secret", "secret", "in", "real", "gone"]
    file = put(folder / "a.jsonl", "".join(narrative(name, "A.") for name in names))
    assert [row.image for row in rows(file)] == ["in", "real"]
    found = faults(file)
    assert kinds(found) == [("outside", 1), ("outside", 2), ("missing", 3), ("missing", 6)]
    assert f"{folder}/folder is a link out of it, not searched" in found[2].reason


def test_what_is_no_picture_file_is_missing(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["folder", "pipe", "x" * 300, "a\0b"]
    file = put(tmp_path / "a.jsonl", "".join(narrative(name, "A.") for name in names))
    assert kinds(faults(file)) == [("missing", n) for n in (1, 2, 3, 4)]
