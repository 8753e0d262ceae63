"""The tokenizers of this project, and where their vocabularies are: our own BPE's, and tiktoken's.

How text is cut and merged is in `bpe.py`; here that is remembered, refused, loaded and saved.
"""

import json
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gpt2_scratch.bpe import END, Codec, bytes_to_unicode, pretokenize, train_bpe
from weights.cache import model_folder

KIND = "byte-level BPE"  # of tokenizer.json
_CACHED_PIECES = 2**16  # some 10 MB; English rarely has more different words

Pair = tuple[bytes, bytes]  # two tokens that are merged


class Tokenizer(Protocol):
    """What the rest of the project asks of a tokenizer."""

    end: int
    n_vocab: int  # the end token included

    def __len__(self) -> int: ...  # n_vocab
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class BPETokenizer(Codec):
    """A codec that remembers pieces, refuses what is no text or no id, learns, and has files."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        super().__init__(merges)
        self.n_vocab = len(self.tokens)
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.n_vocab

    @property
    def merges(self) -> list[Pair]:
        return list(self.ranks)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `<|endoftext|>` in it is ordinary text, never the end token."""
        ids: list[int] = []
        for piece in pretokenize(text):
            known = self._cache.get(piece)
            if known is None:
                if len(self._cache) >= _CACHED_PIECES:
                    self._cache.clear()
                # a piece by itself is cut into no more pieces
                known = self._cache[piece] = super().encode(_without_surrogates(piece))
            ids += known
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no whole character (a cut emoji) become U+FFFD."""
        _check_ids(ids, self.n_vocab)
        return super().decode(ids)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from `texts` until there are `vocab_size` ids, bytes and end included.

        Warns and stops early when every piece is one token.
        """
        if vocab_size < 257:
            raise ValueError(f"vocab_size={vocab_size}; the 256 bytes and the end need 257.")
        tokenizer = cls(train_bpe(map(_without_surrogates, texts), vocab_size - 257))
        if len(tokenizer) < vocab_size:
            warnings.warn(
                f"No pair is left to merge: the vocabulary has {len(tokenizer)} ids, "
                f"not {vocab_size}. Give more text or a smaller vocab_size.",
                stacklevel=2,
            )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`: the merges, one a line, in GPT-2's visible letters."""
        letters = dict(zip(self.tokens, _letters(self.tokens), strict=True))
        content = {
            "kind": KIND,
            "n_vocab": self.n_vocab,
            "merges": [f"{letters[first]} {letters[second]}" for first, second in self.ranks],
        }
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        os.replace(unfinished, path)  # a killed save leaves the old file whole

    @classmethod
    def load(cls, folder: str | Path) -> "BPETokenizer":
        """What `save` wrote; FileNotFoundError or ValueError where it is not that."""
        path = Path(folder) / "tokenizer.json"
        wanted = "Give a folder that BPETokenizer.save wrote."
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}. {wanted}")
        content = _read_json(path)
        if not isinstance(content, dict) or content.keys() != {"kind", "n_vocab", "merges"}:
            raise ValueError(f"{path} is no file of kind, n_vocab and merges. {wanted}")
        if not isinstance(content["merges"], list):
            raise ValueError(f"{path}: its merges are no list. {wanted}")
        tokenizer = cls(_parse_merges(content["merges"], path))
        if (content["kind"], content["n_vocab"]) != (KIND, tokenizer.n_vocab):
            raise ValueError(
                f"{path} says {content['kind']!r} of {content['n_vocab']} ids, its merges make "
                f"{KIND!r} of {tokenizer.n_vocab}. It was cut or edited. {wanted}"
            )
        return tokenizer

    @classmethod
    def gpt2(cls, folder: str | Path | None = None) -> "BPETokenizer":
        """GPT-2's vocabulary, from `encoder.json` and `vocab.bpe` of OpenAI's release.

        Looks in `folder`, or without one in TIKTOKEN_CACHE_DIR, then in the weights cache.
        Hugging Face's `vocab.json` and `merges.txt`, the same files, will do.
        """
        encoder, merges = _find_gpt2_files(folder)
        lines = _read_text(merges).rstrip("\n").split("\n")
        if lines[0].startswith("#version"):
            del lines[0]
        tokenizer = cls(_parse_merges(lines, merges))
        letters = _letters(tokenizer.tokens[: tokenizer.end])
        if _read_json(encoder) != {each: i for i, each in enumerate([*letters, END])}:
            raise ValueError(
                f"{encoder} and {merges} are not of one vocabulary: the merges make other ids. "
                "Fetch both files again."
            )
        return tokenizer


class TiktokenGPT2:
    """tiktoken's `gpt2`, written in Rust, behind the interface of this file."""

    def __init__(self, encoding: Any) -> None:
        self._encoding = encoding
        self.end: int = encoding.eot_token
        self.n_vocab: int = encoding.n_vocab

    def __len__(self) -> int:
        return self.n_vocab

    def encode(self, text: str) -> list[int]:
        _without_surrogates(text)  # tiktoken turns lone surrogates into U+FFFD without a word
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        _check_ids(ids, self.n_vocab)
        text: str = self._encoding.decode(ids, errors="replace")
        return text


def gpt2_tokenizer(timeout: float = 30.0) -> TiktokenGPT2:
    """tiktoken's `gpt2`. tiktoken downloads the vocabulary once, unless TIKTOKEN_CACHE_DIR has it.

    Gives up after `timeout` seconds: tiktoken itself would wait for a silent network for ever.
    """
    import tiktoken

    found: list[tiktoken.Encoding] = []
    errors: list[Exception] = []

    def look() -> None:
        try:
            found.append(tiktoken.get_encoding("gpt2"))
        except Exception as error:  # anything the network layer raises; told below
            errors.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout)
    if not found:
        why = type(errors[0]).__name__ if errors else f"no answer in {timeout:g} seconds"
        raise FileNotFoundError(
            f"tiktoken could neither find GPT-2's vocabulary nor download it ({why}). "
            f"Set TIKTOKEN_CACHE_DIR to a folder that holds {' and '.join(_TIKTOKEN_NAMES)}, "
            "or use BPETokenizer.gpt2(folder) with a folder of encoder.json and vocab.bpe."
        ) from (errors[0] if errors else None)
    return TiktokenGPT2(found[0])


# tiktoken names a cached file by the SHA-1 of its address: encoder.json, vocab.bpe.
_TIKTOKEN_NAMES = (
    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
)


# OpenAI's names, Hugging Face's, tiktoken's: of the same two files.
_GPT2_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"), _TIKTOKEN_NAMES)


def gpt2_files(folder: Path) -> tuple[Path, Path] | None:
    """The two files of GPT-2's vocabulary in a folder, (ids, merges), if both are there."""
    for names in _GPT2_NAMES:
        ids, merges = (folder / name for name in names)
        if ids.is_file() and merges.is_file():
            return ids, merges
    return None


def _find_gpt2_files(folder: str | Path | None) -> tuple[Path, Path]:
    if folder is not None:
        folders = [Path(folder)]
    else:
        folders = [model_folder("gpt2-vocab")]
        if tiktoken_cache := os.environ.get("TIKTOKEN_CACHE_DIR"):
            folders.insert(0, Path(tiktoken_cache).expanduser())
    for place in folders:
        if found := gpt2_files(place):
            return found
    raise FileNotFoundError(
        f"{' and '.join(map(str, folders))} hold no GPT-2 vocabulary (encoder.json and vocab.bpe, "
        "or vocab.json and merges.txt). Run: python -m weights fetch gpt2-vocab, or set "
        "TIKTOKEN_CACHE_DIR to tiktoken's cache."
    )


def _letters(tokens: Iterable[bytes]) -> list[str]:
    """Each token in GPT-2's visible letters."""
    letter = bytes_to_unicode()
    return ["".join([letter[byte] for byte in token]) for token in tokens]


def _parse_merges(lines: Sequence[str], path: Path) -> list[Pair]:
    """`"Ġ t"` -> the pair of tokens, for each line; both must have been made before."""
    known = {letter: bytes([byte]) for byte, letter in bytes_to_unicode().items()}
    merges: list[Pair] = []
    for line in lines:
        first, _, second = str(line).partition(" ")
        if first not in known or second not in known or first + second in known:
            raise ValueError(
                f"{path}: merge {len(merges) + 1} is {line!r}. Wanted two tokens that earlier "
                "merges make, which together are a new one. The file is damaged: get it again."
            )
        merges.append((known[first], known[second]))
        known[first + second] = known[first] + known[second]
    return merges


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 ({error}). Get the file again.") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}). Get the file again.") from error


def _without_surrogates(text: str) -> str:
    """`text`, if it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = text[error.start]
        raise ValueError(
            f"The text holds {lone!r}, half of a surrogate pair, which is no character. "
            'Clean it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
        ) from error
    return text


def _check_ids(ids: Sequence[int], n_vocab: int) -> None:
    for i in ids:
        if not 0 <= i < n_vocab:
            raise ValueError(f"Id {i} is no token: this vocabulary has the ids 0 to {n_vocab - 1}.")
