"""OpenAI's TensorFlow checkpoints: what TensorFlow wrote, and whole files of every other kind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.make_openai_folder import make
from benchmarks.openai_format import (
    CODES,
    CheckpointWriter,
    entry,
    header,
    random_tensors,
    table,
    tensor_shapes,
    varint,
    write_folder,
)
from weights.snappy import decompress
from weights.tf_checkpoint import Checkpoint, read_checkpoint
from weights.tf_table import read_table

HPARAMS = {"n_vocab": 29, "n_ctx": 7, "n_embd": 6, "n_head": 3, "n_layer": 12}


def same(checkpoint: Checkpoint, wanted: dict[str, np.ndarray]) -> bool:
    """Whether it holds these tensors and no others, to the bit."""
    assert list(checkpoint) == sorted(wanted)
    return all(
        (got := checkpoint[name]).dtype == array.dtype
        and got.shape == array.shape
        and got.tobytes() == array.tobytes()
        for name, array in wanted.items()
    )


# --- what TensorFlow wrote --------------------------------------------------------------------


def their_name(name: str) -> str:
    """`model/h0/attn/c_attn/w` -> `transformer.h.0.attn.c_attn.weight`, as Hugging Face has it."""
    path = name.split("/")[1:]
    if path[0][0] == "h":
        path[:1] = ["h", path[0][1:]]
    leaf = {"w": "weight", "g": "weight", "b": "bias"}.get(path[-1])
    return ".".join(["transformer", *path[: -1 if leaf else None], leaf or "weight"])


@pytest.mark.parametrize("folder", ["openai", "openai-2shard"])
def test_tensorflows_files_are_their_safetensors_twins_to_the_bit(
    golden: Path, folder: str
) -> None:
    checkpoint = read_checkpoint(golden / "tiny-a" / folder)
    twin = load_file(golden / "tiny-a" / "hf-prefixed" / "model.safetensors")
    assert {their_name(name) for name in checkpoint} == set(twin)
    for name, array in checkpoint.items():
        wanted = twin[their_name(name)]
        if name.endswith("/w"):
            wanted = wanted[None]  # (1, in, out)
        assert (array.dtype, checkpoint.dtype(name)) == (np.float32, "float32")
        assert array.shape == checkpoint.shape(name) == wanted.shape
        assert np.array_equal(array, wanted), name


def test_tensorflows_large_vocabulary_gives_openais_embedding(shared: Path) -> None:
    checkpoint = read_checkpoint(shared / "oracle" / "tiny-b" / "openai")
    oracle = np.load(shared / "oracle" / "tiny-b" / "oracle.npz")
    tokens = oracle["full.tokens"]  # (B, T)
    embed = checkpoint["model/wte"][tokens] + checkpoint["model/wpe"][: tokens.shape[1]]
    assert np.array_equal(embed, oracle["full.embed"])  # one sum, rounded once
    assert len(checkpoint) == 28
    assert sum(array.size for array in checkpoint.values()) == 3_320_640


@pytest.mark.parametrize("folder", ["tiny-a/openai", "tiny-a/openai-2shard", "tiny-b/openai"])
def test_our_writer_writes_tensorflows_files_byte_for_byte(
    request: pytest.FixtureRequest, golden: Path, tmp_path: Path, folder: str
) -> None:
    """So what reads its folders, of any size, has been tried on TensorFlow's format."""
    root = golden if "tiny-a" in folder else request.getfixturevalue("shared") / "oracle"
    checkpoint = read_checkpoint(root / folder)
    shard_of = {name: checkpoint._entries[name].shard for name in checkpoint}
    hparams = json.loads((root / folder / "hparams.json").read_text())
    shards = 1 + max(shard_of.values())
    write_folder(tmp_path, hparams, dict(checkpoint), shards=shards, shard_of=shard_of)
    assert len(list(tmp_path.iterdir())) == 3 + shards
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (root / folder / path.name).read_bytes(), path.name
    assert list(tensor_shapes(hparams)) == list(checkpoint)


# --- what is whole, and reads -----------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_more_than_ten_blocks_in_several_files(tmp_path: Path, shards: int) -> None:
    tensors = random_tensors(HPARAMS)
    write_folder(tmp_path, HPARAMS, tensors, shards=shards)
    checkpoint = read_checkpoint(tmp_path)
    assert same(checkpoint, tensors)
    assert checkpoint.names.index("model/h10/ln_1/b") < checkpoint.names.index("model/h2/ln_1/b")


@pytest.mark.parametrize("named", ["", "model.ckpt", "model.ckpt.index"])
def test_a_checkpoint_goes_by_its_folder_its_prefix_or_its_index(
    tmp_path: Path, named: str
) -> None:
    write_folder(tmp_path, HPARAMS, random_tensors(HPARAMS))
    (tmp_path / "._model.ckpt.index").write_bytes(b"left behind by a Mac")
    assert len(read_checkpoint(tmp_path / named)) == len(tensor_shapes(HPARAMS))
    assert len(read_checkpoint(str(tmp_path / named))) == len(tensor_shapes(HPARAMS))


def test_every_type_of_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    kinds = sorted(set(CODES) - {"string", "bfloat16"})
    tensors = {kind: (9 * generator.standard_normal((5, 3))).astype(kind) for kind in kinds}
    tensors |= {"step": np.array(-3, np.int64), "none": np.zeros((2, 0, 3), np.float32)}
    tensors["odd"] = np.arange(3, dtype=np.uint8)  # what comes behind it lies at an odd place
    halves = np.array([1.0, -2.5, 3.140625], np.float32)  # exact in bfloat16: 8 bits of it
    bits = (halves.view(np.uint32) >> 16).astype(np.uint16)
    with CheckpointWriter(tmp_path / "any") as writer:
        for name, array in tensors.items():
            writer.add(name, array.shape, [array], dtype=array.dtype.name)
        writer.add("brain", (3,), [bits], dtype="bfloat16")
    checkpoint = read_checkpoint(tmp_path)
    assert same(checkpoint, tensors | {"brain": bits})
    assert [checkpoint.dtype(kind) for kind in kinds] == kinds
    assert checkpoint.dtype("brain") == "bfloat16"
    again = checkpoint["brain"].astype(np.uint32) << 16
    assert np.array_equal(again.view(np.float32), halves)
    for array in checkpoint.values():
        assert array.flags.aligned


def literal(content: bytes) -> bytes:
    """Snappy that saves nothing: literals of up to 65,536 bytes."""
    parts = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    return varint(len(content)) + b"".join(
        bytes([61 << 2]) + (len(part) - 1).to_bytes(2, "little") + part for part in parts
    )


@pytest.mark.parametrize("compress", [None, literal])
@pytest.mark.parametrize("restart", [1, 2, 16])
@pytest.mark.parametrize("block_size", [1, 300, 256 * 1024])
def test_tables_of_every_form(tmp_path: Path, block_size: int, restart: int, compress) -> None:
    items = sorted((f"model/h{i}/attn".encode(), bytes([i]) * (i % 7)) for i in range(1, 200))
    path = tmp_path / "table"
    path.write_bytes(table(items, block_size=block_size, restart=restart, compress=compress))
    assert list(read_table(path)) == items


def test_an_index_in_many_compressed_blocks(tmp_path: Path) -> None:
    tensors = random_tensors(HPARAMS)
    write_folder(tmp_path, HPARAMS, tensors)
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(table(list(read_table(index)), block_size=500, compress=literal))
    assert same(read_checkpoint(tmp_path), tensors)


def test_what_googles_snappy_compressed() -> None:
    """Made with the Rust library of snappy; it holds each kind of literal and two of copies."""
    text = b"model/h0/attn/c_attn/w " * 3 + bytes(range(70)) + b"ab" * 40
    packed = (
        "db013c6d6f64656c2f68302f6174746e2f635f0507047720b61700f04c000102030405060708090a0b0c0d0e"
        "0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637383"
        "93a3b3c3d3e3f40414243444561626162616261fe06001506"
    )
    assert decompress(bytes.fromhex(packed), limit=1000) == text
    # The kind of copy that compressors of blocks under 64 kB don't write: four bytes of distance.
    assert decompress(b"\x09\x08abc\x17\x03\x00\x00\x00", limit=1000) == b"abcabcabc"


# --- how it is read ---------------------------------------------------------------------------


def test_arrays_are_the_file_and_not_a_copy(tmp_path: Path) -> None:
    tensors = random_tensors(HPARAMS)
    write_folder(tmp_path, HPARAMS, tensors)
    checkpoint = read_checkpoint(tmp_path)
    array = checkpoint["model/wte"]
    assert np.shares_memory(array, checkpoint["model/wte"]) and not array.flags.owndata
    array[0] = 7.0  # this process's memory; the file stays
    assert same(read_checkpoint(tmp_path), tensors)
    assert (checkpoint["model/wte"][0] == 7.0).all()


def test_released_pages_come_from_the_file_again(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no way to release a part of a map. Run it on another system.")
    hparams = HPARAMS | {"n_vocab": 5000}
    tensors = random_tensors(hparams)
    write_folder(tmp_path, hparams, tensors)
    checkpoint = read_checkpoint(tmp_path)
    neighbours = [checkpoint[name] for name in ("model/wpe", "model/wte")]
    for array in neighbours:
        array[:] = 7.0
    checkpoint.release("model/wte")
    assert (neighbours[0] == 7.0).all()
    back = neighbours[1] == tensors["model/wte"]
    # All but the two pages that it shares with what lies before and behind.
    assert back.mean() > 1 - 2 * 4096 / neighbours[1].nbytes > 0.9


def test_a_tensor_is_checked_once_when_asked_for_and_others_are_not(tmp_path: Path) -> None:
    tensors = random_tensors(HPARAMS)
    write_folder(tmp_path, HPARAMS, tensors)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1  # of wte, the last
    data.write_bytes(content)
    checkpoint = read_checkpoint(tmp_path)
    assert np.array_equal(checkpoint["model/wpe"], tensors["model/wpe"])
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged: the checksum of 'model/wte'"):
            checkpoint["model/wte"]
    assert read_checkpoint(tmp_path, verify=False)["model/wte"].shape == (29, 6)


def test_a_checkpoint_is_a_mapping_and_asks_the_index_alone(tmp_path: Path) -> None:
    index = table(
        [(b"", header(1)), (b"a", entry("string", (2,), shard=0, offset=0, size=4, checksum=0))]
    )
    (tmp_path / "x.index").write_bytes(index)
    (tmp_path / "x.data-00000-of-00001").write_bytes(b"\1\1ab")
    checkpoint = read_checkpoint(tmp_path)
    assert "a" in checkpoint and "b" not in checkpoint
    assert (checkpoint.dtype("a"), checkpoint.shape("a"), len(checkpoint)) == ("string", (2,), 1)
    assert checkpoint.get("b") is None


def test_the_benchmarks_folder_is_a_gpt2_of_the_sizes_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.make_openai_folder.PIECE", 1000)  # several a tensor
    hparams = HPARAMS | {"n_vocab": 1500}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        make(tmp_path / name, hparams, shards=2, seed=seed)
    one, twin, other = (dict(read_checkpoint(tmp_path / name)) for name in ("one", "same", "other"))
    assert {name: array.shape for name, array in one.items()} == tensor_shapes(hparams)
    assert json.loads((tmp_path / "one" / "hparams.json").read_text()) == hparams
    for name, array in one.items():
        assert np.array_equal(array, twin[name]) and not np.array_equal(array, other[name])
    assert abs(one["model/wte"].std() - 0.02) < 0.001  # 9,000 numbers: 5 standard errors
    assert abs(one["model/h11/ln_2/g"].mean() - 1) < 0.3
