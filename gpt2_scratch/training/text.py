"""Text to train on: from files to documents, from documents to token ids, from ids to windows.

A document is a file, or a part of one that `<|endoftext|>` ends.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import regex
import torch

from gpt2_scratch.tokenizer import END, Tokenizer

FEW = 10  # with fewer documents than that, held out is the end of each, not some of them
CHUNK = 2**20  # characters that are encoded at once
# No token crosses from a visible character to a white one: there a text may be cut.
CUT = regex.compile(r"(?<=\S)(?=\s)")


@dataclass
class Texts:
    """Documents in the order of their files' names, and what was left out of folders, and why."""

    documents: list[str]
    skipped: list[str]


def read_texts(sources: Sequence[str | Path], without: Path | None = None) -> Texts:
    """The documents of files, of folders to their depths, and of "-", the standard input.

    UTF-8; every line ends in a plain newline. A file that is empty or no text is a ValueError when
    named itself, and skipped in a folder. Passed over in a folder: what is hidden, and the folder
    `without`, where a run writes what is no text of its own.
    """
    texts = Texts([], [])
    for source in sources:
        path = Path(source)
        if str(source) == "-":
            texts.documents += documents(sys.stdin.buffer.read(), "the standard input")
        elif path.is_dir():
            for inside in files_in(path, without):
                try:
                    texts.documents += documents(inside.read_bytes(), str(inside))
                except ValueError as error:
                    texts.skipped.append(str(error))
        elif path.is_file() or path.is_fifo():
            texts.documents += documents(path.read_bytes(), str(path))
        else:
            what = "is neither a file nor a folder" if path.exists() else "does not exist"
            raise FileNotFoundError(f"{path} {what}. Name a text file, a folder of them, or -.")
    if not texts.documents:
        why = f" ({texts.skipped[0]})" if texts.skipped else ""
        raise ValueError(
            f"There is no text in {', '.join(map(str, sources)) or 'nothing'}{why}."
            " Name text files in UTF-8, folders of them, or -."
        )
    return texts


def files_in(folder: Path, without: Path | None) -> Iterator[Path]:
    """Every file of a folder to its depths, sorted, without the hidden and what is in `without`."""
    left_out = without and without.resolve()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(place, name).resolve() != left_out
        )
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def documents(content: bytes, name: str) -> list[str]:
    """The documents in a file's bytes; ValueError where it is empty or no text in UTF-8."""
    if b"\0" in content:
        raise ValueError(
            f"{name} is no text in UTF-8: it holds zero bytes, as binary files and UTF-16 do."
            " Name a text file, or convert it: iconv -f utf-16 -t utf-8."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no UTF-8: byte {error.start} is 0x{content[error.start]:02x}."
            " Name a text file, or convert it: iconv -f latin1 -t utf-8."
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = [part.strip("\n") for part in text.split(END) if part.strip()]
    if not found:
        raise ValueError(f"{name} is empty. Name a file that holds text.")
    return found


def encode(tokenizer: Tokenizer, text: str) -> array[int]:
    """The ids of a text of any length, in four bytes each."""
    ids = array("i")
    start = 0
    while start < len(text):
        cut = CUT.search(text, start + CHUNK)
        end = cut.start() if cut else len(text)
        ids.extend(tokenizer.encode(text[start:end]))
        start = end
    return ids


@dataclass
class Corpus:
    """Token ids end to end, an end token before each document: to train on, and held out.

    `split` says in words how the two were parted.
    """

    training: torch.Tensor
    held_out: torch.Tensor
    split: str


def part_corpus(
    tokenizer: Tokenizer, documents: Sequence[str], held_out: float, seed: int
) -> Corpus:
    """Encode documents and keep the share `held_out` of their tokens back.

    Of 10 documents or more, whole ones are kept back, drawn by `seed`; of fewer, the end of each.
    """
    encoded = [encode(tokenizer, document) for document in documents]
    total = sum(map(len, encoded))
    kept: list[array[int]] = []
    back: list[array[int]] = []
    if held_out and len(encoded) >= FEW:
        order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed))
        chosen: set[int] = set()
        held = 0
        for i in order.tolist():
            if held >= held_out * total or len(chosen) == len(encoded) - 1:
                break
            chosen.add(i)
            held += len(encoded[i])
        for i, ids in enumerate(encoded):
            (back if i in chosen else kept).append(ids)
        split = f"{len(back):,} of {len(encoded):,} documents"
    else:
        for ids in encoded:
            cut = len(ids) - round(held_out * len(ids))
            kept.append(ids[:cut])
            if ids[cut:]:
                back.append(ids[cut:])
        each = "the text" if len(encoded) == 1 else f"each of {len(encoded)} documents"
        split = f"the last {held_out:.0%} of {each}" if back else "nothing"
    return Corpus(join(kept, tokenizer.end), join(back, tokenizer.end), split)


def join(parts: Sequence[array[int]], end: int) -> torch.Tensor:
    """Ids end to end, an end token before each: (N,)."""
    ids = array("i")
    for part in parts:
        ids.append(end)
        ids.extend(part)
    return torch.frombuffer(ids, dtype=torch.int32) if ids else torch.empty(0, dtype=torch.int32)


def windows(
    ids: torch.Tensor, length: int, rows: int, seed: int, first: int, every: int = 1
) -> Iterator[torch.Tensor]:
    """Endless batches (rows, length + 1) of ids (N,), from batch number `first` on, of which each
    `every`-th is given.

    Each epoch reads every token once, in windows that begin elsewhere and come in another order;
    the text is a ring, whose end goes on with its beginning.
    """
    each = len(ids) // length  # windows of an epoch
    if each == 0:
        raise ValueError(
            f"The text to train on has {len(ids):,} tokens, wanted at least {length:,}: one window."
            f" Give more text, or a smaller length."
        )
    epoch, number = -1, first * rows
    starts = torch.empty(0)
    reach = torch.arange(length + 1)
    while True:
        batch = []
        for row in range(number, number + rows):
            if row // each != epoch:
                epoch = row // each
                generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
                offset = torch.randint(len(ids), (), generator=generator)
                starts = offset + length * torch.randperm(each, generator=generator)
            batch.append(ids[(starts[row % each] + reach) % len(ids)])
        number += rows * every
        yield torch.stack(batch).long()


def held_out_windows(
    ids: torch.Tensor, length: int, rows: int, most: int
) -> Iterator[torch.Tensor]:
    """Batches (at most `rows`, length + 1) of ids in order, each token predicted once; the last
    may be shorter. At most `most` windows, spread evenly."""
    every = range(0, len(ids) - 1, length)
    many = min(most, len(every))
    starts = [every[i * len(every) // many] for i in range(many)]
    whole = [ids[i : i + length + 1] for i in starts]
    short = [whole.pop()] if whole and len(whole[-1]) <= length else []
    for i in range(0, len(whole), rows):
        yield torch.stack(whole[i : i + rows]).long()
    for window in short:
        yield window[None].long()
