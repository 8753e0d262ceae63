"""Files that were carried over by hand, brought into the cache: all of them or none."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import Server
from tiny_table import FILES, WORDS, findings, held, tiny_server

from weights import locate, manifest, model_folder
from weights.bring import bring
from weights.download import NoSpace


@pytest.fixture
def server(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with tiny_server(golden, tmp_path, monkeypatch) as running:
        yield running


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


def test_import_finds_renamed_files_of_unpublished_size(server, golden, tmp_path, monkeypatch):
    table = json.loads(manifest.TABLE.read_text())
    config, model = table["tiny"]["sources"][0]["files"]
    config["bytes"] = model["bytes"] = "unpublished"
    model["about"] = 395_136  # its tensors' bytes, without the header
    manifest.TABLE.write_text(json.dumps(table))
    manifest.entries.cache_clear()
    stick = tmp_path / "stick"
    stick.mkdir()
    for number, path in enumerate((golden / "tiny-a" / "hf-prefixed").iterdir()):
        shutil.copy(path, stick / f"download ({number})")
    assert bring("tiny", stick) == model_folder("tiny", "huggingface")


def test_import_takes_no_data_that_are_not_the_index_own(server, carried):
    data = carried / "model.ckpt.data-00000-of-00001"
    content = data.read_bytes()
    for changed, why in (
        (content[:-100], r"has 395036 bytes, wanted 395136 to hold all of 'model/wte'"),
        (content[:-1] + b"\x55", "the checksum of 'model/wte'"),
    ):
        data.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^model\.ckpt\.data.*{why}.*Nothing was imported"):
            bring("tiny", carried)
        assert held(model_folder("tiny", "openai")) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="has names of any bytes. Run it on Linux")
def test_import_from_a_folder_whose_name_is_no_text(server, golden, tmp_path):
    stick = tmp_path / "st\udcffck"
    shutil.copytree(golden / "tiny-a" / "hf-prefixed", stick)
    folder = bring("tiny", stick)
    assert r"st\xffck" in json.loads((folder / "received.json").read_text())["config.json"]["from"]


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


def test_import_of_another_model_says_whose_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "config.json").write_text("{}".ljust(718))
    (stick / "model.safetensors").write_bytes(b"never looked at")
    with pytest.raises(ValueError, match=r"config.json is not .* of gpt2/hugg.* of gpt2-medium's"):
        bring("gpt2", stick)


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
