"""What is no set of captioned pictures, or nearly one: refused with what was got and wanted."""

import json
import os
import tarfile

import pytest
from data_sets import (
    faults,
    kinds,
    narrative,
    picture_bytes,
    pictures,
    put,
    rows,
)

from captioning.data.recognise import read
from captioning.data.shards import add


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", "is empty"),
        (b"Dear diary,\ntoday\n", "begins with"),
        (b"\x1f\x8b\x08rest", "is compressed"),
        ("image,caption\na,b".encode("utf-16"), "is UTF-16"),
        (b'{"a": 1}', "begins with"),
        (picture_bytes(), "begins with"),
    ],
)
def test_what_fits_no_format_is_named(tmp_path, data, seen):
    file = put(tmp_path / "what.txt", data)
    with pytest.raises(ValueError, match=f"what.txt {seen}.*wanted Localized Narratives.*CSV"):
        read(file)


def test_a_folder_without_captions_or_with_two_kinds_is_named(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    with pytest.raises(ValueError, match="holds no captions"):
        read(tmp_path)
    put(tmp_path / "x.csv", "image,caption\na,b\n")
    put(tmp_path / "y.jsonl", narrative("a", "A."))
    with pytest.raises(ValueError, match=r"several formats.*JSON lines: y.jsonl"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="--images"):
        read(tmp_path / "x.csv", tmp_path / "nowhere")


def test_broken_first_rows_do_not_hide_the_format(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    broken = put(tmp_path / "a.jsonl", "{broken\n" + narrative("a", "A."))
    assert kinds(faults(broken)) == [("malformed", 1)] and len(rows(broken)) == 1
    long = put(tmp_path / "b.jsonl", narrative("a", "A.")[:-2] + ', "traces": "' + "x" * 10**5)
    assert read(long).kind == "JSON lines"
    table = put(tmp_path / "c.tsv", "no tab here\na\tA.\na\tB.\n")
    assert read(table).kind == "the article's TSV"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "a\tA\0B.\na\tA cat.\n"),
        ("a.csv", "image,caption\na,A\0B.\na,A cat.\n"),
        ("a.jsonl", narrative("a", "A\0B.") + narrative("a", "A cat.")),
        ("a.jsonl", narrative("a", "A.").replace("A.", "A\0.") + narrative("a", "A cat.")),
        ("a.token", "a.jpg#0\tA\0B.\na.jpg#1\tA cat.\n"),
    ],
)
def test_a_caption_with_a_zero_byte_costs_its_own_row_alone(tmp_path, name, text):
    pictures(tmp_path, ["a.jpg"])
    put(tmp_path / name, text)
    assert [row.caption for row in rows(tmp_path)] == ["A cat."]
    assert len(faults(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"junk" * 999, bytes(10240), b"\x1f\x8b\x08rest"])
@pytest.mark.parametrize("name", ["ln-%05d-of-00003.jsonl", "data-%06d.tar"])
def test_a_file_of_a_set_that_cannot_be_read_is_no_silence(tmp_path, name, content):
    pictures(tmp_path, ["a.jpg"])
    good = narrative("a", "A cat.").encode()
    if name.endswith("tar"):
        with tarfile.open(tmp_path / "made", "w") as tar:
            add(tar, "a.jpg", picture_bytes())
            add(tar, "a.txt", b"A cat.")
        good = (tmp_path / "made").read_bytes()
    for number in (0, 2):
        put(tmp_path / (name % number), good)
    bad = put(tmp_path / (name % 1), content)
    for other in ("README.txt", "licences.csv"):
        put(tmp_path / other, "Not of the set.")
    (fault,) = faults(tmp_path)
    assert (fault.kind, fault.file, fault.row) == ("malformed", bad, 0)
    assert "no row of it can be read" in fault.reason and len(rows(tmp_path)) == 2


def test_pictures_own_captions_of_any_kind_go_on(tmp_path):
    """COCO's images with `captions` or Karpathy's `sentences` that are not what they should be."""
    names = [f"{n}.jpg" for n in range(6)]
    pictures(tmp_path, names)
    own = [{"captions": "One."}, {"captions": 5}, {"sentences": [{"tokens": ["a"]}]}]
    own += [{"sentences": [{"raw": "Two."}, 3]}, {"captions": {"raw": "Three."}}, {}]
    images = [{"id": n, "file_name": names[n], **held} for n, held in enumerate(own)]
    file = put(tmp_path / "captions.json", json.dumps({"images": images, "annotations": []}))
    assert [row.caption for row in rows(file)] == ["One.", "Two.", "Three."]
    assert kinds(faults(file)) == [("malformed", 2), ("malformed", 3), ("malformed", 4)]


def test_texts_that_are_no_files_or_lie_elsewhere(tmp_path):
    folder = tmp_path / "set"
    pictures(folder, ["a.jpg", "gone.jpg", "out.jpg", "pipe.jpg"])
    put(folder / "a.txt", "A cat.")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    (folder / "out.txt").symlink_to(put(tmp_path / "secret", "secret"))
    os.mkfifo(folder / "pipe.txt")  # a reader would wait for ever
    assert [row.caption for row in rows(folder)] == ["A cat."]
    assert [(fault.kind, fault.file.name) for fault in faults(folder)] == [
        ("empty caption", "gone.jpg"),
        ("outside", "out.txt"),
        ("empty caption", "pipe.jpg"),
    ]
