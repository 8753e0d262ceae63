"""read_tensor: from a place in a data file to a tensor."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property


def read_tensor(shards: Sequence[bytes], shard: int, offset: int, shape: Sequence[int]) -> Tensor:
    """The float32 tensor that lies `offset` bytes into data file number `shard`.

    Little-endian, the last axis fastest. OpenAI's linear maps were convolutions of width one,
    (1, in, out): of a shape with three axes that first one is dropped. The tensor owns its memory.
    """
    data = np.frombuffer(shards[shard], "<f4", math.prod(shape), offset).reshape(shape)
    tensor = torch.from_numpy(data.copy())
    return tensor[0] if tensor.ndim == 3 else tensor


# --- the oracle -------------------------------------------------------------------------------


def reference(shards, shard, offset, shape, *, knobs, steps):
    count = math.prod(shape)
    at = 4 * offset if "offset_in_numbers" in knobs else offset
    at = 0 if "no_offset" in knobs else at
    data = shards[0 if "first_shard" in knobs else shard]
    raw = data[at : at + 4 * count]
    kind = "i" if "as_integers" in knobs else "f"
    values = struct.unpack(f"{'>' if 'big_endian' in knobs else '<'}{count}{kind}", raw)
    steps["its numbers in a row"] = row = torch.tensor(values, dtype=torch.float32)
    if "column_major" in knobs:
        tensor = row.reshape(*reversed(shape)).permute(*reversed(range(len(shape))))
    else:
        tensor = row.reshape(*shape)
    steps["the tensor in the shape of the file"] = tensor
    if "squeeze_all" in knobs:
        return tensor.squeeze()
    if len(shape) == 3 and "not_squeezed" not in knobs:
        tensor = tensor[0]
    if len(shape) == 3 and "transposed" in knobs:
        tensor = tensor.mT
    return tensor


# --- the probes -------------------------------------------------------------------------------

START = struct.pack("<40f", *(math.sin(3.0 * i) * 10 for i in range(40)))
OTHER = struct.pack("<64f", *(math.cos(5.0 * i) - 0.3 for i in range(64)))


# --- right in other ways ----------------------------------------------------------------------


def by_struct(shards, shard, offset, shape):
    flat = struct.unpack_from(f"<{math.prod(shape)}f", shards[shard], offset)
    return torch.tensor(flat).view(*(shape[1:] if len(shape) == 3 else shape))


def by_torch(shards, shard, offset, shape):
    writable = bytearray(shards[shard][offset:])
    tensor = torch.frombuffer(writable, dtype=torch.float32, count=math.prod(shape))
    return tensor.reshape(tuple(shape)[-2:]).clone()


def by_loops(shards, shard, offset, shape):
    numbers = []
    for i in range(math.prod(shape)):
        four = shards[shard][offset + 4 * i : offset + 4 * i + 4]
        numbers.append(np.frombuffer(four, np.dtype("float32").newbyteorder("<"))[0].item())
    found = torch.tensor(numbers, dtype=torch.float32).reshape(tuple(shape))
    return found.squeeze(0) if len(shape) == 3 else found


# --- what holds for every right answer ---------------------------------------------------------


def numbers_are_float32(answer):
    dtype = answer((START, OTHER), 0, 12, (2, 7)).dtype
    if dtype == torch.float32:
        return None
    return f"the tensor is {dtype}, and the file's numbers are float32".replace("torch.", "")


def memory_is_its_own(answer):
    data = bytearray(START)
    tensor = answer((data, OTHER), 0, 12, (2, 7))
    before = tensor.clone()
    data[:] = bytes(len(data))
    if torch.equal(tensor, before):
        return None
    return "the tensor changed when the bytes of the file did: it only looks at them"


EXERCISE = Exercise(
    name="read_tensor",
    target="chapters.ch07_openai_weights.exercises.read_tensor:read_tensor",
    minutes=15,
    axes="in out",
    reference=reference,
    probes=(
        Probe("a table", lambda: ((START, OTHER), 0, 0, (3, 5)), gradient=False),
        Probe("a table further on", lambda: ((START, OTHER), 0, 12, (2, 7)), gradient=False),
        Probe("of the second file", lambda: ((START, OTHER), 1, 8, (5, 2)), gradient=False),
        Probe("a linear map", lambda: ((START, OTHER), 1, 4, (1, 3, 5)), gradient=False),
        Probe("a map of one row", lambda: ((START, OTHER), 0, 16, (1, 1, 6)), gradient=False),
    ),
    knobs={
        "big_endian": Diagnosis(
            says="the bytes of each number were taken in the other order, the highest first",
            think="which byte of a number comes first in these files?",
            hint="numpy's dtypes say it with < or >.",
            text="ch07#tensor",
        ),
        "as_integers": Diagnosis(
            says="the bits were read as whole numbers",
            think="what do the four bytes of a float32 hold besides digits?",
            hint="Name the type when you read, and convert nothing.",
            text="ch07#tensor",
        ),
        "no_offset": Diagnosis(
            says="reading began at the file's first byte",
            think="what tells you where in the file this tensor lies?",
            hint="One of the four arguments isn't used.",
            text="ch07#tensor",
        ),
        "offset_in_numbers": Diagnosis(
            says="the offset was taken for a count of numbers and not of bytes",
            think="in which unit is `offset`?",
            hint="A slice of bytes and a slice of an array of floats count differently.",
            text="ch07#tensor",
        ),
        "first_shard": Diagnosis(
            says="the first data file was read whatever `shard` said",
            think="which of the files is this tensor in?",
            hint="One of the four arguments isn't used.",
            text="ch07#tensor",
        ),
        "column_major": Diagnosis(
            says="the first axis runs fastest, as in Fortran, and the last should",
            think="of a table (3, 5), do five numbers in a row of the file make a row or a column?",
            hint="numpy's and torch's reshape do it the file's way.",
            text="ch07#tensor",
        ),
        "not_squeezed": Diagnosis(
            says="a linear map came as (1, in, out), a convolution's shape",
            think="how many axes has the w of your Conv1D?",
            hint="OpenAI wrote a linear map as a convolution of width one.",
            text="ch07#tensor",
        ),
        "squeeze_all": Diagnosis(
            says="every axis of length one was dropped, a real one too",
            think="what of a linear map with a single input?",
            hint="Say which axis should go.",
            text="ch07#tensor",
        ),
        "transposed": Diagnosis(
            says="linear maps were transposed to (out, in)",
            think="is your layer x w + b, or F.linear(x, w, b)?",
            hint="OpenAI's files hold (in, out), and so does Conv1D.",
            text="ch07#tensor",
        ),
    },
    exclusive=(
        ("no_offset", "offset_in_numbers"),
        ("not_squeezed", "squeeze_all"),
        ("squeeze_all", "transposed"),
    ),
    hints=(
        "How many bytes has one number, how many numbers has the tensor, and where is the first?",
        "The file of that number, from `offset` on, prod(shape) numbers of four bytes each. In"
        " this order they fill the shape row by row. Three axes are a linear map, whose first axis"
        " is 1 and goes.",
        "choose the file\nread little-endian floats, as many as the shape holds, from the offset\n"
        "bring them into the shape\nmake memory of your own\n"
        "if there are three axes, take the only entry of the first",
    ),
    alternatives=(by_struct, by_torch, by_loops),
    properties=(
        Property("its numbers are float32", numbers_are_float32),
        Property("its memory is its own", memory_is_its_own),
    ),
)
