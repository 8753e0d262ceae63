"""From files to a GPT-2 and back: rewrite rules between names, and no transpose.

Read here: the safetensors layouts of Hugging Face, with the prefix `transformer.` or without, where
old files also hold the causal mask as a buffer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.model import GPT2
from weights.store import assign, read_config, read_tensors, write_folder

# Hugging Face calls LayerNorm's g and Conv1D's w both "weight", and every b "bias".
LEAVES = {"ln": {"weight": "g", "bias": "b"}, "c_": {"weight": "w", "bias": "b"}}
MASK_BUFFER = re.compile(r"^h\.\d+\.attn\.(bias|masked_bias)$")  # not h.N.attn.c_attn.bias!

# What Hugging Face makes a choice and GPT-2 has not: other models hide under the name "gpt2".
NUMERICS = {
    "activation_function": "gelu_new",  # their word for the tanh form
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def to_our_name(name: str) -> str | None:
    """Our name of one of Hugging Face's, or None for what is no parameter of ours."""
    name = name.removeprefix("transformer.")
    if MASK_BUFFER.match(name):
        return None
    stem, _, leaf = name.rpartition(".")
    return f"{stem}.{LEAVES.get(stem.rpartition('.')[2][:2], {}).get(leaf, leaf)}"


def to_their_name(name: str) -> str:
    """Hugging Face's name of one of ours."""
    stem, _, leaf = name.rpartition(".")
    return f"transformer.{stem}.{ {'g': 'weight', 'w': 'weight', 'b': 'bias'}.get(leaf, leaf) }"


def build(config: GPT2Config, *, source: str, tensors: dict[str, torch.Tensor]) -> GPT2:
    """A GPT-2 whose parameters are these very tensors: none is made twice."""
    with torch.device("meta"):
        model = GPT2(config)
    assign(model, tensors, source=source)
    return model.eval()


def random_gpt2(
    config: GPT2Config,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> GPT2:
    """A GPT-2 with freshly drawn weights, in the memory that its parameters take and no more."""
    with torch.device("meta"):
        model = GPT2(config).to(dtype)
    model.to_empty(device=device)
    model.initialise(generator)
    return model.eval()


def load_gpt2(
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> GPT2:
    """A GPT-2 from a folder of `config.json` and `model.safetensors`, in eval mode.

    All or nothing: ValueError lists every tensor that is missing, unexpected or mis-shaped.
    `changes` replace values of the config: `load_gpt2(folder, attention="explicit")`.
    """
    config = replace(config_from(read_config(folder), source=str(folder)), **changes)
    read = read_tensors(folder)
    head = read.pop("lm_head.weight", None)
    wte = read.get("transformer.wte.weight", read.get("wte.weight"))
    if head is not None and wte is not None and not torch.equal(head, wte):
        raise ValueError(
            f"{folder} holds an lm_head of its own; GPT-2's head is its token embedding."
            " Tie the two before saving, or drop lm_head.weight if it is left over."
        )
    tensors = {}
    for name in list(read):
        ours, tensor = to_our_name(name), read.pop(name)
        if ours is not None:
            tensors[ours] = tensor.to(device=device, dtype=dtype or tensor.dtype)
    return build(config, source=str(folder), tensors=tensors)


def config_from(held: dict[str, Any], *, source: str) -> GPT2Config:
    """Our config from the keys of Hugging Face's `config.json` or OpenAI's `hparams.json`."""
    context = held.get("n_ctx", held.get("n_positions"))
    sizes: dict[str, Any] = {
        "n_ctx": context,
        "n_vocab": held.get("n_vocab", held.get("vocab_size")),
    }
    sizes |= {name: held.get(name) for name in ("n_embd", "n_head", "n_layer")}
    missing = [name for name, value in sizes.items() if value is None]
    if missing:
        raise ValueError(f"The config of {source} lacks {', '.join(missing)}. Is it a GPT-2's?")
    for name, ours in NUMERICS.items():
        if held.get(name, ours) != ours:
            raise ValueError(
                f"The config of {source} says {name}={held[name]!r}; GPT-2 has {ours!r}, and only"
                " that is computed here. Use a GPT-2 as OpenAI trained it."
            )
    dropout = held.get("resid_pdrop", held.get("dropout", 0.1))
    return GPT2Config(**sizes, dropout=dropout)


def save_gpt2(model: GPT2, folder: str | Path) -> None:
    """Write the layout that Hugging Face's GPT2LMHeadModel reads: config and safetensors."""
    c = model.config
    config = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": c.n_vocab,
        "n_positions": c.n_ctx,
        "n_ctx": c.n_ctx,
        "n_embd": c.n_embd,
        "n_head": c.n_head,
        "n_layer": c.n_layer,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
    } | NUMERICS
    tensors = {to_their_name(name): tensor for name, tensor in model.state_dict().items()}
    write_folder(folder, config, tensors)
