"""PyTorch's own files, `.bin` and `.pt`, read without running anything that is in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from weights.contents import HEAD, impostor
from weights.torchscript import DamagedError, read_torchscript

if TYPE_CHECKING:
    import torch

AGAIN = "Get the file again."
ELSEWHERE = (
    "Take the model's safetensors instead; or, if you trust the file, write its tensors alone"
    " with safetensors.torch.save_file."
)


def is_archive(path: str | Path) -> bool:
    """Whether it is of the kind that torch writes since 1.6, a zip archive that can be mapped."""
    with Path(path).open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_torch(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.bin` or `.pt` by name, memory-mapped; files of before 1.6 are read whole.

    By torch.load(weights_only=True), or by `torchscript` if it is such an archive: no code in the
    file is run. For every other file, ValueError says what it is and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Check the path of the file.")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ValueError(f"{path} is empty. {AGAIN}")
    if found := impostor(head):
        raise ValueError(f"{path} is {found}. {AGAIN}")
    try:
        held = _read(path)
    except MemoryError:
        raise
    except Exception as error:  # a broken or hostile file can raise anything in its reader
        raise ValueError(f"{path} can't be read: {_reason(error)}") from None
    return _tensors(held, path)


def _read(path: Path) -> Any:
    import torch

    mapped = is_archive(path)
    if mapped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # The code of a TorchScript archive is compressed, tensors never are.
        if any(e.compress_type for e in entries if re.match(r"[^/]+/data[./]", e.filename)):
            raise DamagedError("a zip program has compressed its tensors")
        if any(re.fullmatch(r"[^/]+/constants\.pkl", entry.filename) for entry in entries):
            return read_torchscript(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes to whoever wrote the file
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _reason(error: Exception) -> str:
    """What went wrong, without torch's advice, which is to run the code in the file."""
    text = str(error)
    if isinstance(error, zipfile.BadZipFile | EOFError) or "PytorchStreamReader" in text:
        return f"it is not whole. {AGAIN}"
    if ".tar format" in text:
        return f"it is of the tar format of before 2017, which holds code. {ELSEWHERE}"
    if called := re.search(r"GLOBAL (\S+)", text):
        return f"it wants to run {called[1]}; tensors need no such thing. {ELSEWHERE}"
    if isinstance(error, UnpicklingError):
        return f"it holds something else than tensors. {ELSEWHERE}"
    if isinstance(error, DamagedError):
        return f"{text}. {AGAIN}"
    return f"it is damaged ({type(error).__name__}: {text[:200]}). {AGAIN}"


def _lacks_numbers(value: Any) -> str | None:
    """What keeps a value from being plain numbers in memory, in words where it is a tensor."""
    import torch

    if not isinstance(value, torch.Tensor):
        return ""
    if value.is_nested or value.is_quantized or value.layout != torch.strided:
        return " that is nested, quantized or sparse"
    return " without numbers" if value.is_meta else None


def _tensors(held: Any, path: Path) -> dict[str, torch.Tensor]:
    wrong = type(held).__name__
    if isinstance(held, dict):
        wrong = ", ".join(
            f"{name!r}, a {type(value).__name__}{_lacks_numbers(value) or ''}"
            for name, value in list(held.items())
            if not isinstance(name, str) or _lacks_numbers(value) is not None
        )
        if not wrong:
            return {name: tensor.detach() for name, tensor in held.items()}
    raise ValueError(
        f"{path} holds {wrong[:300]}; wanted tensors by name."
        " Save the model's state_dict() alone, best with safetensors.torch.save_file."
    )
