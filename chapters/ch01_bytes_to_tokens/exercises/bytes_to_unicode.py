"""1.1 bytes_to_unicode: a visible character for each byte, and the ids of the bytes."""

from __future__ import annotations

import unicodedata
from itertools import count

from chapters.runner.exercise import Diagnosis, Exercise, Probe


def use(answer):
    """What is compared: the table, and the order in which it lists the bytes."""
    table = answer()
    if not isinstance(table, dict):
        return table
    return {"the table": dict(table), "the order of its keys": list(table)}


# --- the oracle -------------------------------------------------------------------------------


def reference(*, knobs, steps):
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if "ascii_only" in knobs:
        visible = [byte for byte in visible if byte < 128]
    gained = {"space_kept": 32, "del_kept": 127, "nbsp_kept": 160, "soft_hyphen_kept": 173}
    lost = {"first_lost": 33, "tilde_lost": 126, "last_lost": 255}
    visible += [byte for name, byte in gained.items() if name in knobs]
    visible = sorted(set(visible) - {byte for name, byte in lost.items() if name in knobs})
    if "chr_all" in knobs:
        visible = list(range(256))
    steps["the visible bytes"] = visible
    steps["the other bytes"] = others = [byte for byte in range(256) if byte not in visible]
    table = {byte: chr(byte) for byte in visible}
    for i, byte in enumerate(others):
        table[byte] = chr(256 + (byte if "plus_256" in knobs else i + ("from_257" in knobs)))
    steps["the table"] = dict(table)
    order = list(table)
    if "order_of_bytes" in knobs:
        order = list(range(256))
    if "others_first" in knobs:
        order = [*others, *visible]
    if "turned_round" in knobs:
        table = {letter: byte for byte, letter in table.items()}
        order = [letter for byte in order for letter, mine in table.items() if mine == byte]
    return {"the table": table, "the order of its keys": order}


# --- right in other ways ----------------------------------------------------------------------


def by_ranges():
    keys = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    keys += range(ord("®"), ord("ÿ") + 1)
    letters = [chr(key) for key in keys]
    following = 256
    for byte in range(256):
        if byte not in keys:
            keys.append(byte)
            letters.append(chr(following))
            following += 1
    return dict(zip(keys, letters, strict=True))


def by_category():
    following = count(256)
    shown, hidden = {}, {}
    for byte in range(256):
        if unicodedata.category(chr(byte)) in ("Cc", "Cf", "Zs"):
            hidden[byte] = chr(next(following))
        else:
            shown[byte] = chr(byte)
    shown.update(hidden)
    return shown


def by_sorting():
    def hidden(byte):
        return byte <= 32 or 127 <= byte <= 160 or byte == 173

    order = sorted(range(256), key=hidden)  # stable: within each kind they stay in order
    first = sum(not hidden(byte) for byte in order)
    return {b: chr(b) if i < first else chr(256 + i - first) for i, b in enumerate(order)}


EXERCISE = Exercise(
    name="bytes_to_unicode",
    target="gpt2_scratch.bpe:bytes_to_unicode",
    minutes=10,
    axes="",
    use=use,
    reference=reference,
    probes=(Probe("the 256 bytes", tuple, gradient=False),),
    knobs={
        "chr_all": Diagnosis(
            says="every byte stands for itself, the space and the control bytes too",
            think="what would a vocabulary file look like whose tokens contain spaces and line"
            " breaks?",
            hint="`chr(10)` is a line break. Print `[chr(byte) for byte in range(256)]`.",
            text="ch01#bytes",
        ),
        "ascii_only": Diagnosis(
            says="the visible characters from 161 to 255, such as é, are moved as well",
            think="are there visible characters beyond ASCII among the first 256?",
            hint="The first 256 characters of Unicode are called Latin-1.",
            text="ch01#bytes",
        ),
        "space_kept": Diagnosis(
            says="the space stands for itself",
            think="is a space a visible character?",
            hint="Python calls a space printable. Here it is Ġ.",
            text="ch01#bytes",
        ),
        "del_kept": Diagnosis(
            says="byte 127 stands for itself; it is DEL, a control character",
            think="which is the last visible character of ASCII?",
            hint="`range` ends before its second number.",
            text="ch01#bytes",
        ),
        "nbsp_kept": Diagnosis(
            says="byte 160 stands for itself; it is a space at which no line is broken",
            think="which is the first visible character above 127?",
            hint="`unicodedata.name(chr(160))` tells.",
            text="ch01#bytes",
        ),
        "soft_hyphen_kept": Diagnosis(
            says="byte 173 stands for itself; it is the soft hyphen, which is seldom shown",
            think="are all characters from 161 to 255 visible?",
            hint="`chr(173).isprintable()` tells.",
            text="ch01#bytes",
        ),
        "first_lost": Diagnosis(
            says="byte 33, the exclamation mark, is moved, though it is visible",
            think="which is the first visible character of ASCII?",
            hint="The one after the space.",
            text="ch01#bytes",
        ),
        "tilde_lost": Diagnosis(
            says="byte 126, the tilde, is moved, though it is visible",
            think="which is the last visible character of ASCII?",
            hint="`range` ends before its second number.",
            text="ch01#bytes",
        ),
        "last_lost": Diagnosis(
            says="byte 255, ÿ, is moved, though it is visible",
            think="which byte is the last, and does your range reach it?",
            hint="`range` ends before its second number.",
            text="ch01#bytes",
        ),
        "plus_256": Diagnosis(
            says="a byte that is moved becomes the character 256 above it, so that there are gaps",
            think="how many bytes are moved, and how many characters from 256 on do you use?",
            hint="They are counted: the first one becomes 256, the second one 257.",
            text="ch01#bytes",
        ),
        "from_257": Diagnosis(
            says="the bytes that are moved begin with the character 257",
            think="which character becomes of the first byte that is moved?",
            hint="Bytes are 0 to 255. What is the next free number?",
            text="ch01#bytes",
        ),
        "order_of_bytes": Diagnosis(
            says="the table is right, but its keys come in the order of the bytes",
            think="which byte has the id 0 in GPT-2?",
            hint="A dict keeps the order in which keys were put in; here that order is the ids.",
            text="ch01#order",
        ),
        "others_first": Diagnosis(
            says="the bytes that are moved come first",
            think="which byte has the id 0 in GPT-2?",
            hint="The exclamation mark comes first.",
            text="ch01#order",
        ),
        "turned_round": Diagnosis(
            says="keys and values are swapped: a byte for each character",
            think="what is the type of a key in `dict[int, str]`?",
            hint="Reading the vocabulary needs that direction; writing it needs this one.",
            text="ch01#bytes",
        ),
    },
    exclusive=(
        ("plus_256", "from_257"),
        ("order_of_bytes", "others_first"),
    ),
    hidden={
        "chr_all+*": "where every byte is visible, no byte is moved and none comes later",
        "ascii_only+last_lost": "byte 255 is moved with all the others above 127",
    },
    hints=(
        "Which of the characters 0 to 255 can you see on a page?",
        "Two lists: the bytes whose characters are visible, in order, and the others, in order."
        " The first stand for themselves. The others take the characters 256, 257, ... in turn.",
        "collect the bytes whose character can be seen, the space not among them\n"
        "collect the rest\nmake a dict: each of the first list with its own character\n"
        "add the rest, the i-th with the i-th character after 255",
    ),
    alternatives=(by_ranges, by_category, by_sorting),
)
