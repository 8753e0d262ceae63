"""1.4 Codec: text to ids and back, out of pieces and merges."""

from __future__ import annotations

import unicodedata
from itertools import chain, pairwise

from chapters.ch01_bytes_to_tokens import judges
from chapters.ch01_bytes_to_tokens.exercises import bpe, pretokenize
from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property
from gpt2_scratch.bpe import bpe as package_bpe
from gpt2_scratch.bpe import pretokenize as package_pretokenize


def use(answer, merges, text, ids):
    """What is compared: the ids of one text, and the text of other ids."""
    codec = answer(merges)
    return {"encode": codec.encode(text), "decode": codec.decode(ids)}


# --- the oracle -------------------------------------------------------------------------------


def utf8(text, knobs):
    if "latin1" in knobs:
        return text.encode("latin-1", "replace")
    if "ascii_lost" in knobs:
        return text.encode("ascii", "ignore")
    return text.encode()


def encoded(merges, text, knobs, steps):
    if "composed" in knobs:
        text = unicodedata.normalize("NFC", text)
    if "stripped" in knobs:
        text = text.strip()
    order = judges.byte_order()
    if "byte_values" in knobs:
        order = list(range(256))
    ids = {bytes([byte]): i for i, byte in enumerate(order)}
    first = 0 if "ranks_as_ids" in knobs else 257 if "from_257" in knobs else 256
    ids |= {a + b: first + rank for rank, (a, b) in enumerate(merges)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    parts = text.split(judges.END) if "end_known" in knobs else [text]
    found = []
    for number, part in enumerate(parts):
        if number:
            found.append(256 + len(merges))
        pieces = (
            [part]
            if "no_pieces" in knobs
            else pretokenize.reference(part, knobs=frozenset(), steps={})
        )
        steps["the pieces"] = pieces
        cut = []
        for piece in pieces:
            whole = utf8(piece, knobs)
            tokens = bpe.reference(whole, ranks, knobs=frozenset(), steps={})
            cut += [bytes([byte]) for byte in whole] if "bytes_only" in knobs else tokens
        steps["the tokens"] = cut
        found += [ids[token] for token in cut]
    return [*found, 256 + len(merges)] if "end_added" in knobs else found


def decoded(merges, ids, knobs, steps):
    tokens = [bytes([byte]) for byte in judges.byte_order()] + [a + b for a, b in merges]
    tokens.append(judges.END.encode())
    if "end_left_out" in knobs:
        ids = [i for i in ids if i != 256 + len(merges)]
    steps["the bytes of the ids"] = b"".join(tokens[i] for i in ids)
    errors = "ignore" if "broken_ignored" in knobs else "replace"
    errors = "strict" if "broken_refused" in knobs else errors
    found = [tokens[i] for i in ids]
    if "each_alone" not in knobs and "spaces_between" not in knobs:
        found = [b"".join(found)]
    if "letters" in knobs:
        letter = {b: chr(b) if i < 188 else chr(68 + i) for i, b in enumerate(judges.byte_order())}
        return "".join(letter[byte] for byte in chain(*found))
    coding = "latin-1" if "latin1_back" in knobs else "utf-8"
    between = " " if "spaces_between" in knobs else ""
    text = between.join(each.decode(coding, errors) for each in found)
    return text.strip() if "stripped_back" in knobs else text


def reference(merges, text, ids, *, knobs, steps):
    return {
        "encode": encoded(merges, text, knobs, steps),
        "decode": decoded(merges, ids, knobs, steps),
    }


# --- right in other ways ----------------------------------------------------------------------


class ByTiktoken:
    def __init__(self, merges):
        self.theirs = judges.tiktoken_with(list(merges))

    def encode(self, text):
        return self.theirs.encode_ordinary(text)

    def decode(self, ids):
        return self.theirs.decode(list(ids), errors="replace")


class ByTables:
    """With other tables: ids by pair, bytes by id; nothing is looked up by its bytes."""

    def __init__(self, merges):
        self.byte = dict(enumerate(judges.byte_order()))
        self.single = {byte: i for i, byte in self.byte.items()}
        self.parts = {}
        known = {bytes([byte]): i for byte, i in self.single.items()}
        for i, (first, second) in enumerate(merges, 256):
            self.parts[i] = known[first], known[second]
            known[first + second] = i
        self.joined = {pair: i for i, pair in self.parts.items()}
        self.last = 256 + len(self.parts)

    def encode(self, text):
        out = []
        for piece in package_pretokenize(text):
            ids = [self.single[byte] for byte in bytearray(piece, "utf-8")]
            while True:
                pairs = list(pairwise(ids))
                best = min((self.joined[p] for p in pairs if p in self.joined), default=None)
                if best is None:
                    break
                at = pairs.index(self.parts[best])
                ids = [*ids[:at], best, *ids[at + 2 :]]
            out.extend(ids)
        return out

    def decode(self, ids):
        whole = bytearray()
        for i in ids:
            self.spell(i, whole)
        return str(whole, "utf-8", "replace")

    def spell(self, i, whole):
        if i in self.parts:
            for part in self.parts[i]:
                self.spell(part, whole)
        elif i == self.last:
            whole.extend(judges.END.encode())
        else:
            whole.append(self.byte[i])


class ByRemembering:
    """Each different piece is merged once."""

    def __init__(self, merges):
        tokens = [bytes([byte]) for byte in judges.byte_order()]
        tokens.extend(first + second for first, second in merges)
        self.id_of = {token: i for i, token in enumerate(tokens)}
        self.spelled = [*tokens, judges.END.encode()]
        self.rank_of = {pair: rank for rank, pair in enumerate(merges)}
        self.known = {}

    def encode(self, text):
        for piece in set(package_pretokenize(text)) - self.known.keys():
            tokens = package_bpe(bytes(piece, "utf-8"), self.rank_of)
            self.known[piece] = [self.id_of[token] for token in tokens]
        return list(chain.from_iterable(self.known[p] for p in package_pretokenize(text)))

    def decode(self, ids):
        import codecs

        reader = codecs.getincrementaldecoder("utf-8")("replace")
        return "".join(reader.decode(self.spelled[i]) for i in ids) + reader.decode(b"", True)


# --- probes and properties ---------------------------------------------------------------------

MERGES = [
    *((b" ", b" "), (b"h", b"e"), (b"t", b"he"), (b" ", b"the"), (b"i", b"n"), (b" ", b"in")),
    *((b"\xc3", b"\xa9"), (b"r", b"e"), (b" ", b"re"), (b" re", b"d"), (b"\xf0", b"\x9f")),
]
TEXTS = (
    "",
    " the red inn, the end",
    "In this image we can see 12 small red circles.\n\n  It's the 3rd!",
    "na\u00efve caf\u00e9, e\u0301t\u00e9; \u65e5\u672c\u8a9e",
    "\U0001f642\U0001f643 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "<|endoftext|> is text here<|endoftext|>",
    "\x00\x7f\xa0\xad\t\r\n\ufffd",
    "".join(map(chr, range(32, 383))),
)


def probe(name, text, ids):
    return Probe(name, lambda: (list(MERGES), text, list(ids)), gradient=False)


def comes_back(codec_of):
    def holds(answer):
        for text in TEXTS:
            given = answer(codec_of(), text, [])
            back = answer(codec_of(), "", given["encode"])["decode"]
            if back != text:
                return f"{text!r} comes back as {back!r}"
        return None

    return holds


def as_tiktoken(merges):
    def holds(answer):
        theirs = judges.tiktoken_with(merges())
        for text in TEXTS:
            wanted = theirs.encode_ordinary(text)
            found = answer(merges(), text, wanted[1::2])
            if list(found["encode"]) != wanted:
                return f"{text!r} becomes {found['encode']}, tiktoken makes {wanted}"
            if found["decode"] != theirs.decode(wanted[1::2], errors="replace"):
                return f"the text of the ids {wanted[1::2]} is not what tiktoken makes of them"
        return None

    return holds


PROPERTIES = [
    Property("each text comes back", comes_back(lambda: list(MERGES))),
    Property("as tiktoken with the embedded model's merges", as_tiktoken(judges.scenes)),
]
if judges.merges_file():
    PROPERTIES.append(Property("as tiktoken with GPT-2's merges", as_tiktoken(judges.published)))

EXERCISE = Exercise(
    name="Codec",
    target="gpt2_scratch.bpe:Codec",
    minutes=25,
    axes="",
    use=use,
    keep=("__init__",),
    needs=("bytes_to_unicode", "pretokenize", "bpe"),
    reference=reference,
    probes=(
        probe("a word that is one token", " the", [259, 265]),
        probe("three words", "the red inn", [258, 265, 261, 77]),
        probe("two spaces", "in  the  red", [260, 256, 258, 220, 265]),
        probe("a letter of two bytes", "caf\u00e9 na\u00efve", [66, 127, 102, 262, 127, 107]),
        probe("characters of three and four", "\u65e5 \U0001f642", [162, 245, 98, 266, 247, 224]),
        probe("a character that is cut", "\U0001f643", [266, 247, 64, 127]),
        probe("the end token", "the<|endoftext|>the", [258, 267, 258]),
        probe("a combining accent", "e\u0301t", [68, 136, 223]),
        probe("spaces at both ends", " in ", [261, 220]),
        probe("nothing", "", []),
    ),
    knobs={
        "no_pieces": Diagnosis(
            says="encode merges the whole text at once, across its pieces",
            think="which exercise of this chapter says what a merge may not cross?",
            hint="First the pieces, then the merges inside each.",
            text="ch01#ids",
        ),
        "bytes_only": Diagnosis(
            says="encode gives an id for each byte; nothing is merged",
            think="what are the ranks for?",
            hint="`bpe` of a piece gives its tokens.",
            text="ch01#ids",
        ),
        "byte_values": Diagnosis(
            says="encode gives a single byte its value as id",
            think="which byte has the id 0?",
            hint="The tables of `__init__` know the id of each token, single bytes as well.",
            text="ch01#order",
        ),
        "ranks_as_ids": Diagnosis(
            says="encode gives merged tokens their ranks as ids, from 0 on",
            think="which ids do the 256 bytes have?",
            hint="The first 256 ids are taken.",
            text="ch01#ids",
        ),
        "from_257": Diagnosis(
            says="encode gives merged tokens ids that are one too large",
            think="which ids do the 256 bytes have, and which is the next?",
            hint="Counting from 0, 256 bytes end at 255.",
            text="ch01#ids",
        ),
        "latin1": Diagnosis(
            says="encode takes the bytes of Latin-1, in which most characters become ?",
            think="in which encoding has every character of Unicode its bytes?",
            hint="`str.encode()` without an argument is UTF-8.",
            text="ch01#bytes",
        ),
        "ascii_lost": Diagnosis(
            says="encode leaves out what is not ASCII",
            think="how many bytes has \u00e9 in UTF-8?",
            hint="No text needs leaving out: there are tokens for all 256 bytes.",
            text="ch01#bytes",
        ),
        "composed": Diagnosis(
            says="encode normalises the text: e and an accent become one character",
            think="does the text come back as it was?",
            hint="GPT-2's tokenizer changes nothing about a text.",
            text="ch01#round-trip",
        ),
        "stripped": Diagnosis(
            says="encode strips white space at both ends",
            think="does the text come back as it was?",
            hint="GPT-2's tokenizer changes nothing about a text.",
            text="ch01#round-trip",
        ),
        "end_known": Diagnosis(
            says="encode makes the end token of the characters <|endoftext|>",
            think="who may end a document: the program, or whoever wrote the text?",
            hint="The docstring says what these characters are in a text.",
            text="ch01#end",
        ),
        "end_added": Diagnosis(
            says="encode adds the end token",
            think="is a text that is encoded always a whole document?",
            hint="A prompt must not end; the program adds the end token where a document does.",
            text="ch01#end",
        ),
        "each_alone": Diagnosis(
            says="decode makes text of each id by itself, and joins the texts",
            think="how many tokens can one character span?",
            hint="First join the bytes, then make text of them.",
            text="ch01#round-trip",
        ),
        "broken_ignored": Diagnosis(
            says="decode leaves out bytes that are no whole character",
            think="what should a reader see of half an emoji?",
            hint="`bytes.decode` has an argument for it; the docstring names what it should put.",
            text="ch01#round-trip",
        ),
        "broken_refused": Diagnosis(
            says="decode raises UnicodeDecodeError where bytes are no whole character",
            think="can a model stop in the middle of a character?",
            hint="`bytes.decode` has an argument for it; the docstring names what it should put.",
            text="ch01#round-trip",
        ),
        "latin1_back": Diagnosis(
            says="decode reads the bytes as Latin-1: \u00e9 comes back as \u00c3\u00a9",
            think="in which encoding were the bytes made?",
            hint="The same one, both ways.",
            text="ch01#round-trip",
        ),
        "letters": Diagnosis(
            says="decode gives the visible letters of a vocabulary file, with \u0120 for a space",
            think="what are those letters for?",
            hint="A token is bytes. The letters are a way to write it into a file.",
            text="ch01#bytes",
        ),
        "spaces_between": Diagnosis(
            says="decode puts a space between tokens",
            think="where are the spaces of the text: between tokens, or in them?",
            hint="` red` begins with its space.",
            text="ch01#round-trip",
        ),
        "end_left_out": Diagnosis(
            says="decode leaves out the end token",
            think="what is the text of the end token?",
            hint="Whoever doesn't want to see it can leave it out; decode tells all.",
            text="ch01#end",
        ),
        "stripped_back": Diagnosis(
            says="decode strips white space at both ends",
            think="does the text come back as it was?",
            hint="A generated continuation often begins with a space.",
            text="ch01#round-trip",
        ),
    },
    exclusive=(
        ("no_pieces", "bytes_only"),
        ("ranks_as_ids", "from_257", "bytes_only"),
        ("latin1", "ascii_lost"),
        ("broken_ignored", "broken_refused", "latin1_back", "letters"),
        ("each_alone", "letters", "latin1_back", "spaces_between"),
    ),
    hidden={"letters+stripped_back": "the letters of a vocabulary file are no white space"},
    hints=(
        "Which three steps lead from a text to ids, and which two lead back?",
        "Forth: the pieces of the text; the UTF-8 bytes of each; its tokens by the ranks; the id"
        " of each token. Back: the bytes of each id, all joined, and only then read as UTF-8 with"
        " U+FFFD in place of what is broken. `__init__` has made the tables.",
        "encode\n    for each piece of the text\n        take its bytes, merge them\n"
        "        look up each token's number\ndecode\n    look up the bytes of each number\n"
        "    put them together\n    read them as UTF-8, replacing what can't be read",
    ),
    alternatives=(ByTiktoken, ByTables, ByRemembering),
    properties=tuple(PROPERTIES),
    exceptions={
        r"^b['\"]": "these bytes are no token: were they merged inside their piece, by the ranks?",
        r"^['\"].{1,40}['\"]$": "text is looked up where the tokens are bytes",
        r"codec can't decode": (
            "bytes that are cut in the middle of a character can't be read as they are;"
            " `bytes.decode` has an argument for it"
        ),
        r"expected a bytes-like object, \w+ found|can't concat|bytes-like object is required": (
            "text and bytes meet: a token is bytes, a piece is text"
        ),
    },
)
