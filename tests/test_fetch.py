"""All files of a name: fetched, found whole, checked."""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from downloads import HASTY, QUICK
from server import Server, reset, status
from tiny_table import FILES, WORDS, findings, held, tiny_server

from weights import locate, model_folder, received
from weights.check import check
from weights.download import FetchError, NoSpace
from weights.fetch import fetch


@pytest.fixture
def server(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with tiny_server(golden, tmp_path, monkeypatch) as running:
        yield running


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


def test_words_that_came_instead_of_a_file_are_not_what_it_was_first_received_as(server):
    """Nobody published the hashes of these: a portal's words must not take their place."""
    names = ("hparams.json", "model.ckpt.index")
    for name in names:
        server.put(f"/gone/{name}", b"Too many requests")
    folder = fetch("tiny", "openai", patience=QUICK)
    assert findings("tiny") == {}
    for name in names:
        server.put(f"/openai/{name}", b"Too many requests")
        with pytest.raises(FetchError, match=r"it is (not JSON|no TensorFlow index).* it is"):
            fetch("tiny", "openai", patience=QUICK, force=True)
        assert findings("tiny") == {} and not list(folder.glob("*.part"))
        server.put(f"/openai/{name}", (folder / name).read_bytes())


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


def test_check_tells_what_cannot_be_read(server, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    fetch("tiny", patience=QUICK)
    monkeypatch.setattr(received, "sha256_of", failing)
    assert findings("tiny") == dict.fromkeys(
        FILES["huggingface"], "it can't be read (Input/output error)"
    )


@pytest.mark.parametrize(
    "held", ["[]", "{", "null", '{"hparams.json": 3}', '{"hparams.json": {"sha256": 5}}']
)
def test_damaged_notes_are_named_and_can_be_deleted(server, golden, held):
    folder = model_folder("tiny", "openai")
    shutil.copytree(golden / "tiny-a" / "openai", folder)
    notes = folder / "received.json"
    notes.write_text(held)
    for command in (findings, fetch):
        with pytest.raises(ValueError, match=r"received\.json is damaged.* Delete it"):
            command("tiny", "openai")
    notes.unlink()
    fetch("tiny", "openai", patience=QUICK)
    assert findings("tiny") == {} and not requests(server, "/openai/")


@pytest.mark.parametrize("what", ["a file", "a folder in the way", "full"])
def test_a_cache_that_cannot_be_written_to_says_what_to_do(server, monkeypatch, what):
    folder = model_folder("tiny")
    if what == "a file":
        folder.parents[1].write_text("not a folder")
    elif what == "a folder in the way":
        (folder / "config.json").mkdir(parents=True)
    else:

        def full(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(received, "write_json", full)
    with pytest.raises(OSError, match=r"wanted to write into .*tiny.*GPT2_SCRATCH_CACHE"):
        fetch("tiny", patience=QUICK)
