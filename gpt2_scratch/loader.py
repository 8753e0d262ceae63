"""From files to a GPT-2 and back: rewrite rules between names, and no transpose.

`layouts` finds the files. Their names are OpenAI's (`model/h0/ln_1/b`) or Hugging Face's, with the
prefix `transformer.` or without, where old files also hold the causal mask as a buffer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.layouts import N_VOCAB, NUMERICS, find_folder, recognise
from gpt2_scratch.layouts import config_from as config_from
from gpt2_scratch.model import GPT2
from weights.store import assign, write_folder
from weights.tensor_files import TensorFiles

# Hugging Face calls LayerNorm's g and Conv1D's w both "weight", and every b "bias".
LEAVES = {"ln": {"weight": "g", "bias": "b"}, "c_": {"weight": "w", "bias": "b"}}
MASK_BUFFER = re.compile(r"^h\.\d+\.attn\.(bias|masked_bias)$")  # not h.N.attn.c_attn.bias!


def to_our_name(name: str) -> str | None:
    """Our name of one of OpenAI's or Hugging Face's, or None for what is no parameter of ours."""
    if name.startswith("model/"):
        ours = re.sub(r"^h(\d+)/", r"h.\1/", name.removeprefix("model/")).replace("/", ".")
        return f"{ours}.weight" if ours in ("wte", "wpe") else ours
    name = name.removeprefix("transformer.")
    if MASK_BUFFER.match(name):
        return None
    stem, dot, leaf = name.rpartition(".")
    return stem + dot + LEAVES.get(stem.rpartition(".")[2][:2], {}).get(leaf, leaf)


def to_their_name(name: str) -> str:
    """Hugging Face's name of one of ours."""
    stem, _, leaf = name.rpartition(".")
    return f"transformer.{stem}.{ {'g': 'weight', 'w': 'weight', 'b': 'bias'}.get(leaf, leaf) }"


def build(config: GPT2Config, *, source: str, tensors: dict[str, torch.Tensor]) -> GPT2:
    """A GPT-2 whose parameters are these very tensors: none is made twice."""
    with torch.device("meta"):
        model = GPT2(config)
    if any(buffer.is_meta for buffer in model.buffers()):  # no file has them, a causal mask, say
        model = GPT2(config)
    # A reader's own GPT2 may have wte under a second name, as the weight of a head.
    tied = [
        name for name, each in model.state_dict(keep_vars=True).items() if each is model.wte.weight
    ]
    words = {name: tensors["wte.weight"] for name in tied if "wte.weight" in tensors}
    assign(model, tensors | words, source=source)
    for name in tied:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, model.wte.weight)
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
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    **changes: Any,
) -> GPT2:
    """A GPT-2 in eval mode: "gpt2-large" and its like, "scenes", or a folder (see `layouts`).

    All or nothing: ValueError lists every tensor that is missing, unexpected or mis-shaped.
    On a CPU in the file's dtype the parameters are a private map of it (see `read_tensors`).
    `changes` replace values of the config: `load_gpt2(folder, attention="explicit")`.
    """
    folder = find_folder(name_or_folder)
    layout = recognise(folder)
    config = replace(layout.config, **changes)
    names = _our_names(layout.files, folder)
    if config.n_layer > len(names):  # a block has twelve; to build such a model would take for ever
        raise ValueError(
            f"The config of {folder} says n_layer={config.n_layer}, and there are {len(names)}"
            " tensors; nothing was loaded. Check that the config belongs to the weights."
        )
    # First without their numbers: what doesn't fit is told before gigabytes are read.
    kinds = {ours: _unpacked(layout.files.kinds[theirs]) for theirs, ours in names.items()}
    build(config, source=str(folder), tensors=kinds)
    tensors = {
        names[theirs]: _unpacked(tensor)
        for theirs, tensor in layout.files.each(names, dtype=dtype, device=device)
    }
    return build(config, source=str(folder), tensors=tensors)


def _our_names(files: TensorFiles, folder: Path) -> dict[str, str]:
    """Our name for each of theirs, without masks and without the head, which must be the wte."""
    theirs: dict[str, str] = {}
    for name in files.kinds:
        ours = to_our_name(name)
        if ours in theirs:
            raise ValueError(f"{folder} holds both {theirs[ours]} and {name}. Keep one of the two.")
        if ours is not None:
            theirs[ours] = name
    if "wte.weight" not in theirs:
        seen = ", ".join(list(files.kinds)[:4]) or "none"
        raise ValueError(
            f"{folder} holds no GPT-2, since no tensor is its wte; nothing was loaded. The names"
            f" there: {seen}, ... ({len(files.kinds)}). Name the folder of a GPT-2."
        )
    head = theirs.pop("lm_head.weight", None)
    if head is not None:
        both = files.read([head, theirs["wte.weight"]])
        if not torch.equal(*both.values()):
            raise ValueError(
                f"{folder} holds an lm_head of its own; GPT-2's head is its token embedding."
                " Tie the two before saving, or drop lm_head.weight if it is left over."
            )
    return {name: ours for ours, name in theirs.items()}


def _unpacked(tensor: torch.Tensor) -> torch.Tensor:
    """OpenAI's linear maps, convolutions of width one: (1, in, out) -> (in, out)."""
    return tensor.squeeze(0) if tensor.ndim == 3 else tensor


def save_gpt2(model: GPT2, folder: str | Path) -> None:
    """Write the layout that Hugging Face's GPT2LMHeadModel reads: config and safetensors.

    ValueError where the model has more than a GPT-2, such as adapters, or less.
    """
    c = model.config
    with torch.device("meta"):
        wanted = GPT2(c).state_dict().keys()
    if others := sorted(model.state_dict().keys() ^ wanted):
        raise ValueError(
            f"This model and a plain GPT-2 differ in {', '.join(others[:4])} ({len(others)} names);"
            " nothing was written. Merge adapters and take them off first: merge_lora, remove_lora."
        )
    end = min(c.n_vocab, N_VOCAB) - 1  # the last token, as in every tokenizer here; a text's ends
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
        "bos_token_id": end,
        "eos_token_id": end,
    } | NUMERICS
    tensors = {to_their_name(name): tensor for name, tensor in model.state_dict().items()}
    write_folder(folder, config, tensors)
