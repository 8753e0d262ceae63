"""`fetch` and `import`: bring files into the cache, over the network or by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from weights.commands.show import Name, Whose


def fetch(
    name: Name,
    source: Whose = None,
    force: Annotated[bool, tyro.conf.arg(help="fetch what is there too")] = False,
    timeout: Annotated[
        float,
        tyro.conf.arg(help="seconds without an answer, or below 1 KiB/s, that end an attempt"),
    ] = 30.0,
    retries: Annotated[int, tyro.conf.arg(help="of an attempt, without progress between")] = 4,
) -> None:
    """Fetch the files of NAME and what it needs: what is whole stays, what is begun goes on.

    HF_ENDPOINT replaces https://huggingface.co. GPT2_SCRATCH_MIRROR is asked first, in the layout
    of the cache (MIRROR/gpt2-large/huggingface/config.json): any cache folder behind a web server
    will do. Prints the folder.
    """
    from weights.download import Patience
    from weights.fetch import fetch as fetch_files

    patience = Patience(connect=min(timeout, 10.0), read=timeout, retries=retries)
    print(fetch_files(name, source, force=force, patience=patience, tell=_tell, bar=True))


def import_(
    name: Name,
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    source: Whose = None,
) -> None:
    """Take the files of NAME from FOLDER, where someone put them, and print their folder.

    Each file is checked as if it had been fetched, then linked or copied. FOLDER may hold other
    files too, and those of known SHA-256 may have any name.
    """
    from weights.bring import bring

    print(bring(name, folder, source, tell=_tell))


def _tell(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(message, file=sys.stderr)  # above a progress bar, not into it
