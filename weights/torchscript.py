"""The tensors of a TorchScript archive (torch.jit.save), such as OpenAI's CLIP: read, not run.

The archive is a zip: `data/0`, `data/1`, ... are raw numbers, and `data.pkl` says in pickle's
language which module has which of them. torch's own reader would compile the code that lies beside.
Here that little program is walked by hand, as far as it describes modules and tensors. Nothing that
it names is imported or called, every other value becomes None, and an unknown step is refused.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

REBUILD = "torch._utils _rebuild_tensor_v2"  # what pickle would call to make a tensor
DTYPES = {
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch IntStorage": "int32",
    "torch LongStorage": "int64",
    "torch BoolStorage": "bool",
}
LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
PROGRAM_BYTES = 2**24  # CLIP's program has some 2**17
NAME_LENGTH = 500


class DamagedError(ValueError):
    """What is wrong with an archive, said of it: "its data.pkl ..."."""


class Global(NamedTuple):
    """A name, "module attribute", that pickle would import."""

    name: str


class Module(dict[str, Any]):
    """Attributes by name."""


class Tensor(NamedTuple):
    """Where a tensor lies: in which entry of the archive, and where in it, counted in numbers."""

    dtype: str
    entry: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Every parameter and buffer under its name in the module's `state_dict`, memory-mapped."""
    import numpy as np
    import torch

    with zipfile.ZipFile(path) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        program = entries.get("data.pkl")
        if program is None or program.file_size > PROGRAM_BYTES:
            raise DamagedError("it is a TorchScript archive without a fitting data.pkl")
        root = walk(archive.read(program))
    whole = torch.from_numpy(np.memmap(path, np.uint8, mode="c"))  # "c": copied where written
    return {name: _view(whole, entries, tensor, name) for name, tensor in flat(root)}


def flat(root: Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of all modules, each under its dotted name."""
    waiting: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Module):
            if id(value) in seen or len(name) > NAME_LENGTH:
                raise DamagedError(f"its module {name[:80]} is in itself, or there twice")
            seen.add(id(value))
            prefix = f"{name}." if name else ""
            waiting += [(prefix + attribute, part) for attribute, part in value.items()]


def walk(program: bytes) -> Module:
    """The module that this pickle describes; ValueError where it describes anything else."""
    stack: list[Any] = []
    marks: list[int] = []  # how high the stack was at each MARK
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    argument: Any
    for step, argument, _ in pickletools.genops(program):
        name = step.name
        if name in LITERALS:
            stack.append(LITERALS[name])
        elif name in ARGUMENTS:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(Global(argument))
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[-size:] = [tuple(stack[-size:])]
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPEND":
            _extend(stack, [stack.pop()])
        elif name == "APPENDS":
            _extend(stack, since_mark())
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "SETITEM":
            _update(stack, [stack.pop(-2), stack.pop()])
        elif name == "SETITEMS":
            _update(stack, since_mark())
        elif name == "BINPERSID":
            _, kind, entry, _, _ = stack.pop()  # "storage", type, entry, device, length
            stack.append((kind, entry))
        elif name == "NEWOBJ":
            stack[-2:] = [Module()]
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            made = isinstance(called, Global) and called.name == REBUILD
            stack.append(_tensor(*arguments) if made else None)
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Module) and isinstance(state, dict):
                stack[-1].update(state)
        elif name == "STOP":
            break
        elif name != "PROTO":
            raise DamagedError(f"its data.pkl has the step {name}, which describes no module")
    if len(stack) != 1 or not isinstance(stack[0], Module):
        raise DamagedError("its data.pkl describes no module")
    return stack[0]


def _extend(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise DamagedError("its data.pkl appends to no list")
    stack[-1] += values


def _update(stack: list[Any], values: list[Any]) -> None:
    keys = values[::2]
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str) for key in keys):
        raise DamagedError("its data.pkl has attributes without a name")
    stack[-1].update(zip(keys, values[1::2], strict=True))


def _tensor(place: tuple[Any, Any], offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor | None:
    """What _rebuild_tensor_v2 gets; None for a kind of number that no tensor here has."""
    kind, entry = place
    numbers = (offset, *shape, *stride)
    whole = isinstance(entry, str) and all(type(n) is int and n >= 0 for n in numbers)
    if not whole or not isinstance(kind, Global):
        raise DamagedError("its data.pkl describes a tensor that can't be")
    dtype = DTYPES.get(kind.name)
    return Tensor(dtype, entry, offset, tuple(shape), tuple(stride)) if dtype else None


def _view(
    whole: torch.Tensor, entries: Mapping[str, zipfile.ZipInfo], tensor: Tensor, name: str
) -> torch.Tensor:
    """The numbers of one tensor in the map of the whole file."""
    import torch

    dtype, shape, stride = getattr(torch, tensor.dtype), tensor.shape, tensor.stride
    entry = entries.get(f"data/{tensor.entry}")
    held = entry.file_size // dtype.itemsize if entry else 0
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if entry is None or 0 in shape or last >= held or math.prod(shape) > held:
        raise DamagedError(f"{name} is not in it as its data.pkl says")
    # A header of 30 bytes, whose last four are the lengths of a name and a padding behind it.
    lengths = bytes(whole[entry.header_offset + 26 : entry.header_offset + 30].tolist())
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths))
    numbers = whole[start : start + held * dtype.itemsize]
    if start % dtype.itemsize:  # torch aligns them, zip programs don't
        numbers = numbers.clone()
    return numbers.view(dtype)[tensor.offset :].as_strided(shape, stride)
