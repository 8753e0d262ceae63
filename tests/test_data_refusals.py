"""What is no set of captioned pictures, or nearly one: refused with what was got and wanted."""

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
