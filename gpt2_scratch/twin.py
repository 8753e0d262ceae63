"""The same checkpoint in transformers, for `verify`: read by its own reader, not by our loader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gpt2_scratch.raw import Array, RawCheckpoint, hugging_face
from gpt2_scratch.sites import TRANSFORMERS, record_module
from weights.twin import import_transformers, quietly

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel


def record_transformers(raw: RawCheckpoint, ids: torch.Tensor) -> dict[str, Array]:
    """Every site of transformers' GPT2LMHeadModel in float32; the model is gone afterwards."""
    return record_module(load_transformers(raw), ids, TRANSFORMERS, raw.n_layer)


def load_transformers(raw: RawCheckpoint) -> GPT2LMHeadModel:
    """transformers' model of a folder; OpenAI's files, which it can't read, tensor by tensor."""
    transformers = import_transformers()
    options: dict[str, Any] = {"attn_implementation": "eager"}  # the one that returns its weights
    if raw.layout != "openai":
        with quietly(transformers):
            return transformers.GPT2LMHeadModel.from_pretrained(
                raw.folder, dtype=torch.float32, local_files_only=True, **options
            ).eval()
    config = transformers.GPT2Config(
        vocab_size=raw.n_vocab,
        n_positions=raw.n_ctx,
        n_embd=raw.n_embd,
        n_head=raw.n_head,
        n_layer=raw.n_layer,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    names = [name for name, _ in model.named_parameters()]
    openai = {hugging_face(name): name for name in openai_names(raw.n_layer)}
    state = {
        name: torch.from_numpy(raw.read(openai[name.removeprefix("transformer.")]))
        for name in names
    }
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def openai_names(layers: int) -> list[str]:
    """Every tensor of a GPT-2 under OpenAI's name."""
    linear = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")
    leaves = [f"{norm}/{leaf}" for norm in ("ln_1", "ln_2") for leaf in "gb"]
    leaves += [f"{part}/{leaf}" for part in linear for leaf in "wb"]
    blocks = [f"h{layer}/{leaf}" for layer in range(layers) for leaf in leaves]
    return ["wte", "wpe", *blocks, "ln_f/g", "ln_f/b"]
