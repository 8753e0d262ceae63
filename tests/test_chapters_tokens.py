"""Chapter 1: its oracles equal OpenAI's program; mistakes that it does not list are located."""

import importlib
import textwrap
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from chapters.ch01_bytes_to_tokens import judges
from chapters.ch01_bytes_to_tokens.experiment import EXPERIMENT, measure
from chapters.ch01_bytes_to_tokens.verdict import TEXT
from chapters.runner import swap
from chapters.runner.catalog import find
from chapters.runner.judge import judge
from chapters.runner.outcome import Outcome
from gpt2_scratch import bpe as package
from gpt2_scratch.tokenizer import BPETokenizer

NONE: dict[str, Any] = {"knobs": frozenset(), "steps": {}}
# what Python and tiktoken agree on; Unicode grows, and they know different versions of it
PLAIN = st.text(
    st.sampled_from("'sStrvemlLdD 19\n\t\u3000éß日本\u043f½²٣🙂.,_-<|>!\u2019\u0301\xa0"),
    max_size=30,
)


def oracle(name):
    return importlib.import_module(f"chapters.ch01_bytes_to_tokens.exercises.{name}").reference


def pieces_of_tiktoken(text: str) -> list[str]:
    """tiktoken's cut: in a vocabulary of all substrings each piece becomes one token."""
    whole = text.encode()
    parts = {whole[i:j] for i in range(len(whole)) for j in range(i + 1, len(whole) + 1)}
    single = {bytes([byte]) for byte in range(256)}
    tokens = sorted(single) + sorted(parts - single, key=lambda part: (len(part), part))
    encoding = tiktoken.Encoding(
        "substrings",
        pat_str=judges.PATTERN,
        mergeable_ranks={token: i for i, token in enumerate(tokens)},
        special_tokens={},
    )
    return [tokens[i].decode() for i in encoding.encode_ordinary(text)]


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_pieces_are_those_of_tiktoken(text):
    wanted = pieces_of_tiktoken(text)
    assert oracle("pretokenize")(text, **NONE) == wanted
    assert package.pretokenize(text) == wanted


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_ids_are_those_of_tiktoken_with_the_merges_that_ship(text):
    merges = judges.scenes()
    theirs = judges.tiktoken_with(merges)
    ids = theirs.encode_ordinary(text)
    given_back = theirs.decode(ids[1:], errors="replace")
    assert oracle("Codec")(merges, text, ids[1:], **NONE) == {"encode": ids, "decode": given_back}


def test_merges_are_read_as_the_package_reads_them():
    folder = judges.embedded("scenes") / "language-model"
    assert judges.scenes() == BPETokenizer.load(folder).merges
    assert judges.byte_order() == list(package.bytes_to_unicode())


def test_the_story_is_the_one_that_others_count_in(shared, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    assert len(TEXT.encode()) == 20479
    assert len(BPETokenizer.gpt2().encode(TEXT)) == 5145
    judges.published.cache_clear()
    assert len(judges.published()) == 50000
    judges.published.cache_clear()


def test_the_experiment_measures_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    judges.published.cache_clear()
    number, lines = measure(lambda name: getattr(package, name))
    judges.published.cache_clear()
    assert EXPERIMENT.band[0] <= number <= EXPERIMENT.band[1]
    assert len(lines) == 5  # without GPT-2's merges


BPE = """
    def bpe(piece, ranks):
        tokens = [bytes([byte]) for byte in piece]
        while True:
            known = [pair for pair in pairwise(tokens) if pair in ranks]
            if not known:
                return tokens
            best = min(known, key=lambda pair: ranks[pair])
            joined, i = [], 0
            while i < len(tokens):
                if tuple(tokens[i : i + 2]) == best:
                    joined.append(best[0] + best[1])
                    i += 2
                else:
                    joined.append(tokens[i])
                    i += 1
            tokens = joined
"""
CODEC = """
    class Codec:
        def __init__(self, merges):
            self.tokens = [bytes([byte]) for byte in bytes_to_unicode()]
            self.tokens += [first + second for first, second in merges]
            self.ids = {token: i for i, token in enumerate(self.tokens)}
            self.ranks = {pair: i for i, pair in enumerate(merges)}
            self.tokens.append(END.encode())

        def encode(self, text):
            ids = []
            for piece in pretokenize(text):
                for token in bpe(piece.encode(), self.ranks):
                    ids.append(self.ids[token])
            return ids

        def decode(self, ids):
            whole = b"".join(self.tokens[i] for i in ids)
            return whole.decode(errors="replace")
"""
TRAIN = """
    def train_bpe(texts, n):
        found = Counter(piece for text in texts for piece in pretokenize(text))
        words = {piece: [bytes([byte]) for byte in piece.encode()] for piece in found}
        age = {bytes([byte]): i for i, byte in enumerate(bytes_to_unicode())}
        merges = []
        while len(merges) < n:
            counts = Counter()
            for piece, word in words.items():
                for pair in pairwise(word):
                    counts[pair] += found[piece]
            if not counts:
                break
            best = min(counts, key=lambda pair: (-counts[pair], age[pair[0]], age[pair[1]]))
            merges.append(best)
            age[best[0] + best[1]] = len(age)
            ranks = {pair: i for i, pair in enumerate(merges)}
            words = {piece: bpe(piece.encode(), ranks) for piece in words}
        return merges
"""
HEAD = """
from collections import Counter
from itertools import pairwise
import regex
from gpt2_scratch.bpe import END, bpe, bytes_to_unicode, pretokenize
"""
# what is changed in a right answer, into what, and what the report must say of where
UNLISTED = [
    ("bpe", BPE, "best[0] + best[1])", "best[1] + best[0])", "`joined.append(best[1] + best[0])`"),
    ("bpe", BPE, "i += 2", "i += 3", "the tokens after the merge of b'l' and b'o', does not"),
    ("bpe", BPE, "if not known", "if len(known) < 2", "`return tokens`"),
    ("Codec", CODEC, "piece.encode(), s", "piece.strip().encode(), s", "token is b'the', piece is"),
    ("Codec", CODEC, "return ids", "return sorted(ids)", "`return sorted(ids)`"),
    ("Codec", CODEC, "in ids)", "in reversed(ids))", "whole is b' red the'"),
    ("Codec", CODEC, '"replace"', '"xmlcharrefreplace"', "`return whole.decode"),
    ("Codec", CODEC, "ids.append(self.ids[token])", "ids.append(len(token))", "`ids.append(len("),
    (
        "train_bpe",
        TRAIN,
        "+= found[piece]",
        "+= len(word)",
        "counts of all pairs for merge 2, does",
    ),
    ("train_bpe", TRAIN, "in pairwise(word)", "in pairwise(word[1:])", "pairs for merge 2, does"),
    ("train_bpe", TRAIN, "(-counts[pair], ", "(-counts[pair] // 2, ", "left it in `best`"),
]


@pytest.mark.parametrize(("name", "right", "old", "new", "phrase"), UNLISTED)
def test_where_a_mistake_is_that_nobody_listed(name, right, old, new, phrase, tmp_path):
    assert right.count(old) == 1
    outcome = report(name, right.replace(old, new), tmp_path)
    assert outcome.verdict in ("wrong", "raised") and not outcome.knobs, outcome
    assert any(phrase in each for each in outcome.where), outcome.where


@pytest.mark.parametrize(("name", "text"), [("bpe", BPE), ("Codec", CODEC), ("train_bpe", TRAIN)])
def test_what_those_mistakes_are_planted_in_is_right(name, text, tmp_path):
    assert report(name, text, tmp_path).verdict == "right"


def test_what_the_module_re_says_is_explained(tmp_path):
    text = "import re\n\ndef pretokenize(text):\n    return re.findall(r' ?\\p{L}+', text)\n"
    outcome = report("pretokenize", text, tmp_path)
    assert outcome.verdict == "raised" and "doesn't know \\p{L}" in outcome.says[1]


def test_of_two_answers_the_wrong_one_is_pointed_at(tmp_path):
    """`decode` comes last, and is right."""
    outcome = report("Codec", CODEC.replace("return ids", "return tuple(ids), 1"), tmp_path)
    assert "`return tuple(ids), 1`" in outcome.where[-1], outcome.where


def test_a_table_says_which_key_came_out_wrong(tmp_path):
    text = """
        def bytes_to_unicode():
            table, n = {}, 0
            for byte in range(33, 256):
                if chr(byte).isalnum():
                    table[byte] = chr(byte)
            for byte in range(256):
                if byte not in table:
                    table[byte] = chr(256 + n)
                    n += 1
            return table
    """
    outcome = report("bytes_to_unicode", text, tmp_path)
    assert "`table[byte] = chr(256 + n)`, puts 'ġ' under 33, where '!'" in outcome.where[-1]
    assert "(byte is 33, n is 33)" in outcome.where[-1]


def report(name, text, folder):
    entry = find(name)
    path = folder / f"{name}.py"
    path.write_text(HEAD + textwrap.dedent(text))
    answer = getattr(swap.load(path, path.read_text(), f"answer_{name}"), name)
    return judge(entry.load(), answer, Outcome(entry.id, entry.name, file=str(path)))
