"""`caption --out`: captions of many pictures, whatever kills it, however many processes do it."""

import itertools
import json
import os
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from data_sets import picture_bytes, pictures, put
from hypothesis import given, settings
from hypothesis import strategies as st

import captioning.model
from captioning import Caption
from captioning.__main__ import main
from captioning.commands.shared import device_of, identity
from captioning.data.build import open_index
from captioning.data.packing import pack
from captioning.data.rows import Place
from captioning.many.job import Job, Share
from captioning.many.run import caption_job
from captioning.many.sources import Item, items
from captioning.scenes.draw import write_scenes

BLOCK = 4
ALONE = Share()


class Killed(Exception):
    """As if the process had gone."""


@dataclass
class Fake:
    """Says a picture's first pixel and its batch's draws; "dies" before batch number `dies`."""

    dies: float = float("inf")
    config = SimpleNamespace(
        vision=SimpleNamespace(image_size=4), resize="squash", knows="drawn scenes"
    )
    device = torch.device("cpu")

    def __post_init__(self):
        self.batches = []

    def describe(self, images, generator, **options):
        if len(self.batches) == self.dies:
            raise Killed
        self.batches.append(len(images))
        assert all(image.size == (4, 4) for image in images)
        state = generator.initial_seed()
        return [Caption(f"{i.getpixel((0, 0))} {state}", -1.0, 0.5, True) for i in images]


@pytest.fixture
def fake(monkeypatch):
    captioner = Fake()
    monkeypatch.setattr(captioning.model, "load_captioner", lambda *_, **__: captioner)
    return captioner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """22 pictures, of which two are none: the last of a block, and one whole block but one."""
    folder = tmp_path_factory.mktemp("many")
    pictures(folder, [f"{number:02}.png" for number in range(22)])
    for number in (7, 16, 17, 18, 19):
        (folder / f"{number:02}.png").write_text("Dear diary")
    return folder


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def start(folder: Path, out: Path, captioner: Any, share: Share = ALONE, **changes):
    job = Job(out, {"asked": "this", **changes}, BLOCK, share)
    return caption_job(lambda: captioner, job, lambda: items([folder]))


# ---- what comes out ------------------------------------------------------------------------------


def test_a_line_a_picture_in_order_and_the_bad_ones_listed(fake, folder, tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    words = ["caption", str(folder), "--out", str(out), "--batch-size", str(BLOCK)]
    assert main(words) == 1
    printed, err = capsys.readouterr()
    assert printed == f"17 captions in {out}\n"
    assert err == (
        f"error: 5 of 22 pictures could not be used: {tmp_path / 'c.failed.jsonl'} says why.\n"
    )
    said, failed = read(out), read(tmp_path / "c.failed.jsonl")
    bad = [7, 16, 17, 18, 19]
    assert [line["number"] for line in said] == [n for n in range(22) if n not in bad]
    assert [line["number"] for line in failed] == bad
    for line in said + failed:
        assert line["path"] == str(folder / f"{line['number']:02}.png")
    assert said[0].keys() == {
        *("number", "path", "caption", "logprob", "familiarity", "familiar"),
    }
    assert all("wanted a PNG" in line["error"] for line in failed)
    assert fake.batches == [4, 3, 4, 4, 2]  # a block without a picture costs no batch
    assert len({line["caption"].split()[-1] for line in said}) == 5  # each has draws of its own
    # Once more: nothing is left to do, and the answer is the same.
    assert main(words) == 1
    assert capsys.readouterr() == (printed, err) and len(fake.batches) == 5


def test_nothing_usable_is_exit_code_2(fake, tmp_path, capsys):
    put(tmp_path / "a.png", "no picture")
    assert main(["caption", str(tmp_path), "--out", str(tmp_path / "c.jsonl")]) == 2
    assert main(["caption", str(tmp_path / "no"), "--out", str(tmp_path / "d.jsonl")]) == 2
    (line,) = read(tmp_path / "d.failed.jsonl")
    assert "is not there" in line["error"]
    assert fake.batches == []


def test_the_order_is_that_of_the_single_pictures(fake, tmp_path, monkeypatch, capsys):
    """Folders sorted, named files as named, one picture twice: as without --out."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path, ["b.png", "a/1.png", "a-b/2.png", "a/z/3.png", "a/z.png", "c.png"])
    (tmp_path / "a" / ".hidden.png").write_text("")
    sources = ["b.png", ".", "a", "b.png"]
    assert main(["caption", *sources, "--out", "c.jsonl"]) == 0
    plain = [str(path) for path in captioning.pictures.list_pictures(sources)]
    assert [line["path"] for line in read(tmp_path / "c.jsonl")] == plain


def test_lists_and_shards(fake, tmp_path, monkeypatch):
    pictures(tmp_path / "p", [f"{n}.jpg" for n in range(5)])
    put(tmp_path / "p" / "a.tsv", "".join(f"{n}\tCaption {n}.\n" for n in range(5)))
    with open_index(tmp_path / "p", tmp_path / "index.sqlite") as index:
        pack(index, tmp_path / "shards", pictures_a_shard=3)
    shards = sorted((tmp_path / "shards").glob("*.tar"))
    torn = put(tmp_path / "torn.tar", shards[0].read_bytes()[:3000])
    put(tmp_path / "p" / "list.txt", "4.jpg\n\n" + f"{shards[1]}\nno.jpg\n" + "0.jpg\n")
    out = tmp_path / "c.jsonl"
    sources = [tmp_path / "shards", torn, tmp_path / "p" / "list.txt", tmp_path / "no.txt"]
    assert main(["caption", *map(str, sources), "--out", str(out)]) == 1
    said = read(out)
    ids = [line.get("image_id") for line in said]
    assert ids[:5] == ["0", "1", "2", "3", "4"] and ids[5] == "0"
    assert [ids[-4], *ids[-3:-1], ids[-1]] == [None, "3", "4", None]
    assert said[0]["path"] == f"{shards[0]}/000000001.png"
    alone = tmp_path / "alone.jsonl"
    main(["caption", str(tmp_path / "p"), "--out", str(alone)])
    pixels = [line["caption"].split(") ")[0] for line in read(alone)]
    assert [line["caption"].split(") ")[0] for line in said[:5]] == pixels
    errors = {line["path"]: line["error"] for line in read(tmp_path / "c.failed.jsonl")}
    assert "to its end" in errors[str(torn)]
    assert errors.keys() >= {str(tmp_path / "p" / "no.jpg"), str(tmp_path / "no.txt")}


def test_lists_and_processes_ask_for_a_file(fake, tmp_path, monkeypatch, capsys):
    put(tmp_path / "list.txt", "a.png\n")
    assert main(["caption", str(tmp_path / "list.txt")]) == 2
    assert "--out FILE.jsonl" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["caption", "a.png"]) == 2
    assert "2 processes" in capsys.readouterr().err


def test_another_model_is_another_job_and_each_process_has_its_own_gpu(tmp_path):
    for name in ("config.json", "model.safetensors"):
        put(tmp_path / "run" / "model" / name, "numbers")
    held = identity(str(tmp_path / "run"))
    assert identity(str(tmp_path / "run")) == held != identity("scenes")
    put(tmp_path / "run" / "model" / "model.safetensors", "more numbers")
    assert identity(str(tmp_path / "run")) != held
    assert device_of("cuda", {"LOCAL_RANK": "1"}) == "cuda:1"
    assert device_of("cuda", {}) == "cuda" and device_of("cpu", {"LOCAL_RANK": "1"}) == "cpu"


# ---- killed --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """What one process writes that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "c.jsonl"
    totals = start(folder, out, Fake())
    assert totals is not None and (totals.captions, totals.failed) == (17, 5)
    return out.read_bytes(), out.with_name("c.failed.jsonl").read_bytes()


@pytest.mark.parametrize("dies", range(5))
def test_a_kill_loses_nothing_and_repeats_nothing(folder, whole, tmp_path, dies):
    out = tmp_path / "c.jsonl"
    with pytest.raises(Killed):
        start(folder, out, Fake(dies))
    second = Fake()
    assert start(folder, out, second) is not None
    assert (out.read_bytes(), (tmp_path / "c.failed.jsonl").read_bytes()) == whole
    assert dies + len(second.batches) == 5  # what was written was not done again
    assert sorted(os.listdir(tmp_path / "c.jsonl.job")) == [".lock", "job.json", "todo.sqlite"]


def test_a_torn_line_is_healed_wherever_it_broke(folder, whole, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(Killed):
        start(folder, out, Fake(dies=3))
    held = out.read_bytes()
    lines = held.splitlines(keepends=True)
    for cut in {*range(0, len(held), 97), len(held) - 1, len(held) - len(lines[-1])}:
        with pytest.raises(Killed):
            out.write_bytes(held[:cut])
            start(folder, out, Fake(dies=0))
        healed = out.read_bytes()
        assert held.startswith(healed) and len(healed) <= cut
        assert all(line["caption"] for line in read(out))
    out.write_bytes(held[:-9])
    for cut in (1, 200, 900):  # and wherever it breaks after all was done
        captioner = Fake()
        assert start(folder, out, captioner) is not None
        assert (out.read_bytes(), (tmp_path / "c.failed.jsonl").read_bytes()) == whole
        assert sum(captioner.batches) < 17
        out.write_bytes(whole[0][:-cut])


KILLS = st.lists(
    st.tuples(
        st.integers(1, 3),  # processes
        st.lists(st.integers(0, 3), min_size=3, max_size=3),  # batches that each lives for
        st.integers(0, 120),  # bytes that the newest file of each loses
    ),
    max_size=6,
)


@given(KILLS)
@settings(max_examples=25)
def test_any_kills_with_any_number_of_processes(folder, whole, tmp_path_factory, kills):
    """However often it is started, with however many, all comes once and in order."""
    out = tmp_path_factory.mktemp("kills") / "c.jsonl"
    for world, lives, torn in kills:
        for rank in range(world):
            try:
                start(folder, out, Fake(lives[rank]), Share(rank, world))
            except Killed:
                own = out if world == 1 else out.parent / "c.jsonl.job" / f"said-{rank}-of-{world}"
                own = own if world == 1 else own.with_name(own.name + ".jsonl")
                if own.is_file():
                    os.truncate(own, max(0, own.stat().st_size - torn))
    totals = start(folder, out, Fake())
    assert totals is not None and (totals.captions, totals.failed) == (17, 5)
    assert (out.read_bytes(), out.with_name("c.failed.jsonl").read_bytes()) == whole


def test_processes_share_the_work_and_the_last_joins(folder, whole, tmp_path):
    out = tmp_path / "c.jsonl"
    fakes = [Fake() for _ in range(3)]
    found = [start(folder, out, fakes[rank], Share(rank, 3)) for rank in (1, 0, 2)]
    assert [totals is not None for totals in found] == [False, False, True]
    assert [len(fake.batches) for fake in fakes] == [2, 1, 2]
    assert (out.read_bytes(), (tmp_path / "c.failed.jsonl").read_bytes()) == whole
    # One that was started late finds all done.
    assert start(folder, out, Fake(dies=0), Share(1, 3)) == found[2]


def test_a_lost_part_is_done_again(folder, whole, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(Killed):
        start(folder, out, Fake(1), Share(0, 2))
    with pytest.raises(Killed):
        start(folder, out, Fake(2))
    (tmp_path / "c.jsonl.job" / "said-0-of-2.jsonl").unlink()
    assert start(folder, out, Fake()) is not None
    assert out.read_bytes() == whole[0]


def test_another_job_is_refused(folder, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(Killed):  # before a first batch: that a mistake was asked binds nobody
        start(folder, out, Fake(dies=0), asked="a mistake")
    with pytest.raises(Killed):
        start(folder, out, Fake(dies=2))
    with pytest.raises(ValueError, match="of another job: asked was this, now that"):
        start(folder, out, Fake(), asked="that")
    strange = put(tmp_path / "mine.jsonl", "precious\n")
    with pytest.raises(ValueError, match="is there already"):
        start(folder, strange, Fake())
    assert strange.read_text() == "precious\n"


def test_a_job_whose_result_was_deleted_begins_anew(folder, whole, tmp_path):
    out = tmp_path / "c.jsonl"
    start(folder, out, Fake())
    out.unlink()
    second = Fake()
    assert start(folder, out, second) is not None
    assert out.read_bytes() == whole[0] and sum(second.batches) == 17


def test_two_processes_cannot_write_the_same_part(folder, tmp_path):
    job = Job(tmp_path / "c.jsonl", {"asked": "this"}, BLOCK, ALONE)
    job.start(lambda: items([folder]))
    with job.writing():
        for asked, why in (("this", "being written by another process"), ("that", "another job")):
            with pytest.raises(ValueError, match=why):
                start(folder, tmp_path / "c.jsonl", Fake(), asked=asked)


def test_the_list_is_made_once(tmp_path):
    """A picture that comes while a job is interrupted is not in it: numbers must not move."""
    pictures(tmp_path / "p", [f"{n}.png" for n in range(9)])
    out = tmp_path / "c.jsonl"
    with pytest.raises(Killed):
        start(tmp_path / "p", out, Fake(dies=1))
    put(tmp_path / "p" / "00.png", picture_bytes(99))
    assert start(tmp_path / "p", out, Fake()) is not None
    assert [Path(line["path"]).name for line in read(out)] == [f"{n}.png" for n in range(9)]
    with pytest.raises(ValueError, match="of the 9 pictures that there were, and there are 10 now"):
        start(tmp_path / "p", out, Fake())


# ---- memory --------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    picture = put(tmp_path / "a.png", picture_bytes(0))

    def peak(n: int) -> int:
        every = (Item(f"{i}", Place(str(picture))) for i in itertools.islice(itertools.count(), n))
        out = tmp_path / f"{n}.jsonl"
        tracemalloc.start()
        captioner: Any = Fake()
        caption_job(lambda: captioner, Job(out, {}, BLOCK, ALONE), lambda: every)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(out.read_bytes().splitlines()) == n
        return used

    peak(50)  # what Python keeps from the first time
    # A name and a place alone are 400 bytes; what waits for Python's collector comes to 150 KB.
    assert peak(3000) - peak(500) < 80 * 2500


# ---- the real model, killed by the system --------------------------------------------------------


@pytest.mark.slow
def test_the_embedded_model_is_killed_and_two_processes_finish(root, tmp_path):
    write_scenes(tmp_path / "scenes", 60, size=72)
    put(tmp_path / "scenes" / "bad.png", "no picture")
    places = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    words = ["-m", "captioning", "caption", "scenes", "--batch-size", "4"]

    def run(*command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=tmp_path, env=places, stderr=subprocess.PIPE)

    run(sys.executable, *words, "--out", "whole.jsonl").communicate()
    killed = run(sys.executable, *words, "--out", "c.jsonl")
    while not (tmp_path / "c.jsonl").is_file():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert 0 < len((tmp_path / "c.jsonl").read_bytes().splitlines()) < 60
    two = run(
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *(*words, "--out", "c.jsonl"),
    )
    _, err = two.communicate()
    assert two.returncode == 0, err
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read(tmp_path / "c.jsonl")) == 60 and len(read(tmp_path / "c.failed.jsonl")) == 1
