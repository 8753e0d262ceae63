"""`data fetch` against a server on loopback: what is chosen, what comes, what fails."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from data_sets import narrative, picture_bytes, rows
from server import Server, cut, status

import captioning.data.fetching as fetching
from captioning.__main__ import main
from captioning.data.build import open_index
from captioning.data.fetching import choose, fetch
from weights.download import FetchError, Patience

QUICK = Patience(connect=2, read=2, retries=1, backoff=0.01)
BUCKET = "/open-images-dataset.s3.amazonaws.com/train"
IDS = [f"{number:016x}" for number in range(100, 140)]


@pytest.fixture
def server():
    with Server() as server:
        yield server


def put_open_images(server: Server) -> None:
    """40 pictures, every third with two narratives, as the public buckets have them."""
    lines = [narrative(image, f"In this image {image}.") for image in IDS]
    lines += [narrative(image, f"Again {image}.") for image in IDS[::3]]
    lines += ["{broken\n", narrative("../../evil", "Out.")]
    path = "/storage.googleapis.com/localized-narratives/annotations/"
    server.put(f"{path}open_images_train_v6_captions.jsonl", "".join(lines).encode())
    table = io.StringIO()
    writer = csv.writer(table)
    names = "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title"
    writer.writerow(names.split(","))
    licence = "https://creativecommons.org/licenses/by/2.0/"
    for image in IDS[:-1]:  # of the last nothing is known
        landing, profile = f"https://flickr/{image}", f"https://flickr/by/{image}"
        author = f'Jörg "{image}", photos'
        writer.writerow([image, "train", "", landing, licence, profile, author, "A\ntitle"])
    path = "/storage.googleapis.com/openimages/2018_04/train/"
    content = table.getvalue().encode()
    server.put(f"{path}train-images-boxable-with-rotation.csv", content)
    for number, image in enumerate(IDS):
        server.put(f"{BUCKET}/{image}.jpg", picture_bytes(number, "JPEG"))


def get(server: Server, out: Path, **options):
    return fetch("open-images", out, mirror=server.address, patience=QUICK, **options)


def names(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "train").glob("*.jpg"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_open_images(server, tmp_path, capsys):
    put_open_images(server)
    command = ["data", "fetch", "open-images", "--split", "train", "--n", "12", "--seed", "0"]
    command += ["--out", str(tmp_path / "set"), "--mirror", server.address]
    assert main(command) == 0
    assert "12 pictures with" in capsys.readouterr().out
    chosen = names(tmp_path / "set")
    assert len(chosen) == 12 and set(chosen) < set(IDS)
    for image in chosen:
        content = picture_bytes(IDS.index(image), "JPEG")
        assert (tmp_path / "set" / "train" / f"{image}.jpg").read_bytes() == content
    with open_index(tmp_path / "set", tmp_path / "index.sqlite") as index:
        found = {picture.image: picture for picture in index.pictures()}
        assert sorted(found) == chosen and not index.fault_counts()
        assert all(picture.split == "train" for picture in found.values())
        for image, picture in found.items():
            assert len(picture.captions) == 1 + (IDS.index(image) % 3 == 0)
    licences = {row["image"]: row for row in table(tmp_path / "set" / "licences-train.csv")}
    assert sorted(licences) == chosen
    one = next(image for image in chosen if image != IDS[-1])
    assert licences[one] == {
        "image": one,
        "file": f"train/{one}.jpg",
        "licence": "https://creativecommons.org/licenses/by/2.0/",
        "author": f'Jörg "{one}", photos',
        "author_url": f"https://flickr/by/{one}",
        "title": "A\ntitle",
        "source_url": f"https://flickr/{one}",
    }
    assert not list((tmp_path / "set").glob("failures*"))


def test_what_is_whole_is_not_fetched_twice_and_more_is_the_same_and_others(server, tmp_path):
    put_open_images(server)
    assert get(server, tmp_path, n=10).new == 10
    few = names(tmp_path)
    asked = len(server.log)
    done = get(server, tmp_path, n=10)
    assert (done.pictures, done.new, len(server.log)) == (10, 0, asked)
    done = get(server, tmp_path, n=25)
    assert (done.pictures, done.new) == (25, 15)
    assert set(few) < set(names(tmp_path)) and len(rows(tmp_path)) == done.captions
    assert get(server, tmp_path, n=1000).pictures == 40
    assert {row["image"]: row["licence"] for row in table(tmp_path / "licences-train.csv")}[
        IDS[-1]
    ] == "unknown"


def test_the_seed_chooses():
    ids = [f"{n}" for n in range(1000)]
    one, other = (set(choose(iter(ids), 100, seed)) for seed in (0, 1))
    assert len(one) == len(other) == 100 and len(one & other) < 30  # 10 by chance
    # Whoever changes the hash gives everybody other pictures.
    assert list(choose(iter(ids), 3, 0)) == ["525", "100", "603"]
    assert list(choose(iter([*ids, *reversed(ids)]), 100, 0)) == list(choose(iter(ids), 100, 0))


def test_pictures_that_fail_are_listed_and_fetched_by_the_next_run(server, tmp_path, capsys):
    put_open_images(server)
    gone, short = IDS[3], IDS[5]
    page = server.pages.pop(f"{BUCKET}/{gone}.jpg")
    server.pages[f"{BUCKET}/{short}.jpg"].faults += [cut(0.5), status(503)]
    command = ["data", "fetch", "open-images", "--n", "40", "--out", str(tmp_path)]
    command += ["--mirror", server.address, "--retries", "0"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "38 pictures" in out and "2 failed" in out and "404" in err
    failures = {row["image"]: row for row in table(tmp_path / "failures-train.csv")}
    assert set(failures) == {gone, short} and "404" in failures[gone]["reason"]
    assert failures[gone]["address"].endswith(f"s3.amazonaws.com/train/{gone}.jpg")
    server.pages[f"{BUCKET}/{gone}.jpg"] = page
    server.pages[f"{BUCKET}/{short}.jpg"].faults.clear()
    assert main(command) == 0
    assert "40 pictures" in capsys.readouterr().out
    assert not list(tmp_path.glob("failures*")) and not list(tmp_path.glob("train/*.part"))


def test_what_comes_and_is_no_whole_picture_is_a_failure(server, tmp_path):
    """A page that says "not now" with status 200, and an end that no length gives away."""
    put_open_images(server)
    page, cut_off = (server.pages[f"{BUCKET}/{image}.jpg"] for image in (IDS[3], IDS[5]))
    whole = page.content, cut_off.content
    page.content, cut_off.content, cut_off.length = b"not now", cut_off.content[:-40], False
    assert get(server, tmp_path, n=40).failed == 2
    reasons = {row["image"]: row["reason"] for row in table(tmp_path / "failures-train.csv")}
    assert "no whole picture" in reasons[IDS[3]] and "no end mark" in reasons[IDS[5]]
    page.content, cut_off.content = whole
    page.etag = cut_off.etag = '"v2"'
    assert (done := get(server, tmp_path, n=40)).failed == 0 and done.new == 2


def test_a_network_that_is_gone_is_not_asked_for_every_picture(server, tmp_path, monkeypatch):
    put_open_images(server)
    monkeypatch.setattr(fetching, "IN_A_ROW", 5)
    for image in IDS:
        server.pages[f"{BUCKET}/{image}.jpg"].faults += [status(503)] * 9
    with pytest.raises(FetchError, match=r"5 pictures in a row .*503.*a new run goes on"):
        get(server, tmp_path, n=40, workers=2)
    assert sum(request.status == 503 for request in server.log) <= 2 * 14
    assert len(table(tmp_path / "failures-train.csv")) == 5
    assert not list(tmp_path.glob(".failures*"))


KILLED = """
import os, signal, sys
import captioning.data.fetching as fetching
from captioning.__main__ import main
real, calls = fetching.download, []
def download(*arguments, **options):
    calls.append(1)
    if len(calls) == 12: os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
fetching.download = download
main(sys.argv[1:])
"""


def test_killed_it_goes_on(server, tmp_path, root):
    put_open_images(server)
    command = ["data", "fetch", "open-images", "--n", "30", "--out", str(tmp_path / "set")]
    command += ["--mirror", server.address, "--workers", "2"]
    run = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=root, capture_output=True)
    assert run.returncode == -signal.SIGKILL
    done = len(names(tmp_path / "set"))
    assert 5 < done < 12
    before = len(server.log)
    assert main(command) == 0
    assert len(names(tmp_path / "set")) == 30
    assert len(server.log) - before == 30 - done  # no source, no picture twice


def put_coco(server: Server) -> None:
    images = [
        {"id": n, "file_name": f"{n:012}.jpg", "license": n % 2, "flickr_url": f"http://flickr/{n}"}
        for n in range(9, 39)
    ]
    captions = [{"image_id": n % 30 + 9, "id": n, "caption": f"Caption {n}."} for n in range(150)]
    licences = [{"id": n, "url": f"http://creativecommons/{n}", "name": "x"} for n in range(2)]
    held = {"info": {}, "licenses": licences, "images": images, "annotations": captions}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train2017", "val2017"):
            archive.writestr(f"annotations/captions_{part}.json", json.dumps(held))
    path = "/images.cocodataset.org"
    server.put(f"{path}/annotations/annotations_trainval2017.zip", packed.getvalue())
    for part in ("train2017", "val2017"):
        for n in range(9, 39):
            server.put(f"{path}/{part}/{n:012}.jpg", picture_bytes(n, "JPEG"))


def test_coco(server, tmp_path):
    put_coco(server)
    options = {"mirror": server.address, "patience": QUICK}
    done = fetch("coco", tmp_path, split="validation", n=7, **options)
    assert (done.pictures, done.captions) == (7, 35)
    fetch("coco", tmp_path, split="train", n=4, **options)
    assert sum("annotations" in request.path for request in server.log) == 1
    with open_index(tmp_path, tmp_path / "index.sqlite", split="official") as index:
        found = list(index.pictures())
        # The server has the same ids in both parts, which COCO has not.
        assert set(index.fault_counts()) == {"same id"}
        assert index.identity["kind"] == "COCO captions"
    assert [p.side for p in found].count("validation") == 7 and len(found) == 11
    assert all(len(picture.captions) == 5 for picture in found)
    licences = table(tmp_path / "licences-validation.csv")
    assert len(licences) == 7
    for row in licences:
        number = int(row["image"])
        assert row["licence"] == f"http://creativecommons/{number % 2}"
        assert row["file"] == f"val2017/{number:012}.jpg"
        assert row["source_url"] == f"http://flickr/{number}"


def test_coco_with_odd_entries_and_damage_is_told(server, tmp_path):
    put_coco(server)
    options = {"mirror": server.address, "patience": QUICK}
    fetch("coco", tmp_path, n=3, **options)
    path = tmp_path / "sources" / "captions_train2017.json"
    held = json.loads(path.read_text())
    odd = [None, 5, {}, {"id": "../9"}, {"id": None}]
    held["images"] += odd
    held["annotations"] += odd
    held["licenses"] += [None, {"id": 3}]
    path.write_text(json.dumps(held))
    assert fetch("coco", tmp_path, n=99, **options).pictures == 30
    path.write_text(json.dumps(held)[:2000])
    with pytest.raises(ValueError, match=r"captions_train2017.json is damaged .*delete it and"):
        fetch("coco", tmp_path, n=99, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["coco", "--split", "test"], "not public"),
        (["open-images", "--n", "0"], "--n 0"),
        (["open-images", "--timeout", "0"], "--timeout 0"),
        (["open-images"], "404"),
    ],
)
def test_mistakes_end_in_one_line(server, tmp_path, capsys, options, told):
    command = ["data", "fetch", *options, "--out", str(tmp_path), "--mirror", server.address]
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and told in last


def test_a_damaged_table_of_licences_is_named(server, tmp_path, capsys):
    put_open_images(server)
    path = "/storage.googleapis.com/openimages/2018_04/train/train-images-boxable-with-rotation.csv"
    page = server.pages[path]
    page.content = page.content.replace(b"A\ntitle", b"A" * 200_000)
    command = ["data", "fetch", "open-images", "--n", "3", "--out", str(tmp_path)]
    assert main([*command, "--mirror", server.address]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "rotation.csv is damaged" in last and "delete it, and start again" in last


def test_a_damaged_archive_is_named(server, tmp_path):
    put_coco(server)
    page = server.pages["/images.cocodataset.org/annotations/annotations_trainval2017.zip"]
    page.content = page.content[:-200] + os.urandom(200)
    with pytest.raises(ValueError, match=r"not COCO's archive .* delete it"):
        fetch("coco", tmp_path, n=3, mirror=server.address, patience=QUICK)
