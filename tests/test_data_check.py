"""A set of 5,000 rows with every fault there is: all reported, and iteration goes on."""

import itertools
import json
import os
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from data_sets import huge_png, narrative, narratives, picture_bytes, pictures, put

from captioning.__main__ import main
from captioning.data.batches import Batches
from captioning.data.build import open_index
from captioning.data.check import check
from captioning.data.opening import decode, look
from captioning.data.rows import KINDS, NOTES, SIDES, Bad, Place
from captioning.data.split import hash_side
from captioning.data.stats import statistics
from captioning.data.transforms import Transform
from gpt2_scratch.tokenizer import BPETokenizer

SHARDS, ROWS = 2, 5000
PICTURES = {"empty picture", "truncated", "corrupt", "oversized"}  # what is told by opening them
STEM = "open_images_train_v6_localized_narratives"


@dataclass
class Planted:
    """A set, and the (kind, file, row) of each of its faults."""

    folder: Path
    faults: list[tuple[str, str, int]] = field(default_factory=list)
    pictures: int = 0  # that are whole


def broken_rows(folder: Path) -> list[tuple[str, bytes]]:
    """(kind, line) of rows that no picture is to blame for, and of pictures that are."""
    jpeg, png = picture_bytes(1, "JPEG", (40, 30)), picture_bytes(2, "PNG", (40, 30))
    garbled = bytearray(png)
    garbled[60:160] = b"x" * 100
    spoiled = {
        "empty picture": [b""],
        "truncated": [jpeg[: len(jpeg) // 2], png[: len(png) // 2], jpeg[:30], png[:-12]],
        "corrupt": [b"<html>404</html>", bytes(garbled), b"\0" * 99, b"%!PS-Adobe"],
        "oversized": [huge_png()],
    }
    lines = []
    for kind, contents in spoiled.items():
        for number, content in enumerate(contents):
            image = f"bad-{kind.replace(' ', '-')}-{number}"
            put(folder / "train" / f"{image}.jpg", content)
            lines += [(kind, narrative(image, f"Of a {kind} picture, {turn}.")) for turn in "ab"]
    put(folder.parent / "secret.jpg", picture_bytes(3))
    os.symlink(folder.parent / "secret.jpg", folder / "train" / "linked.jpg")
    outside = ("../secret", "/etc/hostname", "train/../../secret", "linked", "..\\secret")
    lines += [("outside", narrative(image, "Out.")) for image in outside]
    (folder / "train" / "folder.jpg").mkdir()
    lines += [("missing", narrative(image, "Gone.")) for image in ("gone", "folder", 404)]
    good = f"{5:016x}"
    lines += [("empty caption", narrative(good, text)) for text in ("", "  \n ")]
    lines += [("long caption", narrative(good, "word " * 1500))]
    lines += [("control characters", narrative(good, f"A{c}B")) for c in "\x00\x07\x1b\x7f\n\t\x9c"]
    no_ids: list[Any] = [None, 1.5, [], True, {}, "", "\ud800"]
    no_captions: list[Any] = [None, 7, [None], {}, "\udc00"]
    malformed = [narrative(image, "A.") for image in no_ids]
    malformed += [narrative(good, text) for text in no_captions]
    malformed += ['{"caption": "A."}\n', '{"image_id": "1"}\n', "{\n", "[]\n", "null\n", "word\n"]
    malformed += [narrative(good, "A.")[:-9] + "\n", '{"a":' * 5000 + "\n"]
    lines += [("malformed", line) for line in malformed]
    found = [(kind, line.encode()) for kind, line in lines]
    return [
        *found,
        ("malformed", narrative(good, "A.").encode("utf-16-le").replace(b"\n\0", b"\n")),
    ]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Planted:
    """5,000 rows in two shards of three, the broken ones spread among the others."""
    folder = tmp_path_factory.mktemp("planted") / "set"
    found = Planted(folder)
    broken = broken_rows(folder)
    whole = ROWS - len(broken) - 7
    ids = [f"{number:016x}" for number in range(1, whole - 300)]
    pictures(folder / "train", [f"{image}.jpg" for image in ids])
    found.pictures = len(ids)
    # 300 pictures have a second narrative; what follows them are the notes.
    rows = [("", image, f"In this image we see {image}.") for image in (*ids, *ids[:301])]
    rows += [("", f"{7:016x}", f"Again {n}.") for n in range(2)]
    for number, image in enumerate(("twin-a", "twin-b", "other-twin")):
        put(folder / "train" / f"{image}.jpg", picture_bytes(10_000 + number // 2))
    rows += [("", "twin-a", "A."), ("duplicate", "twin-b", "B."), ("", "other-twin", "C.")]
    rows += [("duplicate caption", "twin-a", "A."), ("duplicate caption", ids[9], rows[9][2])]
    found.pictures += 3
    lines = [(kind, narrative(image, text).encode()) for kind, image, text in rows]
    for number in range(301):  # the second narratives are other texts, but for what is planted
        kind, image, _ = rows[len(ids) + number]
        lines[len(ids) + number] = (kind, narrative(image, f"Second, {number}.").encode())
    every = len(lines) // len(broken)
    for number, row in enumerate(broken):
        lines.insert(number * (every + 1), row)
    assert len(lines) == ROWS
    half = ROWS // SHARDS
    for shard in range(SHARDS):
        name = f"{STEM}-{shard:05}-of-00003.jsonl"
        part = lines[shard * half : (shard + 1) * half]
        put(folder / name, b"".join(line for _, line in part))
        found.faults += [(kind, name, row) for row, (kind, _) in enumerate(part, 1) if kind]
    found.faults.append(("missing shard", f"{STEM}.jsonl", 0))
    return found


def test_every_planted_fault_is_reported_and_nothing_else(planted, tmp_path):
    assert {kind for kind, *_ in planted.faults} == set(KINDS) - {
        "no split",
        "two splits",
        "same id",
    }
    with open_index(planted.folder, tmp_path / "index.sqlite") as index:
        report = check(index)
        reported = [(fault.kind, fault.file.name, fault.row) for fault in index.faults()]
        assert sorted(reported) == sorted(planted.faults)
        assert all(fault.reason for fault in index.faults())
        assert not report.is_clean
    out = Counter(kind for kind, *_ in planted.faults if kind not in NOTES)
    assert (report.rows, report.usable) == (ROWS, ROWS - sum(out.values()))
    assert report.pictures == planted.pictures
    assert report.faults == Counter(kind for kind, *_ in planted.faults)
    assert sum(counts["captions"] for counts in report.sides.values()) == report.usable


def test_training_goes_on_over_every_fault(planted, tmp_path):
    """An epoch without a check before it: each usable row comes once, each broken one is told."""
    tokenizer = BPETokenizer.train(["In this image we see"], 270)
    with open_index(planted.folder, tmp_path / "index.sqlite", tokenizer=tokenizer) as index:
        batches = Batches(index, "train", tokenizer, Transform(8), batch=50)
        images, skipped = Counter(), []
        steps = batches.steps_an_epoch
        for _, batch in zip(range(steps), batches(0), strict=False):
            images.update(batch.images)
            skipped += batch.skipped
            assert len(batch.images) == len(batch.ids) == len(batch.inputs)
            assert batch.inputs.flatten(1).std(1).min() > 0.1  # no black picture, no grey one
        once, faults = Counter(), []
        for batch in batches.once():
            once.update(batch.images)
            faults += batch.skipped
        total = index.count("train")
    assert images.total() + len(skipped) == 50 * steps and not images - once
    assert once.total() + len(faults) == total
    assert {fault.kind for fault in faults} <= PICTURES and faults
    told = {(fault.kind, fault.file.name, fault.row) for fault in faults}
    assert told <= set(planted.faults) and len(told) == len(faults)


@pytest.mark.parametrize("world", [1, 3])
def test_a_pass_over_all_sides_tells_every_bad_row_once(planted, tmp_path, world):
    """What is left out before training and in it, by all processes together, is what is planted."""
    tokenizer = BPETokenizer.train(["In this image we see"], 270)
    told, seen = Counter(), Counter()
    with open_index(planted.folder, tmp_path / "index.sqlite", tokenizer=tokenizer) as index:
        told.update((f.kind, f.file.name, f.row) for f in index.faults())
        for side, rank in itertools.product(SIDES, range(world)):
            share = {"micro": 50, "rank": rank, "world": world}
            for batch in Batches(index, side, tokenizer, Transform(8), 3 * 50, **share).once():
                told.update((f.kind, f.file.name, f.row) for f in batch.skipped)
                seen.update(batch.images)
        usable = sum(map(index.count, SIDES))
    # That two pictures are the same is found by comparing all, which is what `check` is for.
    wanted = [one for one in planted.faults if not one[0].startswith("duplicate")]
    assert told == Counter(wanted) and set(told.values()) == {1}
    broken = sum(kind in PICTURES for kind, *_ in wanted)
    assert seen.total() == usable - broken and len(seen) == planted.pictures


def test_the_command_lists_faults_and_counts(planted, capsys):
    assert main(["data", "check", str(planted.folder)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    shard = planted.folder / f"{STEM}-00000-of-00003.jsonl"
    row = next(row for kind, name, row in planted.faults if kind == "oversized")
    wanted = f"{shard}:{row}: oversized: {planted.folder}/train/bad-oversized-0.jpg"
    assert any(line.startswith(wanted) for line in lines)
    assert sum(": malformed: " in line for line in lines) == 21
    assert any(line.split(":")[0].strip() == "21 malformed" for line in lines)
    assert "5,000 rows, of which" in out and err == ""
    assert all(32 <= ord(character) < 127 or character == "\n" for character in out)


def test_the_command_in_json(planted, capsys):
    assert main(["data", "check", str(planted.folder), "--json"]) == 1
    *faults, report = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(faults) == len(planted.faults) and report["rows"] == ROWS
    assert faults[0].keys() == {"kind", "reason", "file", "row"}


def test_a_clean_set_is_clean(tmp_path, capsys):
    narratives(tmp_path, 12)
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "12 rows, of which 12 can be used" in capsys.readouterr().out


def test_duplicates_on_two_sides_are_counted(tmp_path):
    names = [f"{n}" for n in range(40)]
    train = [name for name in names if hash_side(name) == "train"]
    test = [name for name in names if hash_side(name) == "test"]
    # One twin of a test picture is for training; two twins are both for training.
    twins = {train[0]: test[0], train[2]: train[1]}
    for name in names:
        put(tmp_path / f"{name}.jpg", picture_bytes(int(twins.get(name, name))))
    put(tmp_path / "a.tsv", "".join(f"{name}\tCaption of {name}.\n" for name in names))
    with open_index(tmp_path, tmp_path / "index.sqlite") as index:
        report = check(index)
    assert (report.duplicates_on_two_sides, report.faults) == (1, {"duplicate": 2})
    assert report.is_clean and report.leaks == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_picture_that_breaks_off_is_truncated_wherever(form):
    data = picture_bytes(4, form, (64, 48))
    assert decode(data, "whole").size == (64, 48)
    for cut in (16, len(data) // 4, len(data) // 2, 9 * len(data) // 10):
        with pytest.raises(Bad) as caught:
            decode(data[:cut], "cut")
        assert caught.value.kind == "truncated", cut


def test_zeros_for_the_rest_of_a_photograph_are_no_pixels():
    """What is left where a disk's blocks were reserved and a download died: Pillow decodes it."""
    exif = b"\xff\xe1\x00\x08ab\xff\xd9\xff\xda"  # marks, as a thumbnail in EXIF has them
    data = picture_bytes(4, "JPEG", (64, 48))
    data = data[:2] + exif + data[2:]
    assert decode(data + b"and a film's bytes", "whole").size == (64, 48)
    with pytest.raises(Bad, match="truncated: half: no end mark"):
        decode(data[: len(data) // 2] + bytes(len(data)), "half")


def test_what_a_place_does_not_hold(tmp_path):
    path = str(put(tmp_path / "a.tar", picture_bytes()))
    size = os.path.getsize(path)
    assert look(Place(path, 0, size)).format == "PNG"
    for place, kind in [
        (Place(path, 10, size), "truncated"),
        (Place(path, size, 9), "empty picture"),
        (Place(str(tmp_path / "gone"), 0, 9), "missing"),
        (Place(str(tmp_path)), "corrupt"),
    ]:
        with pytest.raises(Bad) as caught:
            look(place)
        assert caught.value.kind == kind


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    path = put(tmp_path / "a.png", picture_bytes())
    os.truncate(path, 2**33)  # all but its beginning is a hole, which takes no room on the disk
    tracemalloc.start()
    with pytest.raises(Bad, match=r"oversized: .* 8,589,934,592 bytes, at most 536,870,912"):
        look(Place(str(path)))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_pixels_beyond_the_limit_are_not_decoded():
    data = picture_bytes(0, "PNG", (30, 20))
    assert decode(data, "a", limit=600).size == (30, 20)
    with pytest.raises(Bad, match="oversized: a has 30 x 20 = 600 pixels, at most 599"):
        decode(data, "a", limit=599)


# ---- stats ---------------------------------------------------------------------------------------


def test_stats_count_what_is_there(tmp_path):
    for number, size in enumerate([(20, 10), (20, 30), (400, 300)]):
        put(tmp_path / f"{number}.jpg", picture_bytes(number, "JPEG", size))
    put(tmp_path / "3.jpg", b"broken")
    captions = {0: ["In this image a.", "In this image b c d."], 1: ["One."], 2: ["Two."], 3: ["X"]}
    lines = [narrative(str(n), text) for n, texts in captions.items() for text in texts]
    put(tmp_path / "a.jsonl", "".join(lines))
    with open_index(tmp_path, tmp_path / "index.sqlite") as index:
        found = statistics(index)
    assert found.openings == {"In this image": 2, "One.": 1, "Two.": 1, "X": 1}
    assert (found.words.count, found.words.least, found.words.most) == (5, 1, 6)
    assert found.words.mean == pytest.approx((4 + 6 + 1 + 1 + 1) / 5)
    assert found.words.bins == {1: 3, 4: 1, 6: 1}
    assert found.lengths.most == 8 and found.lengths.median == 3  # "One", ".", the end
    assert found.captions_a_picture.bins == {1: 3, 2: 1}
    assert (found.sampled, found.unreadable, found.formats) == (4, 1, {"JPEG": 3})
    assert found.widths is not None and found.widths.bins == {0: 2, 400: 1}


def test_the_stats_command(tmp_path, capsys):
    narratives(tmp_path, 30, captions=2)
    assert main(["data", "stats", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for wanted in ("60 rows", "captions of a picture: 2 to 2", "In this image", "█", "30 PNG"):
        assert wanted in out
    assert main(["data", "stats", str(tmp_path), "--json", "--pictures", "10"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sampled"] == 10 and found["report"]["rows"] == 60


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["check", "nowhere"], "nowhere is not there"),
        (["check", ".", "--longest", "0"], "--longest"),
        (["check", ".", "--workers", "0"], "--workers"),
        (["stats", ".", "--pictures", "0"], "--pictures"),
        (["pack", ".", "--pictures-a-shard", "0"], "--pictures-a-shard"),
        (["pack", ".", "--only", "validation", "--out", "out"], "no caption of the set is for val"),
        (["pack", ".", "--out", "a-file/out"], "wanted a folder for the shards"),
        (["stats", ".", "--tokenizer", "nowhere"], "tokenizer.json"),
        (["check", ".", "--longest", "2"], "none of the 3 rows"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, options, told):
    monkeypatch.chdir(tmp_path)
    narratives(tmp_path, 3)
    put(tmp_path / "a-file", "")
    assert main(["data", *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and told in err
