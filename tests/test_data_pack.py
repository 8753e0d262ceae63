"""Webdataset shards: packed, read back the same, whole after every kill."""

import json
import signal
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from data_sets import narrative, narratives, picture_bytes, put

import captioning.data.packing as packing
from captioning.__main__ import main
from captioning.data.build import open_index
from captioning.data.check import check
from captioning.data.index import Index
from captioning.data.opening import read_bytes
from captioning.data.packing import left_out, pack

FORMS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Pictures of every format under one wrong suffix, several captions each, some broken."""
    folder = tmp_path / "set"
    ids = [f"ünder.score-{n} and space" for n in range(10)]
    for n, image in enumerate(ids):
        put(folder / "validation" / f"{image}.jpg", picture_bytes(n, FORMS[n % 5], (9 + n, 7)))
    put(folder / "validation" / "broken.jpg", picture_bytes(1)[:50])
    said = [(image, f"Caption {t} 😀 {image}") for t in range(3) for image in ids]
    said += [("broken", "A."), ("broken", "B."), ("gone", "C.")]
    lines = [narrative(image, text, "validation") for image, text in said]
    put(folder / "open_images_validation_captions.jsonl", "".join(lines))
    return folder


def content(index: Index) -> list[tuple]:
    return [
        (picture.image, picture.captions, picture.split, picture.side, read_bytes(picture.place))
        for picture in index.pictures()
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_packed_and_read_back_it_is_the_same(mixed, tmp_path):
    with open_index(mixed, tmp_path / "a.sqlite") as index:
        before = [row for row in content(index) if row[0] != "broken"]
        done = pack(index, tmp_path / "shards", pictures_a_shard=4)
    assert (done.shards, done.pictures, done.captions, done.skipped) == (3, 10, 30, 1)
    assert [fault.kind for fault in left_out(tmp_path / "shards")] == ["truncated"]
    with open_index(tmp_path / "shards", tmp_path / "b.sqlite") as index:
        assert content(index) == before and len(before) == 10
        assert index.identity["kind"] == "webdataset shards" and not index.fault_counts()
    with tarfile.open(tmp_path / "shards" / "data-000000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["000000001.jpg", "000000001.json", "000000002.png"]
        member = tar.extractfile("000000001.json")
        assert member is not None
        held = json.load(member)
    assert held["split"] == "validation" and len(held["captions"]) == 3


def test_packed_twice_it_is_the_same_bytes(mixed, tmp_path):
    for name in ("one", "two"):
        with open_index(mixed, tmp_path / "index.sqlite") as index:
            pack(index, tmp_path / name, pictures_a_shard=3)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_one_side_alone(tmp_path):
    narratives(tmp_path / "set", 60)
    with open_index(tmp_path / "set", tmp_path / "a.sqlite") as index:
        wanted = [row for row in content(index) if row[3] == "test"]
        done = pack(index, tmp_path / "shards", side="test")
    with open_index(tmp_path / "shards", tmp_path / "b.sqlite") as index:
        assert content(index) == wanted and done.pictures == len(wanted) > 3


def test_a_folder_of_other_shards_is_refused(mixed, tmp_path):
    with open_index(mixed, tmp_path / "index.sqlite") as index:
        pack(index, tmp_path / "shards")
        with pytest.raises(ValueError, match=r"something else .*pictures_a_shard.*another folder"):
            pack(index, tmp_path / "shards", pictures_a_shard=3)


@pytest.mark.parametrize("inside", [False, True])
def test_the_set_s_own_folder_is_refused_and_stays(mixed, tmp_path, inside, capsys):
    if inside:  # a folder of pictures, which has no file of captions
        put(tmp_path / "set" / "a.jpg", picture_bytes())
        put(tmp_path / "set" / "a.txt", "A cat.")
        (mixed / "open_images_validation_captions.jsonl").unlink()
    else:  # somebody's shards, named as ours are
        with open_index(mixed, tmp_path / "index.sqlite") as index:
            pack(index, tmp_path / "set" / "shards", pictures_a_shard=4)
        mixed /= "shards"
        (mixed / "pack.json").unlink()
    before = {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}
    assert main(["data", "pack", str(mixed), "--out", str(mixed)]) == 2
    assert "holds the set itself, wanted another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()} == before


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 5, 6, 10, 13])
def test_stopped_at_any_picture_it_goes_on(mixed, tmp_path, monkeypatch, after):
    with open_index(mixed, tmp_path / "index.sqlite") as index:
        pack(index, tmp_path / "whole", pictures_a_shard=3)
        calls = 0

        def add(*arguments):
            nonlocal calls
            calls += 1
            if calls > after:
                raise Stop
            return real(*arguments)

        real = packing.add
        monkeypatch.setattr(packing, "add", add)
        with pytest.raises(Stop):
            pack(index, tmp_path / "stopped", pictures_a_shard=3)
        monkeypatch.setattr(packing, "add", real)
        kept = files(tmp_path / "stopped")
        assert all(files(tmp_path / "whole")[name] == data for name, data in kept.items())
        stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("*.tar")}
        done = pack(index, tmp_path / "stopped", pictures_a_shard=3)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert (done.pictures, done.captions, done.skipped) == (10, 30, 1)
    # What was whole is not written again.
    assert len(stamps) == after // 6
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


KILLED = """
import os, signal, sys
import captioning.data.packing as packing
from captioning.__main__ import main
real, calls = packing.add, [0]
def add(*arguments):
    calls[0] += 1
    if calls[0] == 9: os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
packing.add = add
main(sys.argv[1:])
"""


def test_killed_in_the_middle_of_a_shard_it_goes_on(mixed, tmp_path, root, capsys):
    out = tmp_path / "shards"
    command = ["data", "pack", str(mixed), "--out", str(out), "--pictures-a-shard", "3"]
    run = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=root, capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert sum(1 for _ in out.glob("*.tar")) == 1 and len(list(out.glob(".data-*"))) == 1
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "10 pictures with 30 captions in 4 shards" in told and "1 pictures left out" in told
    assert ": missing: " in told and ": truncated: " in told
    assert not list(out.glob(".data-*"))
    with open_index(out, tmp_path / "index.sqlite") as index:
        assert len(content(index)) == 10


def test_real_photographs(shared, tmp_path):
    source = shared / "data" / "photos_coco"
    listed = json.loads((source / "captions.json").read_text("utf-8"))["images"]
    hashes = {str(image["id"]): image["sha256"] for image in listed}
    with open_index(source, tmp_path / "a.sqlite") as index:
        assert check(index).is_clean and index.rows == 5 * len(listed)
        pack(index, tmp_path / "shards", pictures_a_shard=50)
    with open_index(tmp_path / "shards", tmp_path / "b.sqlite") as index:
        found = list(index.pictures())
    assert {p.image: sha256(read_bytes(p.place)).hexdigest() for p in found} == hashes
    assert all(len(picture.captions) == 5 for picture in found)
