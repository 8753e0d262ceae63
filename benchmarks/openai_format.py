"""Writes TensorFlow checkpoints as OpenAI published them, byte for byte and without TensorFlow.

For folders of any size to read in tests and benchmarks; nothing that is installed uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from weights.crc32c import crc32c, mask

Items = Iterable[tuple[bytes, bytes]]

BLOCK = 256 * 1024  # TensorFlow's size of a block, after which the next begins
RESTART = 16  # entries, after which a key is written in full
MAGIC = 0xDB4775248B80FB57
CODES = {
    **{"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "string": 7},
    **{"int64": 9, "bool": 10, "bfloat16": 14, "uint16": 17, "float16": 19, "uint32": 22},
    "uint64": 23,
}


def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first; below 0 as protocol buffers have it, in 64 bits."""
    number %= 1 << 64
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer; what is 0 is left out."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def header(shards: int) -> bytes:
    """The record of the empty key: how many data files there are, and the format's version."""
    return field(1, shards) + field(3, field(1, 1))


def entry(
    dtype: str | int, shape: Iterable[int], *, shard: int, offset: int, size: int, checksum: int
) -> bytes:
    """The record of one tensor; `checksum` is masked already."""
    axes = b"".join(field(2, field(1, axis)) for axis in shape)
    code = CODES[dtype] if isinstance(dtype, str) else dtype
    record = field(1, code) + field(2, axes) + field(3, shard) + field(4, offset) + field(5, size)
    return record + varint(6 << 3 | 5) + checksum.to_bytes(4, "little")


def block(items: Items, restart: int = RESTART) -> bytes:
    """Entries, each with what its key does not share with the one before, and the restarts."""
    out, starts, last = bytearray(), [0], b""
    for count, (key, value) in enumerate(items):
        shared = 0
        if count % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        elif count:
            starts.append(len(out))
        fresh = key[shared:]
        out += varint(shared) + varint(len(fresh)) + varint(len(value)) + fresh + value
        last = key
    return bytes(out) + b"".join(n.to_bytes(4, "little") for n in [*starts, len(starts)])


def table(
    items: Items,
    *,
    block_size: int = BLOCK,
    restart: int = RESTART,
    compress: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """A table with these keys, which must be sorted; `compress` is Snappy."""
    out = bytearray()
    handles: list[tuple[bytes, bytes]] = []
    held: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in items:
        if size >= block_size:
            handles.append((held[-1][0], put_block(out, block(held, restart), compress)))
            held, size = [], 0
        held.append((key, value))
        size += len(key) + len(value)
    handles.append((_successor(held[-1][0]), put_block(out, block(held, restart), compress)))
    return finish_table(out, put_block(out, block([])), put_block(out, block(handles, 1), compress))


def put_block(
    out: bytearray, content: bytes, compress: Callable[[bytes], bytes] | None = None
) -> bytes:
    """Append a block with what says how it is compressed and its checksum; returns its handle."""
    content, kind = (compress(content), b"\1") if compress else (content, b"\0")
    handle = varint(len(out)) + varint(len(content))
    out += content + kind + mask(crc32c(content + kind)).to_bytes(4, "little")
    return handle


def finish_table(out: bytearray, metadata: bytes, handles: bytes) -> bytes:
    """The blocks with the footer: where the block of metadata and that of the handles are."""
    return bytes(out) + (metadata + handles).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def _successor(key: bytes) -> bytes:
    """A short key that is not before `key`, as LevelDB shortens the last one."""
    place = next((i for i, byte in enumerate(key) if byte < 0xFF), len(key))
    return key[:place] + bytes(byte + 1 for byte in key[place : place + 1])


class CheckpointWriter:
    """Writes tensors one behind the other, and at the end of its `with` block the index."""

    def __init__(self, prefix: Path, *, shards: int = 1) -> None:
        self.prefix, self.entries = prefix, {b"": header(shards)}
        names = (f"{prefix.name}.data-{i:05}-of-{shards:05}" for i in range(shards))
        self.files = [prefix.with_name(name).open("wb") for name in names]

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for file in self.files:
            file.close()
        if failure is None:
            index = self.prefix.with_name(f"{self.prefix.name}.index")
            index.write_bytes(table(sorted(self.entries.items())))

    def add(
        self,
        name: str,
        shape: Iterable[int],
        pieces: Iterable[np.ndarray],
        *,
        dtype: str = "float32",
        shard: int = 0,
    ) -> None:
        """Write a tensor that comes in pieces, so that it need not fit into memory."""
        file, crc = self.files[shard], 0
        offset = file.tell()
        for piece in pieces:
            content = piece.tobytes()
            crc = crc32c(content, crc)
            file.write(content)
        self.entries[name.encode()] = entry(
            dtype,
            shape,
            shard=shard,
            offset=offset,
            size=file.tell() - offset,
            checksum=mask(crc),
        )


def write_folder(
    folder: Path,
    hparams: Mapping[str, int],
    tensors: Mapping[str, np.ndarray],
    *,
    shards: int = 1,
    shard_of: Mapping[str, int] | None = None,
) -> None:
    """Write a folder as OpenAI's downloads are, the vocabulary and the graph apart."""
    write_settings(folder, hparams)
    with CheckpointWriter(folder / "model.ckpt", shards=shards) as writer:
        for place, (name, array) in enumerate(sorted(tensors.items())):
            shard = shard_of[name] if shard_of else place * shards // len(tensors)
            writer.add(name, array.shape, [array], dtype=array.dtype.name, shard=shard)


def write_settings(folder: Path, hparams: Mapping[str, int]) -> None:
    """Make the folder, with the two small files that lie beside the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(dict(hparams), indent=2), "utf-8")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n', "utf-8"
    )


def tensor_shapes(hparams: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The tensors of a GPT-2 by OpenAI's names, in the order of the file."""
    C = hparams["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "model/wte": (hparams["n_vocab"], C),
        "model/wpe": (hparams["n_ctx"], C),
        "model/ln_f/g": (C,),
        "model/ln_f/b": (C,),
    }
    linear = {"attn/c_attn": (C, 3 * C), "attn/c_proj": (C, C)}
    linear |= {"mlp/c_fc": (C, 4 * C), "mlp/c_proj": (4 * C, C)}
    for layer in range(hparams["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"model/h{layer}/{norm}/{leaf}": (C,) for leaf in "gb"}
        for name, (wide, out) in linear.items():
            shapes[f"model/h{layer}/{name}/w"] = (1, wide, out)
            shapes[f"model/h{layer}/{name}/b"] = (out,)
    return dict(sorted(shapes.items()))


def random_tensors(hparams: Mapping[str, int], *, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of a small GPT-2, in which every number counts."""
    generator = np.random.default_rng(seed)
    shapes = tensor_shapes(hparams)
    return {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
