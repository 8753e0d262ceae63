"""GPT-2's byte-pair encoding by hand: from text to token ids and back, and how merges are learned.

Every text becomes pieces (about a word each) that no token crosses, and a piece its UTF-8 bytes.
Inside a piece, neighbouring tokens are merged, the earliest-learned pair first, until none is left.
Ids: 0..255 the bytes, then one for each merge in the order learned, last the end token.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import regex

END = "<|endoftext|>"


def bytes_to_unicode() -> dict[int, str]:
    """Each of the 256 bytes -> a visible character of its own; the keys are in the order of ids.

    First the bytes that are visible Latin-1 characters, as themselves; then the others, in order,
    as the characters from 256 on. In GPT-2's files a space is "Ġ", and "!" has the id 0.
    """
    visible = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(others)}


def pretokenize(text: str) -> list[str]:
    """`text` cut into GPT-2's pieces, about a word each; joined again they are the text.

    From each place the first of these that fits: 's 't 're 've 'm 'll 'd | letters | numbers |
    other visible characters, these three with one space before them if there is one | white
    space, as much as there is, but its last character is left to a piece that follows it.
    """
    pattern = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    pieces: list[str] = regex.findall(pattern, text)
    return pieces


def bpe(piece: bytes, ranks: Mapping[tuple[bytes, bytes], int]) -> list[bytes]:
    """The tokens of one piece: single bytes, then the two neighbours of lowest rank are joined,
    the leftmost first, again and again until no two neighbours have a rank.
    """
    n = len(piece)
    tokens = [bytes([byte]) for byte in piece]
    # A linked list of tokens and a heap of pairs: n log n for a piece of n bytes.
    before, after = [i - 1 for i in range(n)], [i + 1 for i in range(n)]
    heap = [(ranks[pair], left) for left, pair in enumerate(pairwise(tokens)) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        rank, left = heapq.heappop(heap)
        right = after[left]
        if right == n or ranks.get((tokens[left], tokens[right])) != rank:
            continue  # one of the two was joined with another neighbour meanwhile
        tokens[left], tokens[right] = tokens[left] + tokens[right], b""
        after[left] = following = after[right]
        if following < n:
            before[following] = left
        for a, b in (before[left], left), (left, following):
            if a >= 0 and b < n and (tokens[a], tokens[b]) in ranks:
                heapq.heappush(heap, (ranks[tokens[a], tokens[b]], a))
    return [token for token in tokens if token]


def train_bpe(texts: Iterable[str], n: int) -> list[tuple[bytes, bytes]]:
    """The first `n` merges to learn from `texts`, fewer where every piece is one token by then.

    Each is the pair of neighbours that is most frequent in the pieces as merged so far; of equally
    frequent ones the one whose first token is older, then whose second is. Bytes are the oldest,
    in the order of `bytes_to_unicode`, then the tokens in the order in which they were made.
    """
    counted = Counter(piece for text in texts for piece in pretokenize(text))
    pieces, times = [piece.encode() for piece in counted], list(counted.values())
    words = [[bytes([byte]) for byte in piece] for piece in pieces]
    total: Counter[tuple[bytes, bytes]] = Counter()  # how often a pair stands in the texts
    where: defaultdict[tuple[bytes, bytes], set[int]] = defaultdict(set)  # and in which words
    for i, word in enumerate(words):
        for pair in pairwise(word):
            total[pair] += times[i]
            where[pair].add(i)
    age = {bytes([byte]): i for i, byte in enumerate(bytes_to_unicode())}
    ranks: dict[tuple[bytes, bytes], int] = {}
    while total and len(ranks) < n:
        best = min(total, key=lambda pair: (-total[pair], age[pair[0]], age[pair[1]]))
        ranks[best] = len(ranks)
        age[best[0] + best[1]] = len(age)
        for i in where.pop(best):  # no other word changes
            for pair in pairwise(words[i]):
                total[pair] -= times[i]
                if not total[pair]:
                    del total[pair]
            words[i] = bpe(pieces[i], ranks)
            for pair in pairwise(words[i]):
                total[pair] += times[i]
                where[pair].add(i)
    return list(ranks)


class Codec:
    """Text to ids and back by `merges`, in the order in which they were learned.

    Ids: the 256 bytes in the order of `bytes_to_unicode`, a token for each merge, the end token.
    """

    def __init__(self, merges: Sequence[tuple[bytes, bytes]]) -> None:
        self.tokens = [bytes([byte]) for byte in bytes_to_unicode()]  # id -> its bytes
        self.tokens += [first + second for first, second in merges]
        self.ids = {token: i for i, token in enumerate(self.tokens)}  # the other way
        self.ranks = {pair: i for i, pair in enumerate(merges)}
        self.end = len(self.tokens)
        self.tokens.append(END.encode())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; `<|endoftext|>` in it is ordinary text, never the end token."""
        found = [bpe(piece.encode(), self.ranks) for piece in pretokenize(text)]
        return [self.ids[token] for tokens in found for token in tokens]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no whole character (a cut emoji) become U+FFFD."""
        return b"".join([self.tokens[i] for i in ids]).decode(errors="replace")
