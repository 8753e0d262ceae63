"""Which folder is meant, what must be in it, and how what is no GPT-2 is told apart."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import random_model
from layouts import huggingface, write_config, write_layout, write_shards
from safetensors.torch import save_file

from gpt2_scratch.layouts import find_folder
from gpt2_scratch.loader import load_gpt2
from weights.store import embedded
from weights.tensor_files import TensorFiles

# --- which folder, and what is in it ----------------------------------------------------------


def test_a_folder_may_have_any_name_and_lack_what_is_optional(golden: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model.safetensors"
    shutil.copytree(golden / "tiny-a" / "openai", folder)
    for name in ("checkpoint", "model.ckpt.meta"):
        (folder / name).unlink()
    for file in list(folder.glob("model.ckpt.*")):
        file.rename(folder / file.name.replace("model.ckpt", "1558M"))
    wanted = load_gpt2(golden / "tiny-a" / "openai").wte.weight
    assert torch.equal(load_gpt2(folder).wte.weight, wanted)
    assert torch.equal(load_gpt2(str(folder)).wte.weight, wanted)


def test_of_several_layouts_the_safetensors_are_read(tmp_path: Path) -> None:
    for seed, layout in enumerate(("openai", "another name", "bin", "safetensors")):
        twin = random_model(seed, torch.float32)
        write_layout(layout, twin, tmp_path)
        assert torch.equal(load_gpt2(tmp_path).wte.weight, twin.wte.weight), layout


def test_names_mean_models_and_paths_mean_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert find_folder("scenes") == embedded("scenes") / "language-model"
    assert find_folder("./gpt2") == find_folder(Path("gpt2")) == Path("gpt2")
    with pytest.raises(FileNotFoundError, match=r"Run: python -m weights fetch gpt2\b"):
        find_folder("gpt2")
    with pytest.raises(FileNotFoundError, match=r"gpt3 is not a folder.*gpt2-large, gpt2-xl"):
        find_folder("gpt3")
    assert load_gpt2("scenes").config.n_vocab < 50257


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), r"holds nothing \(needed: config.json and model.safetensors"),
        (("model.ckpt.index", "model.ckpt.meta"), r"model.ckpt.meta but no hparams.json \(needed"),
        (("model.safetensors",), r"holds model.safetensors but no config.json \(needed"),
        (("pytorch_model.bin",), r"holds pytorch_model.bin but no config.json \(needed"),
        (("hparams.json",), r"holds hparams.json \(needed.*one .index and its .data"),
        (("notes.txt",), r"holds notes.txt \(needed.*run: python -m weights fetch gpt2-large"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, files: tuple[str, ...], says: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=says):
        load_gpt2(tmp_path)


def test_a_checkpoint_without_its_data_is_named(golden: Path, tmp_path: Path) -> None:
    for name in ("hparams.json", "model.ckpt.index"):
        shutil.copy(golden / "tiny-a" / "openai" / name, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model.ckpt.data-00000-of-00001 does not exist"):
        load_gpt2(tmp_path)


def test_several_safetensors_without_an_index_are_refused(tmp_path: Path) -> None:
    model = random_model(dtype=torch.float32)
    write_config(model, tmp_path)
    write_shards(huggingface(model), tmp_path, "model.safetensors", save_file)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"00001-of-00003.*neither model.safetensors nor model"):
        load_gpt2(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = random_model(dtype=torch.float32)
    write_config(model, tmp_path)
    write_shards(huggingface(model), tmp_path, "model.safetensors", save_file)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003.safetensors, which"):
        load_gpt2(tmp_path)


@pytest.mark.parametrize(
    "places", [{}, [], {"a": 1}, {"a": ""}, {"a": "../b"}, {"a": "/b"}, {"a": ["b"]}]
)
def test_an_index_names_files_beside_it(tmp_path: Path, places: object) -> None:
    write_config(random_model(), tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"has no weight_map from tensors to files beside it"):
        load_gpt2(tmp_path)


# --- what is no GPT-2, or a damaged one -------------------------------------------------------


@pytest.mark.parametrize("layout", ["openai", "no prefix, with masks", "bin"])
def test_every_fault_is_listed_before_a_number_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(TensorFiles, "each", lambda *_, **__: pytest.fail("numbers were read"))
    model = random_model(dtype=torch.float32, n_layer=11)
    state = model.state_dict()
    write_layout(layout, model, tmp_path)
    config = tmp_path / ("hparams.json" if layout == "openai" else "config.json")
    held = json.loads(config.read_text())
    config.write_text(json.dumps(held | {"n_layer": 13, "n_head": 7}))
    with pytest.raises(ValueError, match=r"does not fit this GPT2; nothing was loaded") as caught:
        load_gpt2(tmp_path)
    assert str(caught.value).count("h.11.") == str(caught.value).count("h.12.") == 12
    ctx = "n_ctx" if layout == "openai" else "n_positions"
    config.write_text(json.dumps(held | {"n_layer": 10, ctx: 12}))
    with pytest.raises(ValueError, match=r"mis-shaped: wpe.weight \(13, 21\), wanted") as caught:
        load_gpt2(tmp_path)
    assert str(caught.value).count("h.10.") == 12 and len(state) == 4 + 11 * 12
    config.write_text(json.dumps(held | {"n_layer": 10**9}))  # before such a model is built
    with pytest.raises(ValueError, match=r"says n_layer=1000000000, and there are 136 tensors"):
        load_gpt2(tmp_path)


def test_a_transposed_weight_is_mis_shaped(tmp_path: Path) -> None:
    """As nn.Linear would hold it."""
    model = random_model(dtype=torch.float32)
    write_config(model, tmp_path)
    tensors = huggingface(model)
    name = "transformer.h.1.mlp.c_fc.weight"
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"h.1.mlp.c_fc.w \(84, 21\), wanted \(21, 84\)"):
        load_gpt2(tmp_path)


def test_another_models_tensors_are_told_apart(tmp_path: Path) -> None:
    write_config(random_model(), tmp_path)
    save_file({"bert.embeddings.word": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds no GPT-2.*names there: bert.embeddings.word"):
        load_gpt2(tmp_path)
    write_config(random_model(), tmp_path, model_type="gpt_neo")
    with pytest.raises(ValueError, match=r"a model of type 'gpt_neo', wanted a GPT-2"):
        load_gpt2(tmp_path)


def test_both_prefixes_at_once_are_refused(tmp_path: Path) -> None:
    model = random_model(dtype=torch.float32)
    write_config(model, tmp_path)
    both = huggingface(model) | {"wte.weight": torch.ones(2)}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds both (\S*wte.weight) and \S*wte.weight. Keep one"):
        load_gpt2(tmp_path)


@pytest.mark.parametrize("shape", [None, (3, 5)])
@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_head_of_its_own_is_refused(
    tmp_path: Path, layout: str, shape: tuple[int, int] | None
) -> None:
    model = random_model(dtype=torch.float32)
    write_config(model, tmp_path)
    head = model.wte.weight.detach() * 1.001 if shape is None else torch.ones(shape)
    tensors = huggingface(model) | {"lm_head.weight": head}
    if layout == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"an lm_head of its own.*Tie the two"):
        load_gpt2(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><title>404</title>", r"\(an HTML page titled '404'\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"\(a Git LFS pointer"),
        (b"", r"is not a whole safetensors file"),
    ],
)
def test_a_page_in_place_of_the_weights(tmp_path: Path, content: bytes, says: str) -> None:
    write_config(random_model(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        load_gpt2(tmp_path)
