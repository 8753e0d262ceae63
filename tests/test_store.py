"""A model's folder: whole or not there, all of it or none."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from weights import store
from weights.store import assign, read_config, read_json, read_tensors, write_folder, write_json

OLD: dict[str, Any] = {
    "config": {"size": 1},
    "tensors": {"a": torch.ones(3), "b": torch.ones(2, 5)},
}
NEW: dict[str, Any] = {
    "config": {"size": 2},
    "tensors": {"a": torch.zeros(3), "b": torch.zeros(2, 5)},
}


def write(folder: Path, what: Mapping) -> None:
    write_folder(folder, what["config"], what["tensors"])


def held(folder: Path) -> tuple[dict, dict[str, float]]:
    """The config, and each tensor's first number."""
    tensors = read_tensors(folder)
    return read_config(folder), {name: t.flatten()[0].item() for name, t in tensors.items()}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).bfloat16(),
        "turned": torch.randn(3, 5).T,  # not contiguous
        "whole": torch.arange(7),
        "learned": nn.Parameter(torch.randn(2)),
    }
    config = {"name": "日本語", "sizes": [1, 2], "none": None}
    write_folder(tmp_path / "new" / "folder", config, tensors)
    assert read_config(tmp_path / "new" / "folder") == config
    read = read_tensors(str(tmp_path / "new" / "folder"))
    assert read.keys() == tensors.keys()
    for name in tensors:
        assert read[name].dtype == tensors[name].dtype
        assert torch.equal(read[name], tensors[name])
    assert read_tensors(tmp_path / "new" / "folder" / "model.safetensors").keys() == read.keys()


def test_what_was_read_is_written_in_its_own_place(tmp_path: Path) -> None:
    """The tensors are a map of the very file that is being replaced."""
    write(tmp_path, OLD)
    read = read_tensors(tmp_path)
    write_folder(tmp_path, {"size": 3}, read)
    assert held(tmp_path) == ({"size": 3}, {"a": 1.0, "b": 1.0})
    write(tmp_path, NEW)
    assert read["a"].sum() == 3  # the old file lives on for whoever has it open


def test_files_can_be_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o022)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", die)  # other threads write files, too, and have it in common
            write(tmp_path, OLD)
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o644, file


def die(*args, **kwargs) -> None:
    raise KeyboardInterrupt


def half_a_file(tensors: Mapping, path: Path) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (safetensors.torch, "save_file", half_a_file),  # killed while the tensors are written
        (store.json, "dumps", die),  # ... while the config is
        (store.os, "fsync", die),  # ... when both lie there under their temporary names
    ],
)
def test_a_kill_in_the_middle_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, instead: object
) -> None:
    write(tmp_path, OLD)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, instead)
        write(tmp_path, NEW)
    assert held(tmp_path) == ({"size": 1}, {"a": 1.0, "b": 1.0})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    write(tmp_path, NEW)
    assert held(tmp_path) == ({"size": 2}, {"a": 0.0, "b": 0.0})


def test_a_config_that_is_no_json_leaves_the_old_files(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(tmp_path, NEW | {"config": {"size": torch.ones(1)}})
    assert held(tmp_path) == ({"size": 1}, {"a": 1.0, "b": 1.0})


def test_json_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", {"old": "é"})
    monkeypatch.setattr(store.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {"new": 1})
    assert read_json(tmp_path / "a.json") == {"old": "é"}
    assert len(list(tmp_path.iterdir())) == 1


# Reading what is broken.


def test_what_a_kill_leaves_half_written_is_known_by_its_name(tmp_path: Path) -> None:
    with store.replacing(tmp_path / "log.csv") as half:
        store.clear_halves(tmp_path / "not there")
        assert half.is_file()
        for other in (".lock", ".hidden.csv", "log.csv", "model.0123abcd"):
            (tmp_path / other).touch()
        kept = {*tmp_path.iterdir()} - {half}
        store.clear_halves(tmp_path)
        assert {*tmp_path.iterdir()} == kept
        half.touch()


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_cut_off_file_is_a_value_error_that_names_it(tmp_path: Path, keep: int) -> None:
    write(tmp_path, OLD)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is not a whole safetensors file"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_a_config_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        read_config(tmp_path)


def test_a_config_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"config.json holds a list, not an object"):
        read_config(tmp_path)


def test_a_folder_without_its_files_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder; needed: config.json"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds nothing; needed: config.json"):
        read_config(tmp_path)
    (tmp_path / "model.ckpt.index").touch()
    with pytest.raises(FileNotFoundError, match=r"holds model.ckpt.index; needed: config.json"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model.safetensors does not exist"):
        read_tensors(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a.json does not exist"):
        read_json(tmp_path / "a.json")


# Assigning.


def small(device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return nn.ModuleDict({"one": nn.Linear(3, 5), "two": nn.BatchNorm1d(5)})


def fitting() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(t, 2) for name, t in small().state_dict().items()}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_become_the_parameters_without_a_copy(device: str) -> None:
    module, tensors = small(device), fitting()
    assign(module, tensors, source="a folder")
    for name, tensor in module.state_dict().items():
        assert tensor.data_ptr() == tensors[name].data_ptr(), name
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in module.parameters())


def test_a_frozen_parameter_stays_frozen() -> None:
    module = small().requires_grad_(False)
    assign(module, fitting(), source="a folder")
    assert not any(p.requires_grad for p in module.parameters())


def test_what_is_read_is_not_copied_either(tmp_path: Path) -> None:
    write_folder(tmp_path, {}, fitting())
    module, tensors = small("meta"), read_tensors(tmp_path)
    assign(module, tensors, source="a folder")
    for name, tensor in module.state_dict().items():
        assert tensor.data_ptr() == tensors[name].data_ptr(), name


def test_every_fault_is_listed_and_nothing_is_assigned() -> None:
    module, tensors = small(), fitting()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    del tensors["one.weight"], tensors["two.bias"]
    tensors |= {f"three.{i}": torch.ones(1) for i in range(30)}
    tensors["one.bias"] = torch.ones(6)
    tensors["two.running_var"] = torch.ones(5, 1)
    tensors["two.weight"] = torch.ones(5, dtype=torch.long)
    with pytest.raises(ValueError) as caught:
        assign(module, tensors, source="~/models/mine")
    lines = str(caught.value).splitlines()
    assert lines[0] == "~/models/mine does not fit this ModuleDict; nothing was loaded:"
    assert lines[1] == "  missing: one.weight, two.bias"
    assert lines[2] == "  unexpected: " + ", ".join(f"three.{i}" for i in range(30))
    assert (
        lines[3] == "  mis-shaped: one.bias (6,), wanted (5,), two.running_var (5, 1), wanted (5,)"
    )
    assert lines[4] == "  of another kind: two.weight torch.int64, wanted torch.float32"
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("fault", ["missing", "unexpected", "mis-shaped", "of another kind"])
def test_a_single_fault_is_enough(fault: str) -> None:
    tensors = fitting()
    if fault == "missing":
        del tensors["one.bias"]
    elif fault == "unexpected":
        tensors["one.gain"] = torch.ones(5)
    elif fault == "mis-shaped":
        tensors["one.weight"] = tensors["one.weight"].T
    else:
        tensors["one.bias"] = torch.ones(5, dtype=torch.int8)
    with pytest.raises(ValueError, match=rf"nothing was loaded:\n  {fault}: one\.\w+"):
        assign(small(), tensors, source="a folder")
