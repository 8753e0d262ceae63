"""All files of a name: fetched, found whole, checked, brought by hand."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import HASTY, QUICK
from server import Server, reset, status
from tiny_table import WORDS, serve_tiny

from weights import locate, manifest, model_folder
from weights.bring import bring
from weights.check import check
from weights.contents import LEGACY_TORCH, fault
from weights.download import FetchError, NoSpace
from weights.fetch import fetch

FILES = {
    "huggingface": {"config.json", "model.safetensors"},
    "openai": {
        *("hparams.json", "checkpoint", "model.ckpt.index", "model.ckpt.meta"),
        "model.ckpt.data-00000-of-00001",
    },
}
OWN = {"received.json", ".lock"}


@pytest.fixture
def server(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GPT2_SCRATCH_MIRROR", raising=False)
    monkeypatch.setattr(manifest, "TABLE", tmp_path / "manifest.json")
    manifest.entries.cache_clear()
    with Server() as running:
        serve_tiny(running, golden, tmp_path / "manifest.json")
        yield running
    manifest.entries.cache_clear()


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - OWN


def findings(name: str, source: str | None = None) -> dict[str, str]:
    """What is wrong, by file."""
    return {found.file: found.text for found in check(name, source)[1] if not found.good}


def requests(server: Server, part: str) -> int:
    return sum(part in request.path for request in server.log)


@pytest.mark.parametrize("source", FILES)
def test_a_name_is_fetched_with_what_it_needs(server, golden, source):
    folder = fetch("tiny", source, patience=QUICK)
    assert folder == locate("tiny", source) == locate("tiny") == model_folder("tiny", source)
    assert held(folder) == FILES[source]
    origin = golden / "tiny-a" / {"huggingface": "hf-prefixed", "openai": "openai"}[source]
    for name in FILES[source]:
        assert (folder / name).read_bytes() == (origin / name).read_bytes()
    assert (locate("words") / "words.json").read_bytes() == WORDS
    assert findings("tiny") == findings("words") == {}
    received = json.loads((folder / "received.json").read_text())
    assert received.keys() == FILES[source]
    for name, entry in received.items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["from"] == f"{server.address}/{source}/{name}"  # the one that had it


def test_the_default_is_the_first_source(server):
    assert fetch("tiny", patience=QUICK) == model_folder("tiny", "huggingface")


def test_what_is_whole_is_not_fetched_again(server):
    fetch("tiny", "openai", patience=QUICK)
    before = len(server.log)
    said: list[str] = []
    folder = fetch("tiny", "openai", patience=QUICK, tell=said.append)
    assert len(server.log) == before and not said
    (folder / "hparams.json").unlink()
    fetch("tiny", "openai", patience=QUICK)
    assert {r.path.rpartition("/")[2] for r in server.log[before:]} == {"hparams.json"}


def test_force_fetches_what_is_there(server):
    fetch("tiny", patience=QUICK)
    fetch("tiny", patience=QUICK, force=True)
    assert requests(server, "/huggingface/model.safetensors") == 2
    assert requests(server, "/words/words.json") == 2


@pytest.mark.parametrize("source", FILES)
def test_what_was_damaged_is_told_and_fetched_again(server, source):
    folder = fetch("tiny", source, patience=QUICK)
    name = next(n for n in FILES[source] if n.endswith((".safetensors", "-00001")))
    path = folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    wrong = findings("tiny")
    assert "got SHA-256" in wrong[name] and "wanted" in wrong[name]
    if source == "openai":  # TensorFlow's own checksums say so too
        assert "checksum" in wrong["model.ckpt.index"] and "received.json" in wrong[name]
    said: list[str] = []
    fetch("tiny", source, patience=QUICK, tell=said.append)
    assert name in said[0] and "fetching it again" in said[0]
    assert findings("tiny") == {}


def test_a_file_put_there_by_hand_is_taken_and_noted(server, golden):
    folder = model_folder("tiny", "openai")
    folder.mkdir(parents=True)
    name = "model.ckpt.data-00000-of-00001"
    shutil.copy(golden / "tiny-a" / "openai" / name, folder)
    fetch("tiny", "openai", patience=QUICK)
    assert not requests(server, name)
    assert json.loads((folder / "received.json").read_text())[name]["from"] == "found here"


def test_an_unpublished_file_that_changed_since_is_noticed(server):
    folder = fetch("tiny", "openai", patience=QUICK)
    old = (folder / "hparams.json").read_bytes()
    server.put("/openai/hparams.json", old.replace(b"\n", b"\r\n"), etag='"v2"')
    with pytest.raises(FetchError) as error:
        fetch("tiny", "openai", patience=QUICK, force=True)
    for words in ("hparams.json", "got SHA-256", "as first received on", "received.json"):
        assert words in str(error.value)
    assert (folder / "hparams.json").read_bytes() == old
    received = json.loads((folder / "received.json").read_text())
    del received["hparams.json"]  # what the message says to do
    (folder / "received.json").write_text(json.dumps(received))
    fetch("tiny", "openai", patience=QUICK, force=True)
    assert (folder / "hparams.json").read_bytes() != old


def test_a_failure_says_which_model_and_file_and_what_to_do(server):
    server.put("/huggingface/model.safetensors", b"", *[status(403)] * 9)
    with pytest.raises(FetchError) as error:
        fetch("tiny", patience=QUICK)
    for words in ("tiny: model.safetensors", "404", "403", "HF_ENDPOINT", "weights import tiny"):
        assert words in str(error.value)
    assert held(model_folder("tiny")) == {"config.json"}
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        locate("tiny")


def test_what_is_not_needed_may_be_missing(server):
    del server.pages["/openai/model.ckpt.meta"]
    said: list[str] = []
    folder = fetch("tiny", "openai", patience=QUICK, tell=said.append)
    assert held(folder) == FILES["openai"] - {"model.ckpt.meta"}
    assert any("goes without model.ckpt.meta" in line for line in said)
    assert findings("tiny") == {}


def test_a_missing_vocabulary_is_told_and_the_model_is_there(server):
    del server.pages["/words/words.json"]
    said: list[str] = []
    assert fetch("tiny", patience=QUICK, tell=said.append) == locate("tiny")
    assert "tiny is there, words is not" in said[-1] and "404" in said[-1]


def test_a_mirror_is_another_ones_cache(server, tmp_path, monkeypatch):
    folder = fetch("tiny", patience=QUICK)
    with Server() as mirror:
        for path in folder.parents[1].rglob("*"):
            if path.is_file():
                address = path.relative_to(folder.parents[1]).as_posix()
                mirror.put(f"/mine/{address}", path.read_bytes())
        monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("GPT2_SCRATCH_MIRROR", f"{mirror.address}/mine/")
        before = len(server.log)
        fetch("tiny", patience=QUICK)
        assert len(server.log) == before
        del mirror.pages["/mine/tiny/huggingface/config.json"]
        fetch("tiny", patience=QUICK, force=True)
        assert [r.path for r in server.log[before:]] == [
            "/gone/config.json",
            "/huggingface/config.json",
        ]


def test_room_for_everything_is_looked_at_first(server, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NoSpace, match=r"tiny needs 399,\d+ more bytes, .* has 1,000"):
        fetch("tiny", patience=QUICK)
    assert not server.log


def test_what_breaks_is_gone_on_with_in_the_next_run(server):
    server.pages["/huggingface/model.safetensors"].faults += [reset(0.6)] * 4
    with pytest.raises(FetchError, match="bytes of it are kept; a new run goes on"):
        fetch("tiny", patience=QUICK)
    fetch("tiny", patience=HASTY)
    assert server.statuses("/huggingface/model.safetensors")[-1] == 206
    assert findings("tiny") == {}


# ---- check -----------------------------------------------------------------------------------


def test_check_without_files_says_how_to_get_them(server):
    with pytest.raises(FileNotFoundError, match="python -m weights fetch tiny"):
        check("tiny")
    fetch("tiny", patience=QUICK)
    with pytest.raises(FileNotFoundError, match="fetch tiny --source openai"):
        check("tiny", "openai")


def test_check_tells_what_is_missing_cut_or_a_page(server):
    folder = fetch("tiny", patience=QUICK)
    model = folder / "model.safetensors"
    content = model.read_bytes()
    model.unlink()
    assert findings("tiny") == {model.name: "it is missing"}
    model.write_bytes(content[:-7])
    assert "not a whole safetensors file" in findings("tiny")[model.name]
    model.write_bytes(b"<!doctype html><title>Sign in</title>")
    assert "an HTML page titled 'Sign in'" in findings("tiny")[model.name]
    (folder / "config.json").write_bytes(b"{} ")
    assert findings("tiny")["config.json"].startswith("got 3 bytes, wanted 821")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.json", b"[1]", "holds a list, not an object"),
        ("x.json", b"\xff", "not JSON"),
        ("x.json", b"{", "not JSON"),
        ("x.safetensors", b"\x00" * 100, "not a whole safetensors file"),
        ("x.bin", b"\x80\x04", "not a whole PyTorch file"),
        ("x.pt", b"PK\x03\x04 cut off", "not a whole PyTorch file"),
        ("vocab.bpe", b"", "empty"),
        ("vocab.bpe", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_what_a_file_is_not(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    assert why in (fault(path) or "")


def test_what_pytorch_writes_opens(tmp_path):
    import zipfile

    import torch

    for ending in (".bin", ".pt"):
        path = tmp_path / f"x{ending}"
        torch.save({"a": torch.zeros(3)}, path)
        assert fault(path) is None
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
        assert fault(path) is None and path.read_bytes().startswith(LEGACY_TORCH)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "no tensors")
        assert "without data.pkl" in (fault(path) or "")


# ---- import ----------------------------------------------------------------------------------


@pytest.fixture
def carried(golden: Path, tmp_path: Path) -> Path:
    """A folder that someone carried over, with the words under another name."""
    folder = tmp_path / "stick"
    shutil.copytree(golden / "tiny-a" / "openai", folder)
    (folder / "vocabulary from the other machine").write_bytes(WORDS)
    (folder / "notes.txt").write_text("not ours")
    return folder


def test_import_tells_the_source_by_the_files(server, carried, golden):
    folder = bring("tiny", carried)
    assert folder == locate("tiny") == model_folder("tiny", "openai")
    assert held(folder) == FILES["openai"]
    assert (locate("words") / "words.json").read_bytes() == WORDS
    assert findings("tiny") == {} and not server.log
    # A link costs no room; what the original becomes later is noticed.
    name = "model.ckpt.data-00000-of-00001"
    assert os.path.samefile(folder / name, carried / name)
    bring("tiny", folder)  # from the cache itself
    assert held(folder) == FILES["openai"]
    for path in (golden / "tiny-a" / "hf-prefixed").iterdir():
        shutil.copy(path, carried)
    assert bring("tiny", carried) == model_folder("tiny", "huggingface")
    assert bring("tiny", carried, "openai") == model_folder("tiny", "openai")


def test_import_copies_where_it_cannot_link(server, carried, monkeypatch):
    def link(*args):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", link)
    folder = bring("tiny", carried)
    assert not os.path.samefile(folder / "hparams.json", carried / "hparams.json")
    assert findings("tiny") == {}
    usage = shutil.disk_usage(carried)._replace(free=3)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(NoSpace, match=r"needs [\d,]+ bytes.* has 3"):
        bring("tiny", carried)
    assert held(folder) == FILES["openai"]


def test_import_goes_without_what_is_not_needed(server, carried):
    for name in ("checkpoint", "model.ckpt.meta", "vocabulary from the other machine"):
        (carried / name).unlink()
    said: list[str] = []
    assert bring("tiny", carried, tell=said.append) == locate("tiny")
    assert "holds no words, which tiny needs: python -m weights fetch words" in said[-1]


def test_import_says_what_is_missing(server, carried, tmp_path):
    (carried / "model.ckpt.index").unlink()
    with pytest.raises(ValueError, match=r"tiny in the layout of openai still wants .*\.index\."):
        bring("tiny", carried)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds nothing; tiny"):
        bring("tiny", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        bring("tiny", carried / "notes.txt")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"<html>", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (None, r"got SHA-256 .*, wanted .* as published"),
        (b"", "it is empty"),
    ],
)
def test_import_takes_all_or_nothing(server, golden, tmp_path, content, why):
    stick = tmp_path / "stick"
    shutil.copytree(golden / "tiny-a" / "hf-prefixed", stick)
    model = stick / "model.safetensors"
    if content is None:
        content = model.read_bytes()[:-1] + b"\x55"
    model.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{model.name} is not the {model.name} of .*{why}.*again"
    ):
        bring("tiny", stick)
    assert held(model_folder("tiny")) == set()


def test_import_follows_links_as_hugging_faces_cache_has_them(server, golden, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for path in (golden / "tiny-a" / "hf-prefixed").iterdir():
        shutil.copy(path, blobs / f"blob of {path.name}")
        (snapshot / path.name).symlink_to(blobs / f"blob of {path.name}")
    folder = bring("tiny", snapshot)
    assert not (folder / "model.safetensors").is_symlink()
    assert findings("tiny") == {}
