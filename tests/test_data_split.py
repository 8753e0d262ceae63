"""Who is for training, validation and test; and the index that knows it."""

import json
import multiprocessing
import os
import pickle
import random
import sqlite3
import tracemalloc

import pytest
from data_sets import narrative, narratives, pictures, put
from hypothesis import given
from hypothesis import strategies as st

import captioning.data.build as build
from captioning.__main__ import main
from captioning.data.build import open_index
from captioning.data.index import Index
from captioning.data.rows import SIDES
from captioning.data.split import article_sides, canonical, hash_side
from gpt2_scratch.tokenizer import BPETokenizer


def sides(index: Index) -> dict[str, str | None]:
    return {picture.image: picture.side for picture in index.pictures()}


def test_the_shares_are_0_8_0_1_0_1():
    found = [hash_side(f"{n:016x}") for n in range(20_000)]
    shares = [found.count(side) / len(found) for side in SIDES]
    # Three standard deviations of 20,000 draws are 0.008.
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.008)


def test_known_sides_stay_for_ever():
    # Whoever changes the hash moves pictures between the sides of everybody's sets.
    images = ["0001eeaf4aed83f9", "139", "cat.jpg", "a/b.jpg", "00000/x", "ü"]
    assert [hash_side(i)[:2] for i in images] == ["tr"] * 6
    tests = [n for n in range(40) if hash_side(str(n)) == "test"]
    assert tests == [1, 7, 10, 15, 24]


def test_two_pictures_of_one_id_are_told_apart(tmp_path):
    """train/1.jpg and val/1.jpg: kept features, and scores, are by id."""
    pictures(tmp_path, ["train/1.jpg", "val/1.jpg", "val/2.jpg"])
    lines = ["image,caption,split", "1.jpg,A cat.,train", "1.jpg,A dog.,val", "2.jpg,A.,val"]
    put(tmp_path / "x.csv", "\n".join([*lines, "1.jpg,Again a dog.,val"]))
    with open_index(tmp_path, tmp_path / "index.sqlite", split="official") as index:
        found = {picture.image: picture for picture in index.pictures()}
        assert {image: picture.captions for image, picture in found.items()} == {
            "1.jpg": ("A cat.",),
            "val/1.jpg": ("A dog.", "Again a dog."),
            "2.jpg": ("A.",),
        }
        assert [(fault.kind, fault.row) for fault in index.faults()] == [("same id", 3)]
    with open_index(tmp_path, tmp_path / "index.sqlite") as index:
        assert found["val/1.jpg"].place.path.endswith("val/1.jpg")
        assert sides(index)["val/1.jpg"] == hash_side("1.jpg")  # whoever came first


@pytest.mark.parametrize(
    "same",
    [
        ["139", "000000000139", "000000000139.jpg", "./139.JPG", "0139.png"],
        ["a/b", "a/b.jpg", "./a//b.jpeg"],
        ["0", "00", "000.jpg"],
    ],
)
def test_spellings_of_one_picture_are_on_one_side(same):
    assert len({canonical(image) for image in same}) == 1


@given(st.text(min_size=1))
def test_every_id_has_a_side(image):
    assert hash_side(image) in SIDES


def test_no_picture_is_on_two_sides_and_new_rows_move_none(tmp_path):
    narratives(tmp_path, 150, captions=3)
    with open_index(tmp_path, tmp_path / "before.sqlite") as index:
        before = sides(index)
        assert index.leaks() == 0 and set(before.values()) == set(SIDES)
    more = [f"{n:05}.jpg" for n in range(50)]
    pictures(tmp_path, more)
    lines = [narrative(name, "New.") for name in more]
    lines += [narrative(image, "One more.") for image in before]
    random.Random(1).shuffle(lines)
    put(tmp_path / "a_first_file.jsonl", "".join(lines))
    with open_index(tmp_path, tmp_path / "after.sqlite") as index:
        after = sides(index)
        assert index.leaks() == 0 and len(after) == 200
    assert {image: after[image] for image in before} == before


def test_ids_spelled_in_two_ways_are_one_picture(tmp_path):
    names = [f"{n:012}.jpg" for n in range(1, 60)]
    pictures(tmp_path, names)
    lines = [{"image_id": n, "caption": f"A {n}."} for n in range(1, 60)]
    lines += [{"image_id": str(n), "caption": f"B {n}."} for n in range(1, 60)]
    lines += [{"image_id": name, "caption": f"C {name}."} for name in names]
    put(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    with open_index(tmp_path, tmp_path / "index.sqlite") as index:
        found = list(index.pictures())
        assert len(found) == 59 and index.leaks() == 0
        assert found[6].captions == ("A 7.", "B 7.", "C 000000000007.jpg.")


# ---- the article's -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 9, 10, 4321])
def test_the_article_s_split_is_its_line_shuffle(count):
    """Written as its author would: all lines in a list, shuffled with seed 0, cut."""
    lines = list(range(count))
    random.seed(0)
    random.shuffle(lines)
    tenth = int(count * 0.1)
    test, validation = set(lines[:tenth]), set(lines[tenth : 2 * tenth])
    names = {**dict.fromkeys(test, "test"), **dict.fromkeys(validation, "validation")}
    assert [SIDES[i] for i in article_sides(count)] == [names.get(i, "train") for i in range(count)]


def test_the_article_s_split_leaks_and_is_counted(tmp_path):
    narratives(tmp_path, 50, captions=4)
    options = {"split": "article"}
    with open_index(tmp_path, tmp_path / "index.sqlite", **options) as index:
        assert [index.count(side) for side in SIDES] == [160, 20, 20]
        of = {image: set() for image in sides(index)}
        for side in SIDES:
            for position in range(index.count(side)):
                of[index.sample(side, position).image].add(side)
        assert index.leaks() == sum(len(found) > 1 for found in of.values()) > 10
        references = [len(picture.captions) for picture in index.pictures("test")]
        assert sum(references) == 20  # of a picture on several sides the captions of this one alone


def test_broken_rows_keep_their_place_in_the_article_s_shuffle(tmp_path):
    ids = [f"{n}" for n in range(30)]
    pictures(tmp_path, [f"{image}.jpg" for image in ids])
    lines = [f"{image}\tCaption of {image}.\n" for image in ids]
    lines[4], lines[11] = "broken\n", "nowhere\tNo picture.\n"
    file = put(tmp_path / "dataset.txt", "".join(lines))
    expected = article_sides(30)
    with open_index(file, tmp_path / "index.sqlite", split="article") as index:
        assert index.rows == 30
        assert sides(index) == {str(n): SIDES[expected[n]] for n in range(30) if n not in (4, 11)}


# ---- official ------------------------------------------------------------------------------------


def test_official_splits(tmp_path):
    pictures(tmp_path, [f"{name}.jpg" for name in "abcd"])
    text = "image,caption,split\na,A,train\nb,B,val\nc,C,test\na,Again,test\nd,None,\n"
    file = put(tmp_path / "captions.csv", text)
    with open_index(file, tmp_path / "index.sqlite", split="official") as index:
        wanted = {"a": "train", "b": "validation", "c": "test", "d": None}
        assert sides(index) == wanted and index.leaks() == 0
        assert index.fault_counts() == {"no split": 1, "two splits": 1}
        assert index.count("train") == 2
    other = put(tmp_path / "other.csv", "image,caption\na,A\n")
    with pytest.raises(ValueError, match="none of the rows belongs to an official split"):
        open_index(other, tmp_path / "index.sqlite", split="official")


# ---- the index -----------------------------------------------------------------------------------


def test_an_index_is_opened_again_and_made_anew_where_something_changed(tmp_path):
    file = narratives(tmp_path, 20)
    path = tmp_path / "index.sqlite"

    def made(**options) -> tuple[bool, str]:
        before = path.stat().st_ino if path.exists() else None
        with open_index(tmp_path, path, **options) as index:
            return path.stat().st_ino != before, index.fingerprint

    assert made()[0]
    again, fingerprint = made()
    assert not again
    tokenizer = BPETokenizer.train(["In this image we see more"], 270)
    for options in ({"split": "article"}, {"longest": 99}, {"tokenizer": tokenizer}):
        assert made(**options)[0] and not made(**options)[0]
    assert made() == (True, fingerprint)
    file.write_text(file.read_text().replace("we see", "we saw"))
    anew, other = made()
    assert anew and other != fingerprint
    path.write_bytes(b"not an index at all" * 99)
    assert made() == (True, other)


def test_lengths_are_those_of_the_tokenizer_with_the_end_token(tmp_path):
    narratives(tmp_path, 30)
    tokenizer = BPETokenizer.train(["In this image we see more and more"], 275)
    with open_index(tmp_path, tmp_path / "index.sqlite", tokenizer=tokenizer) as index:
        n = index.count("train")
        wanted = [len(tokenizer.encode(index.sample("train", i).caption)) + 1 for i in range(n)]
        assert index.lengths("train", range(n)) == wanted and len(set(wanted)) > 3


def test_a_caption_of_one_endless_word_is_too_long_without_a_tokenizer_too(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    said = ["A bicycle, internationally.", "x" * 5000, "写" * 1500]
    put(tmp_path / "a.jsonl", "".join(narrative("a", text) for text in said))
    with open_index(tmp_path, tmp_path / "index.sqlite", split="none") as index:
        assert index.lengths("train", [0]) == [6] and index.count("train") == 1
        assert index.fault_counts() == {"long caption": 2}


def test_a_full_disk_ends_in_a_line(tmp_path, monkeypatch, capsys):
    narratives(tmp_path, 9, captions=30)
    monkeypatch.setattr(build, "TABLES", build.TABLES + "PRAGMA max_page_count = 12;")
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "index.sqlite can't be read or written (database or disk" in capsys.readouterr().err


def test_one_caption_a_picture(tmp_path):
    narratives(tmp_path, 30, captions=3)
    with open_index(tmp_path, tmp_path / "index.sqlite", captions="first") as index:
        n = index.count("train")
        samples = [index.sample("train", i) for i in range(n)]
        assert len({sample.image for sample in samples}) == n
        assert all(sample.caption.startswith("In this image 0") for sample in samples)
        # Scores still take every caption as a reference.
        assert all(len(picture.captions) == 3 for picture in index.pictures())


def _first(index: Index) -> tuple[int, str]:
    return os.getpid(), index.sample("train", 0).caption


def test_other_processes_read_the_same_index(tmp_path):
    narratives(tmp_path, 9)
    with open_index(tmp_path, tmp_path / "index.sqlite") as index:
        mine = _first(index)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            theirs = pool.apply(_first, (index,))
        assert theirs[1] == mine[1] and theirs[0] != mine[0]
        copy = pickle.loads(pickle.dumps(index))
        assert _first(copy) == mine
        copy.close()
    with pytest.raises(FileNotFoundError, match="wanted an index"):
        Index(tmp_path / "none")


def test_nothing_is_left_of_an_index_that_failed(tmp_path):
    put(tmp_path / "set" / "a.jsonl", narrative("nowhere", "A."))
    with pytest.raises(
        ValueError, match=r"none of the 1 rows of .* \(1 missing; the first: no pic"
    ):
        open_index(tmp_path / "set", tmp_path / "index.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_memory_is_flat_in_pictures(tmp_path):
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        ids = [f"{n:05}" for n in range(count)]
        for image in ids:
            put(folder / f"{image}.jpg", b"")
        # Longer than what is looked at to tell the format, which is the same for both.
        lines = (f"{image}\tA caption of {image}" + " and more" * 30 + ".\n" for image in ids)
        put(folder / "a.tsv", "".join(lines))
        tracemalloc.start()
        with open_index(folder, folder / "index.sqlite") as index:
            assert sum(1 for _ in index.pictures()) == count
            assert sum(1 for _ in index.pictures("test")) > 0
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2200)  # what is loaded once; and Python keeps up to 2000 freed tuples for reuse
    few, many = peak(300), peak(2200)
    # 1900 more pictures with ids and captions in a list would take 900 KB.
    assert many < few + 100_000, (few, many)


def test_sqlite_is_new_enough():
    assert sqlite3.sqlite_version_info >= (3, 28)  # the first with all the window functions used
