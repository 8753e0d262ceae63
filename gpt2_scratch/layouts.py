"""Which model is meant, and whose files are in its folder: told by what is there, not by its name.

safetensors   config.json, model.safetensors (or its shards and index)
PyTorch       config.json, pytorch_model.bin (or its shards and index)
safetensors   config.json, a single .safetensors of another name
TensorFlow    hparams.json, one .index and its .data-*

Where several are there the first of these is read. Everything else in a folder is optional, but for
a tokenizer where the vocabulary is not GPT-2's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2_scratch.config import PRESETS, GPT2Config
from gpt2_scratch.tokenizer import BPETokenizer, Tokenizer, gpt2_files, gpt2_tokenizer
from weights.cache import locate
from weights.store import CONFIG, embedded, read_json
from weights.tensor_files import (
    TensorFiles,
    find_safetensors,
    find_tensorflow,
    find_torch,
    only_safetensors,
)

HPARAMS = "hparams.json"
NEEDED = (
    "needed: config.json and model.safetensors (or pytorch_model.bin), or OpenAI's hparams.json,"
    " one .index and its .data-*"
)
N_VOCAB = 50257  # of GPT-2

# What Hugging Face makes a choice and GPT-2 has not: other models hide under the name "gpt2".
NUMERICS = {
    "activation_function": "gelu_new",  # their word for the tanh form
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


@dataclass(frozen=True)
class Layout:
    """The sizes that a folder gives, and its tensors under the names that they have there."""

    config: GPT2Config
    files: TensorFiles


def find_folder(name_or_folder: str | Path) -> Path:
    """Where a model is: a published size that was fetched, the embedded "scenes", or a folder.

    These names always mean those models. To mean a folder called so: "./gpt2" or Path("gpt2").
    FileNotFoundError says how to fetch a size that is not there.
    """
    if name_or_folder == "scenes":
        return embedded("scenes") / "language-model"
    if name_or_folder in PRESETS:
        return locate(str(name_or_folder))
    folder = Path(name_or_folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; {NEEDED}. Name a folder with these, or one of"
            f" {', '.join(['scenes', *PRESETS])}."
        )
    return folder


def recognise(folder: Path) -> Layout:
    """The layout of this folder. FileNotFoundError says what it holds and what is needed."""
    if (folder / CONFIG).is_file():
        config = config_from(_object(folder / CONFIG), source=str(folder))
        if files := find_safetensors(folder) or find_torch(folder) or only_safetensors(folder):
            return Layout(config, files)
    if (folder / HPARAMS).is_file() and (files := find_tensorflow(folder)):
        return Layout(config_from(_object(folder / HPARAMS), source=str(folder)), files)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    lacks = ""
    if any(name.endswith(".index") for name in names):
        lacks = f" but no {HPARAMS}"
    elif any(name.endswith((".safetensors", ".bin")) for name in names):
        lacks = f" but no {CONFIG}"
    raise FileNotFoundError(
        f"{folder} holds {', '.join(names[:8]) or 'nothing'}{lacks} ({NEEDED})."
        " Copy what is missing, name another folder, or run: python -m weights fetch gpt2-large"
    )


def _object(path: Path) -> dict[str, Any]:
    held = read_json(path)
    if not isinstance(held, dict):
        raise ValueError(f"{path} holds a {type(held).__name__}, not an object. Copy it again.")
    return held


def config_from(held: dict[str, Any], *, source: str) -> GPT2Config:
    """Our config from the keys of Hugging Face's `config.json` or OpenAI's `hparams.json`."""
    kind = held.get("model_type", "gpt2")
    if kind != "gpt2":
        raise ValueError(f"{source} holds a model of type {kind!r}, wanted a GPT-2: name another.")
    sizes: dict[str, Any] = {
        "n_ctx": held.get("n_positions", held.get("n_ctx")),  # as wpe is built; n_ctx is older
        "n_vocab": held.get("n_vocab", held.get("vocab_size")),
    }
    sizes |= {name: held.get(name) for name in ("n_embd", "n_head", "n_layer")}
    missing = [name for name, value in sizes.items() if value is None]
    if missing:
        raise ValueError(
            f"The config of {source} lacks {', '.join(missing)}. Is it a GPT-2's? Name the folder"
            " of one: what `finetune` wrote is in RUN/model."
        )
    for name, ours in NUMERICS.items():
        if held.get(name, ours) != ours:
            raise ValueError(
                f"The config of {source} says {name}={held[name]!r}; GPT-2 has {ours!r}, and only"
                " that is computed here. Use a GPT-2 as OpenAI trained it."
            )
    dropout = held.get("resid_pdrop", held.get("dropout", 0.1))
    return GPT2Config(**sizes, dropout=dropout)


def has_own_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer that `BPETokenizer.save` wrote is there; Hugging Face's has no "kind"."""
    path = folder / "tokenizer.json"
    content = read_json(path) if path.is_file() else None
    return isinstance(content, dict) and "kind" in content


def load_tokenizer(folder: Path, n_vocab: int) -> Tokenizer:
    """The tokenizer of a model's folder, else GPT-2's where that is the size of the vocabulary.

    It is looked for in the cache first; only then does tiktoken download it.
    """
    tokenizer: Tokenizer
    if has_own_tokenizer(folder):
        tokenizer = BPETokenizer.load(folder)
    elif gpt2_files(folder):
        tokenizer = BPETokenizer.gpt2(folder)
    elif n_vocab == N_VOCAB:
        try:
            tokenizer = BPETokenizer.gpt2()
        except FileNotFoundError:
            tokenizer = gpt2_tokenizer()
    else:
        raise FileNotFoundError(
            f"{folder} holds no tokenizer, and GPT-2's has {N_VOCAB} tokens where this model has"
            f" {n_vocab}. Copy its encoder.json and vocab.bpe (or vocab.json and merges.txt)"
            " there, or what BPETokenizer.save wrote."
        )
    if len(tokenizer) > n_vocab:
        raise ValueError(
            f"The tokenizer of {folder} has {len(tokenizer)} tokens, its model {n_vocab}. They are"
            " of different models: copy the folder whole."
        )
    return tokenizer
