"""`convert`: a GPT-2 from any layout into Hugging Face's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro

VOCABULARY = (
    *("encoder.json", "vocab.bpe", "vocab.json", "merges.txt"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
)
THEIR_NAMES = {"encoder.json": "vocab.json", "vocab.bpe": "merges.txt"}  # the very same files


@dataclass(frozen=True)
class Convert:
    """Write a GPT-2 as config.json and model.safetensors, which transformers reads too.

    Vocabulary files beside it come along. The new folder appears only when it is whole.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="gpt2|...|FOLDER")]
    """"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "scenes", or a folder in any layout."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The folder to write."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """The type of the numbers; the source's own where not given."""
    force: bool = False
    """Write into a folder that holds something already. What has another name there stays."""

    def run(self) -> int:
        target = self.target.expanduser().absolute()
        taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
        if taken and not (self.force and target.is_dir()):
            raise ValueError(
                f"{self.target} is there already, wanted a new or an empty folder; name another"
                f"{', or pass --force to write over it' if target.is_dir() else ''}."
            )
        import torch

        from gpt2_scratch.layouts import find_folder
        from gpt2_scratch.loader import load_gpt2, save_gpt2

        source = find_folder(self.source)
        model = load_gpt2(source, dtype=getattr(torch, self.dtype) if self.dtype else None)
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            written = Path(temporary) / "new"  # with the usual rights, which the outer one has not
            save_gpt2(model, written)
            copy_vocabulary(source, written)
            if target.is_dir():
                for file in written.iterdir():
                    file.replace(target / file.name)
            else:
                written.rename(target)
        size = sum(parameter.nbytes for parameter in model.parameters())
        kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
        print(
            f"{self.target}: {model.config.parameters:,} parameters,"
            f" {', '.join(sorted(kinds))}, {size / 1e6:,.1f} MB"
        )
        return 0


def copy_vocabulary(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer; OpenAI's also under the names that transformers looks for."""
    for name in VOCABULARY:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
            if name in THEIR_NAMES:
                shutil.copyfile(source / name, target / THEIR_NAMES[name])
