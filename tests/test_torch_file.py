"""PyTorch's own files: tensors come out, nothing in them runs, any other file is explained."""

import io
import os
import pickle
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchscript import save_script

from weights.torch_file import read_torch


class Runs:
    """Writes a file when a pickle of it is loaded in good faith."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


TENSORS = {
    "half": torch.randn(3, 5).bfloat16(),
    "turned": torch.randn(3, 5).T,
    "whole": torch.arange(7),
    "learned": nn.Parameter(torch.randn(2)),
    "nothing": torch.empty(0, 3),
}


@pytest.mark.parametrize("save", [torch.save, legacy])
def test_what_was_saved_is_read(tmp_path: Path, save) -> None:
    save(TENSORS, tmp_path / "a.bin")
    read = read_torch(str(tmp_path / "a.bin"))
    assert list(read) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype, name
        assert not read[name].requires_grad


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc. Run on Linux: make test")
@pytest.mark.parametrize("kind", ["bin", "script"])
def test_tensors_are_a_private_map_of_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "bin":
        torch.save({"weight": torch.zeros(3, 5)}, path)
    else:
        save_script(nn.Linear(5, 3), path)
    before = path.read_bytes()
    weight = read_torch(path)["weight"]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= weight.data_ptr() < end:
            assert line.endswith(str(path)) and line.split()[1] == "rw-p"
            break
    else:
        pytest.fail("the tensor lies in no map")
    weight.fill_(7)
    assert path.read_bytes() == before and not (read_torch(path)["weight"] == 7).any()


# --- nothing runs -----------------------------------------------------------------------------


@pytest.mark.parametrize("save", [torch.save, legacy, lambda v, p: p.write_bytes(pickle.dumps(v))])
def test_code_is_refused_and_not_run(tmp_path: Path, save) -> None:
    ran, path = tmp_path / "ran", tmp_path / "a.bin"
    save({"weight": torch.ones(2), "more": Runs(ran)}, path)
    with pytest.raises(ValueError) as caught:
        read_torch(path)
    assert not ran.exists()
    says = str(caught.value)
    assert str(path) in says and "safetensors" in says and "weights_only" not in says
    # The same file does run where nobody forbids it: the test tests something.
    with pytest.raises((FileExistsError, pickle.UnpicklingError, RuntimeError, TypeError)):
        pickle.loads(pickle.dumps(Runs(ran)))
        pickle.loads(pickle.dumps(Runs(ran)))
    assert ran.exists()


def test_a_whole_module_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3), tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"wants to run torch.nn.modules.linear.Linear"):
        read_torch(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.ones(2), r"holds Tensor; wanted tensors by name"),
        ({"state_dict": {}, "epoch": 3}, r"holds 'state_dict', a dict, 'epoch', a int; wanted"),
        ({3: torch.ones(1)}, r"holds 3, a Tensor; wanted tensors by name"),
        ({"a": torch.empty(2, device="meta")}, r"holds 'a', a Tensor without numbers; wanted"),
        ({"a": torch.eye(2).to_sparse()}, r"holds 'a', a Tensor that is nested, quantized or spa"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, value: object, says: str) -> None:
    torch.save(value, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=says):
        read_torch(tmp_path / "a.bin")


# --- files that are something else ------------------------------------------------------------


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no tensors")


def compressed(path: Path) -> None:
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path) as archive:
        held = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in held.items():
            archive.writestr(name, content)


OTHERS: dict[str, bytes | Callable[[Path], None]] = {
    r"is an HTML page titled 'Not found'": b"<!DOCTYPE html><title>Not found</title>",
    r"is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    r"is empty": b"",
    r"a.bin": b"\x00\x01\x02 nothing that anybody knows",
    r"of the tar format": tar,
    r"damaged": zipped,
    r"a zip program has compressed": compressed,
}


@pytest.mark.parametrize("says", OTHERS)
def test_what_is_no_torch_file_is_explained(tmp_path: Path, says: str) -> None:
    path, content = tmp_path / "a.bin", OTHERS[says]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(ValueError, match=says) as caught:
        read_torch(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a.bin does not exist"):
        read_torch(tmp_path / "a.bin")


@pytest.mark.parametrize("kind", ["zip", "legacy", "script"])
def test_a_cut_or_altered_file_is_a_value_error_or_still_tensors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pt"
    if kind == "script":
        save_script(nn.Linear(5, 3), path)
    else:
        (torch.save if kind == "zip" else legacy)({"weight": torch.randn(3, 5)}, path)
    whole, dice = path.read_bytes(), random.Random(0)
    refused = 0
    for i in range(200):
        if i % 2:
            content = bytearray(whole)
            for _ in range(dice.choice((1, 1, 3, 30))):
                content[dice.randrange(len(whole))] = dice.randrange(256)
        else:
            content = bytearray(whole[: dice.randrange(len(whole))])
        path.write_bytes(content)
        try:
            read = read_torch(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read.values())
    assert refused > 100  # each one that was cut, at the least
