"""Text to token ids and back: GPT-2's byte-level byte-pair encoding by hand, and tiktoken's.

Every text becomes UTF-8 bytes, cut into pieces (about a word each) that no token crosses. Inside
a piece, neighbouring tokens are merged, the earliest-learned pair first, until none is left.
Ids: 0..255 the bytes, then one for each merge in the order learned, last the end token.
"""

import heapq
import json
import os
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import regex

END = "<|endoftext|>"
KIND = "byte-level BPE"  # of tokenizer.json

# GPT-2's cut: an English contraction | letters | digits | anything else, each of these three with
# at most one space before it | white space, which leaves its last character to the next word.
PIECE = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

# GPT-2's vocabulary files write each byte as one visible character: a visible Latin-1 byte as
# itself, the others as the characters from 256 on (a space is "Ġ"). Byte ids follow this order.
_VISIBLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
_BYTES = _VISIBLE + [b for b in range(256) if b not in _VISIBLE]  # id -> byte
_LETTER = [chr(b) for b in _VISIBLE] + [chr(256 + i) for i in range(256 - len(_VISIBLE))]
_BYTE_ID = {byte: i for i, byte in enumerate(_BYTES)}

_CACHED_PIECES = 2**16  # some 10 MB; English rarely has more different words

Pair = tuple[int, int]


class Tokenizer(Protocol):
    """What the rest of the project asks of a tokenizer."""

    end: int
    n_vocab: int  # the end token included

    def __len__(self) -> int: ...  # n_vocab
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class BPETokenizer:
    """Byte-level BPE by its merges: `merges[i]` is the pair of ids that becomes id 256 + i."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = {pair: 256 + i for i, pair in enumerate(merges)}
        self.end = 256 + len(merges)
        self.n_vocab = self.end + 1
        self._bytes = [bytes([byte]) for byte in _BYTES]
        for first, second in merges:
            self._bytes.append(self._bytes[first] + self._bytes[second])
        self._bytes.append(END.encode())
        self._cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.n_vocab

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `<|endoftext|>` in it is ordinary text, never the end token."""
        ids: list[int] = []
        for piece in PIECE.findall(text):
            merged = self._cache.get(piece)
            if merged is None:
                if len(self._cache) >= _CACHED_PIECES:
                    self._cache.clear()
                merged = self._cache[piece] = self._merge(_utf8(piece))
            ids += merged
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no whole character (a cut emoji) become U+FFFD."""
        _check_ids(ids, self.n_vocab)
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", errors="replace")

    def _merge(self, piece: bytes) -> list[int]:
        """Merge the earliest-learned neighbouring pair, the leftmost first, until none is left.

        The tokens are a linked list, the mergeable pairs a heap: n log n for a piece of n bytes.
        """
        n = len(piece)
        ids = [_BYTE_ID[byte] for byte in piece]
        before, after = list(range(-1, n - 1)), list(range(1, n + 1))
        pairs = enumerate(pairwise(ids))
        heap = [(self.merges[pair], left) for left, pair in pairs if pair in self.merges]
        heapq.heapify(heap)
        while heap:
            merged, left = heapq.heappop(heap)
            right = after[left]
            if right == n or self.merges.get((ids[left], ids[right])) != merged:
                continue  # one of the two was merged with another neighbour meanwhile
            ids[left], ids[right] = merged, -1
            after[left] = following = after[right]
            if following < n:
                before[following] = left
            for a, b in (before[left], left), (left, following):
                if a >= 0 and b < n and (ids[a], ids[b]) in self.merges:
                    heapq.heappush(heap, (self.merges[ids[a], ids[b]], a))
        return [i for i in ids if i >= 0]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learn merges from `texts` until there are `vocab_size` ids, bytes and end included.

        Each step merges the most frequent pair; of equally frequent ones the smallest ids. Warns
        and stops early when every piece is one token. Pieces are counted once, not each time.
        """
        if vocab_size < 257:
            raise ValueError(f"vocab_size={vocab_size}; the 256 bytes and the end need 257.")
        pieces = Counter(piece for text in texts for piece in PIECE.findall(text))
        words = [[_BYTE_ID[byte] for byte in _utf8(piece)] for piece in pieces]
        counts = list(pieces.values())
        total: Counter[Pair] = Counter()  # how often a pair stands in the texts
        where: defaultdict[Pair, set[int]] = defaultdict(set)  # and in which words
        for i, word in enumerate(words):
            for pair in pairwise(word):
                total[pair] += counts[i]
                where[pair].add(i)

        merges: list[Pair] = []
        while 257 + len(merges) < vocab_size:
            if not total:
                warnings.warn(
                    f"No pair is left to merge: the vocabulary has {257 + len(merges)} ids, "
                    f"not {vocab_size}. Give more text or a smaller vocab_size.",
                    stacklevel=2,
                )
                break
            best = min(total, key=lambda pair: (-total[pair], pair))
            for i in where.pop(best):
                for pair in pairwise(words[i]):
                    total[pair] -= counts[i]
                    if not total[pair]:
                        del total[pair]
                words[i] = _replace(words[i], best, 256 + len(merges))
                for pair in pairwise(words[i]):
                    total[pair] += counts[i]
                    where[pair].add(i)
            merges.append(best)
        return cls(merges)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`: the merges, one a line, in GPT-2's visible letters."""
        letters = _letters(self.merges)
        content = {
            "kind": KIND,
            "n_vocab": self.n_vocab,
            "merges": [f"{letters[first]} {letters[second]}" for first, second in self.merges],
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
        """
        encoder, merges = _find_gpt2_files(folder)
        _version, *lines = merges.read_text("utf-8").rstrip("\n").split("\n")
        tokenizer = cls(_parse_merges(lines, merges))
        expected = {letters: i for i, letters in enumerate(_letters(tokenizer.merges))}
        if _read_json(encoder) != {**expected, END: tokenizer.end}:
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
        _utf8(text)  # tiktoken turns lone surrogates into U+FFFD without a word
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


def _find_gpt2_files(folder: str | Path | None) -> tuple[Path, Path]:
    if folder is not None:
        folders = [Path(folder)]
    else:
        cache = os.environ.get("GPT2_SCRATCH_CACHE") or "~/.cache/gpt2-scratch"
        folders = [Path(cache).expanduser() / "gpt2-vocab"]
        if tiktoken_cache := os.environ.get("TIKTOKEN_CACHE_DIR"):
            folders.insert(0, Path(tiktoken_cache).expanduser())
    for place in folders:
        for names in ("encoder.json", "vocab.bpe"), _TIKTOKEN_NAMES:
            encoder, merges = (place / name for name in names)
            if encoder.is_file() and merges.is_file():
                return encoder, merges
    raise FileNotFoundError(
        f"{' and '.join(map(str, folders))} hold no GPT-2 vocabulary (encoder.json and vocab.bpe). "
        "Put the two files there, or set TIKTOKEN_CACHE_DIR to tiktoken's cache."
    )


def _letters(merges: Iterable[Pair]) -> list[str]:
    """Each id but the end token in GPT-2's visible letters."""
    letters = list(_LETTER)
    for first, second in merges:
        letters.append(letters[first] + letters[second])
    return letters


def _parse_merges(lines: Sequence[str], path: Path) -> list[Pair]:
    """`"Ġ t"` -> the pair of ids, for each line; both halves must have been made before."""
    known = {letter: i for i, letter in enumerate(_LETTER)}
    merges: list[Pair] = []
    for line in lines:
        first, _, second = str(line).partition(" ")
        if first not in known or second not in known or first + second in known:
            raise ValueError(
                f"{path}: merge {len(merges) + 1} is {line!r}. Wanted two tokens that earlier "
                "merges make, which together are a new one. The file is damaged: get it again."
            )
        merges.append((known[first], known[second]))
        known[first + second] = len(known)
    return merges


def _replace(word: list[int], pair: Pair, merged: int) -> list[int]:
    """`word` with `merged` for each `pair`, from the left."""
    out: list[int] = []
    for i in word:
        if out and (out[-1], i) == pair:
            out[-1] = merged
        else:
            out.append(i)
    return out


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). Get the file again.") from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        lone = text[error.start]
        raise ValueError(
            f"The text holds {lone!r}, half of a surrogate pair, which is no character. "
            'Clean it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
        ) from error


def _check_ids(ids: Sequence[int], n_vocab: int) -> None:
    for i in ids:
        if not 0 <= i < n_vocab:
            raise ValueError(f"Id {i} is no token: this vocabulary has the ids 0 to {n_vocab - 1}.")
