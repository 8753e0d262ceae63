"""The hand-written BPE: equal to OpenAI's and tiktoken's on every text, round trips, training."""

import json
import os
import threading
import time

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2_scratch.bpe import Codec, pretokenize
from gpt2_scratch.layouts import load_tokenizer
from gpt2_scratch.tokenizer import BPETokenizer, _letters, gpt2_tokenizer

NASTY = [
    "",
    " ",
    "I'm you're he's we've they'll I'd don't, y'all'd've; 'tis ''quoted'' DON'T",
    "🙂🙃 👩‍👩‍👧 🏳️‍🌈 🇯🇵 e\u0301 \u200b\u00a0\u3000x",
    "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
    "   leading,   inner    and trailing   ",
    "\n\n\n\t\t \t\n  x \r\n\r\n y\x0b\x0c\x1c\x85\u2028z ",
    " " * 300 + "x" + " " * 300,
    "<|endoftext|>",
    "a<|endoftext|><|endoftext|> b <|endoftext |>",
    "1234567890 ½ ² Ⅷ ١٢٣ 12km x1y2",
    "\x00\x01\x7f\x80\xad\xff\ufffd\ufffe\U0010ffff",
    "snake_case camelCase kebab-case http://a.b/c?d=e&f#g {[(<>)]} ...!!!???",
    "ΑΒΓ Привет שלום العربية ไทย हिन्दी 한국어",
    "bookkeeper " * 50,
    "=" * 100 + "-" * 99,
]
# any text, and text of the characters on which the cut into pieces turns
# (letters from U+3D000 on are so new that regex may know them and tiktoken not yet)
TEXTS = st.text(st.characters(codec="utf-8", max_codepoint=0x3CFFF)) | st.text(
    st.sampled_from("'sStrvemld 1٣\n\t\u3000é日🙂.,_-<|>"), max_size=40
)


@pytest.fixture(scope="module")
def gpt2(shared) -> BPETokenizer:
    return BPETokenizer.gpt2(shared / "tiktoken_cache")


@pytest.fixture(scope="module")
def reference(shared) -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
        return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    texts = ["In this image we can see a small red circle and two large blue squares.", "naïve 日"]
    return BPETokenizer.train(texts * 3, 290)


# --- GPT-2's vocabulary


def test_equals_openais_encoder(gpt2, shared):
    cases = json.loads((shared / "oracle" / "tiny-b" / "bpe_cases.json").read_text("utf-8"))
    assert len(cases) == 40
    for case in cases:
        assert gpt2.encode(case["text"]) == case["ids"]
        assert gpt2.decode(case["ids"]) == case["text"]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_equals_tiktoken_on_nasty_texts(gpt2, reference, text):
    ids = reference.encode_ordinary(text)
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


@settings(max_examples=500)
@given(TEXTS)
def test_equals_tiktoken_on_any_text(gpt2, reference, text):
    assert gpt2.encode(text) == reference.encode_ordinary(text)


@given(st.lists(st.integers(0, 50256), max_size=20))
def test_decodes_as_tiktoken_even_what_is_no_character(gpt2, reference, ids):
    assert gpt2.decode(ids) == reference.decode(ids, errors="replace")


@pytest.mark.parametrize("end", [0x1000, pytest.param(0x33480, marks=pytest.mark.slow)])
def test_every_character_equals_tiktoken(gpt2, reference, end):
    """Between letters, digits, signs and spaces: both know the same Unicode classes."""
    for start in range(0, end, 64):
        characters = [chr(i) for i in range(start, start + 64) if not 0xD800 <= i < 0xE000]
        text = "".join(f"x{c}x 1{c}1 !{c}! {c}  {c}" for c in characters)
        assert gpt2.encode(text) == reference.encode_ordinary(text), f"from U+{start:04X}"


def test_sizes_of_gpt2(gpt2, reference):
    assert gpt2.end == reference.eot_token == 50256
    assert gpt2.n_vocab == len(gpt2) == 50257
    assert gpt2.decode([gpt2.end]) == "<|endoftext|>"
    assert gpt2.end not in gpt2.encode("<|endoftext|>")


def test_tiktoken_behind_the_same_interface(gpt2, shared, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    theirs = gpt2_tokenizer()
    assert (theirs.end, theirs.n_vocab, len(theirs)) == (50256, 50257, 50257)
    for text in NASTY:
        assert theirs.encode(text) == gpt2.encode(text)
        assert theirs.decode(theirs.encode(text)) == text
    for tokenizer in (gpt2, theirs):
        with pytest.raises(ValueError, match="surrogate"):
            tokenizer.encode("a\ud83d")
        with pytest.raises(ValueError, match="Id 50257 is no token"):
            tokenizer.decode([50257])


def test_gpt2_is_found_in_each_place(shared, tmp_path, monkeypatch):
    cache, vocabulary = shared / "tiktoken_cache", tmp_path / "cache" / "gpt2-vocab"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    expected = BPETokenizer.gpt2().merges
    vocabulary.mkdir(parents=True)
    (vocabulary / "encoder.json").symlink_to(cache / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    (vocabulary / "vocab.bpe").symlink_to(cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert BPETokenizer.gpt2().merges == expected
    assert BPETokenizer.gpt2(vocabulary).merges == expected
    theirs = tmp_path / "theirs"  # the same files as Hugging Face calls them
    theirs.mkdir()
    (theirs / "vocab.json").symlink_to(cache / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    (theirs / "merges.txt").symlink_to(cache / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    assert BPETokenizer.gpt2(theirs).merges == expected
    assert load_tokenizer(theirs, 50257).encode(" the") == [262]


def test_without_a_vocabulary_the_error_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "one"))
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "two"))
    with pytest.raises(FileNotFoundError, match=r"encoder\.json.*TIKTOKEN_CACHE_DIR") as error:
        BPETokenizer.gpt2()
    assert str(tmp_path / "one") in str(error.value)
    assert "Run: python -m weights fetch gpt2-vocab" in str(error.value)
    assert str(tmp_path / "two" / "gpt2-vocab") in str(error.value)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        BPETokenizer.gpt2(tmp_path / "elsewhere")


def test_tiktoken_without_a_network_says_what_to_set(monkeypatch):
    def unreachable(name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(FileNotFoundError, match=r"ConnectionError.*TIKTOKEN_CACHE_DIR"):
        gpt2_tokenizer()


def test_tiktoken_with_a_silent_network_gives_up(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: never.wait())
    with pytest.raises(FileNotFoundError, match=r"no answer in 0\.05 seconds.*TIKTOKEN_CACHE_DIR"):
        gpt2_tokenizer(timeout=0.05)
    never.set()


def test_files_of_two_vocabularies_are_refused(tmp_path):
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nĠ t\n", "utf-8")
    (tmp_path / "encoder.json").write_text('{"a": 0}', "utf-8")
    with pytest.raises(ValueError, match="not of one vocabulary"):
        BPETokenizer.gpt2(tmp_path)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nĠt h\n", "utf-8")
    with pytest.raises(ValueError, match="merge 1 is 'Ġt h'"):
        BPETokenizer.gpt2(tmp_path)
    (tmp_path / "vocab.bpe").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"vocab\.bpe is no UTF-8"):
        BPETokenizer.gpt2(tmp_path)


def test_a_merges_file_needs_no_line_of_a_version(trained, tmp_path):
    letters = json.loads(_saved(trained, tmp_path).read_text("utf-8"))["merges"]
    ids = {each: i for i, each in enumerate(_letters(trained.tokens))}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), "utf-8")
    for head in ("", "#version: 0.2\n"):
        (tmp_path / "merges.txt").write_text(head + "\n".join(letters) + "\n", "utf-8")
        assert BPETokenizer.gpt2(tmp_path).merges == trained.merges


def _saved(tokenizer, folder):
    tokenizer.save(folder)
    return folder / "tokenizer.json"


# --- any vocabulary


@settings(max_examples=300)
@given(TEXTS)
def test_remembering_pieces_changes_nothing(trained, text):
    assert trained.encode(text) == Codec(trained.merges).encode(text)
    assert all(pretokenize(piece) == [piece] for piece in pretokenize(text))


@settings(max_examples=300)
@given(TEXTS)
@example("日🙂" + "\U0010ffff" * 3)
def test_every_text_comes_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert all(0 <= i < trained.end for i in ids)


def test_bytes_that_are_no_character_are_replaced(trained):
    first_byte, *_ = trained.encode("🙂")
    assert trained.decode([first_byte]) == "\ufffd"


@pytest.mark.parametrize("i", [-1, 290, 10**9])
def test_unknown_ids_are_refused(trained, i):
    with pytest.raises(ValueError, match=f"Id {i} is no token.*0 to 289"):
        trained.decode([0, i])


@pytest.mark.parametrize("text", ["\ud83d", "ok \udc00 ok", "\ud83d\ude42"])
def test_surrogates_are_refused(trained, text):
    with pytest.raises(ValueError, match="surrogate"):
        trained.encode(text)


def test_long_runs_take_a_moment(trained):
    tokenizer = BPETokenizer.train(["a" * 64 + " " + "ab" * 64], 270)
    for text in ("a" * 50_000, "ab" * 25_000):
        started = time.process_time()
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert time.process_time() - started < 5  # 0.2 s here; quadratic takes minutes


def test_the_cache_of_pieces_neither_grows_for_ever_nor_leaks(trained, monkeypatch):
    monkeypatch.setattr("gpt2_scratch.tokenizer._CACHED_PIECES", 10)
    for i in range(100):
        trained.encode(f"word{i} and")
    assert len(trained._cache) <= 10
    trained.encode("red").append(7)  # the caller's list is the caller's
    assert 7 not in trained.encode("red")


# --- training


def naive_training(words: list[str], merges: int) -> list[tuple[bytes, bytes]]:
    """BPE by its definition, counting everything again each time; ties as in GPT-2's alphabet."""
    rank = [b for b in range(256) if chr(b).isprintable() and b != 32]
    rank += [b for b in range(256) if b not in rank]
    order = {bytes([b]): i for i, b in enumerate(rank)}
    splits = [[bytes([b]) for b in word.encode()] for word in words]
    learned = []
    for step in range(merges):
        counts: dict[tuple[bytes, bytes], int] = {}
        for split in splits:
            for i in range(len(split) - 1):
                pair = split[i], split[i + 1]
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        pair = min(counts, key=lambda p: (-counts[p], order[p[0]], order[p[1]]))
        order[pair[0] + pair[1]] = 256 + step
        learned.append(pair)
        for split in splits:
            i = 0
            while i < len(split) - 1:
                if (split[i], split[i + 1]) == pair:
                    split[i : i + 2] = [pair[0] + pair[1]]
                i += 1
    return learned


@pytest.mark.filterwarnings("ignore:No pair is left")
@given(st.lists(st.text("abcé", min_size=1, max_size=9), min_size=1, max_size=12))
def test_training_is_the_textbook_algorithm(words):
    texts = [f" {word}" for word in words]
    tokenizer = BPETokenizer.train(texts, 257 + 12)
    assert tokenizer.merges == naive_training(texts, 12)


def test_training_has_the_size_asked_for_and_merges_the_frequent(trained):
    assert trained.n_vocab == 290
    assert trained.end == 289
    tokenizer = BPETokenizer.train(["low low low lower lowest"], 257 + 3)
    assert [tokenizer.decode([i]) for i in (256, 257, 258)] == ["lo", "low", " low"]
    assert tokenizer.encode("low low") == [257, 258]


def test_training_never_learns_the_end_token_from_text(trained):
    tokenizer = BPETokenizer.train(["<|endoftext|>" * 20], 257 + 11)
    assert tokenizer.end not in tokenizer.encode("<|endoftext|>")


def test_training_stops_early_with_a_warning_when_no_pair_is_left():
    with pytest.warns(UserWarning, match="has 258 ids, not 300"):
        tokenizer = BPETokenizer.train(["ab"], 300)
    assert tokenizer.n_vocab == 258
    with pytest.warns(UserWarning, match="has 257 ids"):
        assert BPETokenizer.train([], 258).encode("é") == [127, 102]


def test_training_needs_room_for_the_bytes_and_the_end():
    assert BPETokenizer.train(["abc"], 257).n_vocab == 257
    with pytest.raises(ValueError, match="vocab_size=256"):
        BPETokenizer.train(["abc"], 256)


# --- files


def test_saved_and_loaded_it_is_the_same(trained, tmp_path):
    trained.save(tmp_path / "new" / "folder")
    loaded = BPETokenizer.load(tmp_path / "new" / "folder")
    assert (loaded.merges, loaded.end) == (trained.merges, trained.end)
    for text in NASTY:
        assert loaded.encode(text) == trained.encode(text)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer.json"]


def test_gpt2s_vocabulary_survives_our_format(gpt2, tmp_path):
    gpt2.save(tmp_path)
    assert BPETokenizer.load(tmp_path).merges == gpt2.merges


def test_a_killed_save_leaves_the_old_file_whole(trained, tmp_path, monkeypatch):
    trained.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        BPETokenizer.train(["ab"], 258).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "kind, n_vocab and merges"),
        ('{"kind": "byte-level BPE", "n_vocab": 257, "merges": 5}', "merges are no list"),
        ('{"model": {"type": "BPE"}}', "kind, n_vocab and merges"),
        ('{"kind": "words", "n_vocab": 257, "merges": []}', "'words' of 257"),
        ('{"kind": "byte-level BPE", "n_vocab": 300, "merges": ["a b"]}', "of 258"),
        ('{"kind": "byte-level BPE", "n_vocab": 258, "merges": ["ab"]}', "merge 1 is 'ab'"),
        ('{"kind": "byte-level BPE", "n_vocab": 259, "merges": ["a b", "a b"]}', "merge 2"),
    ],
)
def test_a_damaged_file_is_refused_with_its_reason(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message) as error:
        BPETokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_no_file_is_told_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*BPETokenizer\.save"):
        BPETokenizer.load(tmp_path)
