"""No file, however broken, may hang the reader of checkpoints, fill the memory, or crash it.

It refuses with CheckpointError, in at most 16 MiB and twice the size of the files.
"""

import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hostile import BOMBS, DATA, FAULTS, of_block
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.openai_format import (
    block,
    finish_table,
    put_block,
    random_tensors,
    table,
    write_folder,
)
from weights.snappy import decompress
from weights.tf_checkpoint import CheckpointError, CheckpointNotFoundError, read_checkpoint
from weights.tf_table import read_table

HPARAMS = {"n_vocab": 5, "n_ctx": 3, "n_embd": 2, "n_head": 1, "n_layer": 1}
SPARE = 16 << 20


def attempt(folder: Path, *, traced: bool = True) -> dict[str, np.ndarray] | None:
    """Every tensor, or None where CheckpointError was raised; fails on all else, and on waste."""
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if traced:
        tracemalloc.start()
    started = time.process_time()
    try:
        return dict(read_checkpoint(folder))
    except CheckpointError as error:
        assert str(folder) in str(error)
        return None
    finally:
        assert time.process_time() - started < 20  # the slowest takes 2; hanging is minutes
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < SPARE + size  # the files' maps are not traced: they take that once more


def lay(folder: Path, index: bytes, data: bytes = DATA) -> Path:
    (folder / "x.index").write_bytes(index)
    (folder / "x.data-00000-of-00001").write_bytes(data)
    return folder


# --- faults by name ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_with_what_is_wrong(tmp_path: Path, fault: str) -> None:
    index, message = FAULTS[fault]
    assert attempt(lay(tmp_path, index)) is None
    with pytest.raises(CheckpointError, match=message):
        dict(read_checkpoint(tmp_path))


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_bomb_goes_off(tmp_path: Path, bomb: str) -> None:
    make, message = BOMBS[bomb]
    lay(tmp_path, make())
    # Not traced, which takes long; the memory is looked at from outside, in the next test.
    read = attempt(tmp_path, traced=False)
    assert (read is None) == bool(message)
    if message:
        with pytest.raises(CheckpointError, match=message):
            dict(read_checkpoint(tmp_path))


def test_decompression_stops_where_it_gives_more_than_was_said() -> None:
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="does not give its 1 bytes"):
        decompress(b"\1\0\0" + b"\xfe\1\0" * 20_000, limit=SPARE)  # 1.3 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


ALONE = """
import sys
from weights.tf_checkpoint import CheckpointError, read_checkpoint

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10

before = peak()
try:
    dict(read_checkpoint(sys.argv[1]))
except CheckpointError:
    pass
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_the_system_sees_no_more_memory_than_is_allowed(tmp_path: Path, bomb: str) -> None:
    if sys.platform != "linux":
        pytest.skip("Only Linux says in /proc what a process took at most. Run it there.")
    lay(tmp_path, BOMBS[bomb][0]())
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    run = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) <= SPARE + 2 * size


# --- files that are not there, or no files ----------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, HPARAMS, random_tensors(HPARAMS), shards=2)
    return tmp_path


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00002", "data-00001-of-00002"])
def test_a_missing_file_is_named(folder: Path, suffix: str) -> None:
    (folder / f"model.ckpt.{suffix}").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"needed: one \.index and its \.data-\*"):
        read_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match=f"{suffix} does not exist"):
        read_checkpoint(folder / "model.ckpt")


def test_a_folder_without_a_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"holds nothing but no \.index"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match=r"holds config\.json but no \.index"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match=r"nowhere\.index does not exist"):
        read_checkpoint(tmp_path / "nowhere")


def test_of_two_checkpoints_one_must_be_named(folder: Path) -> None:
    (folder / "model-2.index").write_bytes((folder / "model.ckpt.index").read_bytes())
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints.* such as .*model\.ckpt\.$"):
        read_checkpoint(folder)
    assert "model/wte" in read_checkpoint(folder / "model.ckpt")


@pytest.mark.parametrize("suffix", ["index", "data-00001-of-00002"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "circle"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    folder: Path, suffix: str, kind: str
) -> None:
    path = folder / f"model.ckpt.{suffix}"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif sys.platform == "win32":
        pytest.skip("Windows makes no pipes and circles like these. Run it on another system.")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    assert attempt(folder) is None


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "", ".", "\udcff"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(f"{tmp_path}/{name}")


@pytest.mark.parametrize("length", [0, 1, 30, 60])
def test_a_data_file_that_was_cut_short(folder: Path, length: int) -> None:
    data = folder / "model.ckpt.data-00001-of-00002"
    data.write_bytes(data.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"00001-of-00002 has {length} bytes, wanted \d+"):
        read_checkpoint(folder)


def test_a_data_file_that_is_cut_short_while_it_is_open(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    (folder / "model.ckpt.data-00001-of-00002").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"00001-of-00002 can't be read"):
        dict(checkpoint)


def test_a_data_file_that_goes_while_it_is_open(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    (folder / "model.ckpt.data-00000-of-00002").unlink()
    with pytest.raises(CheckpointError, match=r"00000-of-00002 can't be read"):
        dict(checkpoint)


# --- fuzz -------------------------------------------------------------------------------------

SOUND = {name: array.tobytes() for name, array in random_tensors(HPARAMS).items()}


def harmless(read: dict[str, np.ndarray] | None) -> bool:
    """Refused, or the very numbers: nothing that is broken may come out as something else."""
    return read is None or {name: array.tobytes() for name, array in read.items()} == SOUND


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_a_changed_bit_in_any_byte_is_noticed_or_does_not_matter(
    tmp_path: Path, suffix: str
) -> None:
    write_folder(tmp_path, HPARAMS, random_tensors(HPARAMS))
    path = tmp_path / f"model.ckpt.{suffix}"
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        read = attempt(tmp_path)
        assert harmless(read), place
        refused += read is None
    # Nobody needs the block of metadata, 13 bytes, nor the filling of the footer, 33 or so.
    assert refused >= len(content) - (50 if suffix == "index" else 0)


def test_every_cut_of_an_index_is_noticed(tmp_path: Path) -> None:
    write_folder(tmp_path, HPARAMS, random_tensors(HPARAMS))
    path = tmp_path / "model.ckpt.index"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert attempt(tmp_path) is None, length
        path.write_bytes(content[-length:] if length else b"")
        assert attempt(tmp_path) is None, -length


# A change: what is done, where (in parts of 2^16), to how many bytes, and with which others.
NUMBERS = [b"\xff" * 11, b"\xff" * 9 + b"\1", b"\xff\xff\xff\xff\x0f", b"\x80" * 10, b"\0", b"\1"]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "cut", "double"]),
        st.integers(0, 2**16 - 1),
        st.integers(1, 60),
        st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=5,
)
Changes = list[tuple[str, int, int, bytes]]


def changed(content: bytes, changes: Changes) -> bytes:
    for kind, place, length, others in changes:
        at = place * (len(content) + 1) >> 16
        piece = content[at : at + length]
        head, tail = content[:at], content[at + length :]
        content = {
            "set": content[:at] + others + content[at + len(others) :],
            "insert": head + others + piece + tail,
            "cut": head + tail,
            "double": head + piece + piece + tail,
        }[kind]
    return content


def fuzz(folder: Path, target: str, changes: Changes) -> None:
    write_folder(folder, HPARAMS, random_tensors(HPARAMS))
    index, data = folder / "model.ckpt.index", folder / "model.ckpt.data-00000-of-00001"
    items = list(read_table(index))
    if target == "index":
        index.write_bytes(changed(index.read_bytes(), changes))
    elif target == "data":
        data.write_bytes(changed(data.read_bytes(), changes))
    # The checksums are right again, so that what lies behind them is reached.
    elif target == "block":
        index.write_bytes(of_block(changed(block(items), changes)))
    elif target == "compressed":
        index.write_bytes(of_block(block(items), lambda content: changed(content, changes)))
    elif target == "handles":
        out = bytearray()
        handles = block([(b"z", put_block(out, block(items)))])
        empty = put_block(out, block([]))
        index.write_bytes(finish_table(out, empty, put_block(out, changed(handles, changes))))
    elif target == "record":
        which = changes[0][1] % len(items)
        key, value = items[which]
        items[which] = key, changed(value, changes)
        index.write_bytes(table(items))
    read = attempt(folder)
    if target in ("index", "data"):
        assert harmless(read)


TARGETS = ["index", "data", "block", "compressed", "handles", "record"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("target", TARGETS)
@given(changes=CHANGES)
@settings(max_examples=60)
def test_fuzz(scratch: Path, target: str, changes: Changes) -> None:
    fuzz(scratch, target, changes)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@given(changes=CHANGES)
@settings(max_examples=1000)
def test_fuzz_for_long(scratch: Path, target: str, changes: Changes) -> None:
    fuzz(scratch, target, changes)


@given(content=st.binary(max_size=400), footer=st.binary(min_size=40, max_size=40))
def test_noise(scratch: Path, content: bytes, footer: bytes) -> None:
    magic = FAULTS["a footer of nothing"][0][-8:]
    (scratch / "model.ckpt.index").write_bytes(content + footer + magic)
    assert attempt(scratch) is None
