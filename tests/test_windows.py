"""From files to windows of tokens: what is read, what is held back, what each epoch reads."""

import io
import itertools
import os
from types import SimpleNamespace

import pytest
import torch

from gpt2_scratch.tokenizer import BPETokenizer
from gpt2_scratch.training import text
from gpt2_scratch.training.text import (
    encode,
    held_out_windows,
    part_corpus,
    read_texts,
    windows,
)

BYTES = BPETokenizer([])  # a token a byte, 256 the end


# ---- reading -------------------------------------------------------------------------------------


def test_files_folders_and_the_standard_input(tmp_path, monkeypatch):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.txt").write_text("second")
    (tmp_path / "in" / "a.md").write_text("first")
    (tmp_path / "in" / "deep" / "c.txt").write_text("third")
    (tmp_path / "in" / ".hidden").write_text("never")
    (tmp_path / "in" / ".git").mkdir()
    (tmp_path / "in" / ".git" / "x").write_text("never")
    (tmp_path / "in" / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10")
    (tmp_path / "in" / "empty.txt").write_text(" \n")
    (tmp_path / "one.txt").write_text("named")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"piped")))
    texts = read_texts([tmp_path / "one.txt", str(tmp_path / "in"), "-"])
    assert texts.documents == ["named", "first", "second", "third", "piped"]
    assert len(texts.skipped) == 2
    assert "empty.txt is empty" in texts.skipped[0] and "photo.jpg is no text" in texts.skipped[1]
    inside = read_texts(
        [tmp_path / "in"], without=tmp_path / "in" / "deep"
    )  # a run among its texts
    assert inside.documents == ["first", "second"]


def test_documents_end_at_the_end_token_and_lines_in_plain_newlines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo\n<|endoftext|>\n\n<|endoftext|>\nthree\rfour\n".encode())
    assert read_texts([path]).documents == ["one\ntwo", "three\nfour"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"abc\0def", "holds zero bytes"),
        ("caf\u00e9".encode("latin-1"), "is no UTF-8: byte 3 is 0xe9"),
        ("text".encode("utf-16"), "is no text in UTF-8"),
    ],
)
def test_what_is_no_text_speaks(tmp_path, content, match):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match):
        read_texts([path])
    with pytest.raises(ValueError, match=r"There is no text in .*" + match.partition(":")[0]):
        read_texts([tmp_path])


def test_a_path_that_is_not_there_speaks(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_texts([tmp_path / "none"])
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        read_texts(["/dev/zero"])
    with pytest.raises(ValueError, match="no text in nothing"):
        read_texts([])


def test_a_pipe_is_read(tmp_path):
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    assert read_texts([f"/dev/fd/{read}"]).documents == ["through a pipe"]
    os.close(read)


def test_a_text_encoded_in_chunks_has_the_same_tokens(monkeypatch):
    words = (
        "In this image,  we can't see 12 dogs;\n\n  and\tone cat \u00e9\u00e8 \U0001f600 . " * 20
    )
    tokenizer = BPETokenizer.train([words], 290)
    whole = tokenizer.encode(words)
    for size in (1, 7, 50):
        monkeypatch.setattr(text, "CHUNK", size)
        assert list(encode(tokenizer, words)) == whole


# ---- held out ------------------------------------------------------------------------------------


def decode(ids):
    return "".join("|" if i == BYTES.end else BYTES.decode([i]) for i in ids.tolist())


def test_of_few_documents_the_end_of_each_is_held_back():
    corpus = part_corpus(BYTES, ["abcdefghij", "0123456789" * 2], 0.2, seed=0)
    assert decode(corpus.training) == "|abcdefgh|0123456789012345"
    assert decode(corpus.held_out) == "|ij|6789"
    assert corpus.split == "the last 20% of each of 2 documents"
    assert part_corpus(BYTES, ["abcdefghij"], 0.1, 0).split == "the last 10% of the text"


def test_of_many_documents_whole_ones_are_held_back():
    documents = [f"<{i:02}>" for i in range(30)]
    corpus = part_corpus(BYTES, documents, 0.2, seed=0)
    kept, back = (set(decode(ids).split("|")[1:]) for ids in (corpus.training, corpus.held_out))
    assert len(back) == 6 and kept | back == set(documents) and not kept & back
    assert corpus.split == "6 of 30 documents"
    other = part_corpus(BYTES, documents, 0.2, seed=1)
    assert not torch.equal(other.held_out, corpus.held_out)
    assert torch.equal(part_corpus(BYTES, documents, 0.2, seed=0).held_out, corpus.held_out)


def test_one_huge_document_among_many_never_takes_them_all():
    corpus = part_corpus(BYTES, ["x" * 10_000, *"abcdefghijk"], 0.99, seed=3)
    assert len(corpus.training) and len(corpus.held_out)


def test_nothing_held_out():
    corpus = part_corpus(BYTES, ["abc"] * 12, 0.0, seed=0)
    assert len(corpus.training) == 48 and not len(corpus.held_out)


# ---- windows -------------------------------------------------------------------------------------


def epoch(ids, length, number, rows=1):
    each = len(ids) // length
    batches = windows(ids, length, rows, 5, number * each // rows)
    return torch.cat(list(itertools.islice(batches, each // rows)))


def test_an_epoch_reads_every_token_once_in_another_order_each_time():
    ids = torch.arange(60, dtype=torch.int32)
    first, second = epoch(ids, 6, 0), epoch(ids, 6, 1)
    for read in (first, second):
        assert read.shape == (10, 7) and read.dtype == torch.int64
        assert sorted(read[:, 1:].flatten().tolist()) == list(range(60))  # predicted once
        assert torch.equal((read[:, :-1] + 1) % 60, read[:, 1:])  # in the text's order, a ring
    assert not torch.equal(first, second)
    assert first[:, 0].min() % 6 != second[:, 0].min() % 6  # other borders
    assert first[:, 0].tolist() != sorted(first[:, 0].tolist())


def test_what_does_not_fill_a_window_is_left_out_elsewhere_each_time():
    ids = torch.arange(65, dtype=torch.int32)
    left = [set(range(65)) - set(epoch(ids, 6, n)[:, 1:].flatten().tolist()) for n in range(4)]
    assert all(len(out) == 5 for out in left) and len(set(map(frozenset, left))) > 1


def test_batches_are_numbered_across_epochs_and_however_many_rows_they_have():
    ids = torch.arange(60, dtype=torch.int32)
    rows = torch.cat(list(itertools.islice(windows(ids, 6, 1, 5, 0), 36)))
    by_four = torch.cat(list(itertools.islice(windows(ids, 6, 4, 5, 0), 9)))
    assert torch.equal(rows, by_four)
    later = next(windows(ids, 6, 4, 5, 7))
    assert torch.equal(later, rows[28:32])
    assert not torch.equal(next(windows(ids, 6, 4, 6, 7)), later)  # another seed


def test_too_little_text_speaks():
    with pytest.raises(ValueError, match="has 9 tokens, wanted at least 10: one window"):
        next(windows(torch.arange(9), 10, 1, 0, 0))
    assert next(windows(torch.arange(10), 10, 2, 0, 0)).shape == (2, 11)


def test_held_out_windows_predict_each_token_once():
    ids = torch.arange(45, dtype=torch.int32)
    batches = list(held_out_windows(ids, 10, rows=3, most=99))
    assert [tuple(batch.shape) for batch in batches] == [(3, 11), (1, 11), (1, 5)]
    predicted = torch.cat([batch[:, 1:].flatten() for batch in batches]).tolist()
    assert predicted == list(range(1, 45))
    few = list(held_out_windows(ids, 10, rows=3, most=2))
    assert torch.cat(few)[:, 0].tolist() == [0, 20]
