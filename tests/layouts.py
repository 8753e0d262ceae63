"""One GPT-2 written in every layout that is found in the wild, for the tests of loading."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.openai_format import write_folder as write_openai
from gpt2_scratch.model import GPT2

Tensors = dict[str, torch.Tensor]


def openai_name(ours: str) -> str:
    """h.10.attn.c_attn.w -> model/h10/attn/c_attn/w, spelled out once more for the tests."""
    parts = ours.split(".")
    if parts[0] == "h":
        parts[:2] = [f"h{parts[1]}"]
    return "/".join(["model", *parts]).removesuffix("/weight")


def huggingface_name(ours: str) -> str:
    """h.10.attn.c_attn.w -> h.10.attn.c_attn.weight."""
    stem, leaf = ours.rsplit(".", 1)
    return f"{stem}.{'bias' if leaf == 'b' else 'weight'}"


def huggingface(model: GPT2, prefix: str = "transformer.") -> Tensors:
    return {prefix + huggingface_name(name): t for name, t in model.state_dict().items()}


def masks(model: GPT2) -> Tensors:
    """The buffers of files from before 2023: what the future is hidden with."""
    size = model.config.n_ctx
    causal = torch.ones(size, size).tril().reshape(1, 1, size, size)
    buffers = {}
    for i in range(model.config.n_layer):
        buffers[f"h.{i}.attn.bias"] = causal.clone()
        buffers[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    return buffers


def write_config(model: GPT2, folder: Path, **changes: object) -> None:
    c = model.config
    config = {"model_type": "gpt2", "vocab_size": c.n_vocab, "n_positions": c.n_ctx}
    config |= {"n_embd": c.n_embd, "n_head": c.n_head, "n_layer": c.n_layer, "resid_pdrop": 0.0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))


def write_tensorflow(model: GPT2, folder: Path, shards: int = 1) -> None:
    """OpenAI's folder: each linear map as the convolution of width one that it is there."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        tensors[openai_name(name)] = array[None] if name.endswith(".w") else array
    c = model.config
    sizes = {"n_vocab": c.n_vocab, "n_ctx": c.n_ctx, "n_embd": c.n_embd}
    write_openai(folder, sizes | {"n_head": c.n_head, "n_layer": c.n_layer}, tensors, shards=shards)


def write_shards(
    tensors: Tensors, folder: Path, name: str, save: Callable[[Tensors, Path], object]
) -> None:
    """Every third tensor into each of three files, and the index that says so."""
    stem, dot, suffix = name.rpartition(".")
    files = [f"{stem}-0000{i + 1}-of-00003{dot}{suffix}" for i in range(3)]
    places = {tensor: files[i % 3] for i, tensor in enumerate(tensors)}
    for file in files:
        save({t: tensors[t] for t, place in places.items() if place == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


def save_legacy(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """As torch wrote files before 1.6."""
    torch.save(dict(tensors), path, _use_new_zipfile_serialization=False)


def _with_head(model: GPT2) -> Tensors:
    return huggingface(model) | {"lm_head.weight": model.wte.weight.detach().clone()}


Write = Callable[[GPT2, Path], object]
LAYOUTS: dict[str, Write] = {
    "openai": write_tensorflow,
    "openai, three shards": lambda m, f: write_tensorflow(m, f, shards=3),
    "safetensors": lambda m, f: save_file(huggingface(m), f / "model.safetensors"),
    "no prefix, with masks": lambda m, f: save_file(
        huggingface(m, "") | masks(m), f / "model.safetensors"
    ),
    "with the tied head": lambda m, f: save_file(_with_head(m), f / "model.safetensors"),
    "safetensors in shards": lambda m, f: write_shards(
        huggingface(m), f, "model.safetensors", save_file
    ),
    "another name": lambda m, f: save_file(huggingface(m), f / "gpt2-124M.safetensors"),
    "bin": lambda m, f: torch.save(_with_head(m), f / "pytorch_model.bin"),
    "bin in shards": lambda m, f: write_shards(huggingface(m), f, "pytorch_model.bin", torch.save),
    "old bin": lambda m, f: save_legacy(huggingface(m, "") | masks(m), f / "pytorch_model.bin"),
}


def write_layout(name: str, model: GPT2, folder: Path) -> Path:
    """Write one of LAYOUTS, with the config that belongs to it."""
    if name.startswith("openai"):
        folder.mkdir(parents=True, exist_ok=True)
    else:
        write_config(model, folder)
    LAYOUTS[name](model, folder)
    return folder
