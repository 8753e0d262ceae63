"""1.2 pretokenize: GPT-2's cut of a text into pieces that no token crosses."""

from __future__ import annotations

import unicodedata

import regex

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property

ENDINGS = ("s", "t", "re", "ve", "m", "ll", "d")

# --- the oracle: by the classes of Unicode, without a regular expression --------------------------


def kind(character, knobs):
    """The class of a character: letter, number, white or other."""
    category = unicodedata.category(character)
    if character.isspace():
        return "white"
    letter = category[0] == "L" or ("marks" in knobs and category[0] == "M")
    number = category == "Nd" if "decimal_only" in knobs else category[0] == "N"
    if "ascii_only" in knobs:
        letter, number = letter and character.isascii(), number and character.isascii()
    if "word_class" in knobs:
        letter, number = letter or number or character == "_", False
    if "one_class" in knobs:
        letter, number = letter or number, False
    return "letter" if letter else "number" if number else "other"


def contraction(text, i, knobs):
    """The length of an ending such as 've at place i, or 0."""
    if "no_contractions" in knobs or "words_with_apostrophes" in knobs:
        return 0
    if text[i] != "'" and not ("curly" in knobs and text[i] == "\u2019"):
        return 0
    rest = text[i + 1 :].lower() if "any_case" in knobs else text[i + 1 :]
    return next((len(each) + 1 for each in ENDINGS if rest.startswith(each)), 0)


def before(text, i, knobs):
    """How much white space at place i goes with what comes after it."""
    if "space_alone" in knobs or "space_after" in knobs:
        return 0
    if "many_spaces" in knobs:
        return len(text) - i - len(text[i:].lstrip(" "))
    if "any_white" in knobs:
        return int(text[i].isspace())
    return int(text[i] == " ")


def run(text, i, knobs):
    """The length of a run of one class at place i, with the space before it; 0 if there is none."""
    begin = i + before(text, i, knobs)
    if begin == len(text) or text[begin].isspace():
        return 0
    mine = kind(text[begin], knobs)
    most = {"one_digit": 1, "three_digits": 3} if mine == "number" else {"one_sign": 1}
    if mine == "letter":
        most = {}
    limit = min([most[name] for name in most if name in knobs], default=len(text))
    end = begin
    while end < len(text) and end - begin < limit:
        inside = "words_with_apostrophes" in knobs and mine == "letter" and text[end] == "'"
        if kind(text[end], knobs) != mine and not inside:
            break
        end += 1
    if "space_after" in knobs and text[end : end + 1] == " ":
        end += 1
    return end - i


def white(text, i, knobs):
    """The length of a run of white space at place i."""
    if "one_white" in knobs:
        return 1
    length = len(text) - i - len(text[i:].lstrip())
    follows = i + length < len(text)
    return length - 1 if follows and length > 1 and "no_lookahead" not in knobs else length


def reference(text, *, knobs, steps):
    if "stripped" in knobs:
        text = text.strip()
    if "lowered" in knobs:
        text = text.lower()
    if "str_split" in knobs:
        return text.split()
    pieces, i = [], 0
    while i < len(text):
        length = contraction(text, i, knobs) or run(text, i, knobs)
        blank = not length
        length = length or white(text, i, knobs)
        if not (blank and "white_lost" in knobs):
            pieces.append(text[i : i + length])
        i += length
    return pieces


# --- right in other ways ----------------------------------------------------------------------


def by_openais_alternatives(text):
    parts = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
    parts += [r" ?[\p{L}]+", r" ?[\p{N}]+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+"]
    return [found.group() for found in regex.finditer("|".join(parts), text)]


def by_tiktokens_words(text):
    cut = regex.compile(
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    )
    return cut.findall(text)


def by_hand(text):
    def what(c):
        if c.isspace():
            return " "
        return "a" if c.isalpha() else "1" if unicodedata.category(c)[0] == "N" else "!"

    pieces, rest = [], text
    while rest:
        ending = next((e for e in ENDINGS if rest.startswith("'" + e)), None)
        if ending:
            length = len(ending) + 1
        else:
            length = 2 if rest[0] == " " and len(rest) > 1 and not rest[1].isspace() else 1
            while length < len(rest) and what(rest[length]) == what(rest[length - 1]):
                length += 1
            if rest[:length].isspace() and length > 1 and length < len(rest):
                length -= 1
        pieces.append(rest[:length])
        rest = rest[length:]
    return pieces


# --- what holds for every right answer ---------------------------------------------------------

TEXTS = (
    "",
    "a",
    "  two before and two after  ",
    "tab\there\n\n\tand there",
    "He's 'so' they'll say: 'tis O'Neill's, isn't it?",
    "日本語とEnglish、2024年。",
    "x\u00a0y\u3000z \u2028 w",
    "@@@ 3.14159 -- (5/7) #hash_tag",
)


def nothing_is_lost(answer):
    for text in TEXTS:
        if "".join(answer(text)) != text:
            return f"the pieces of {text!r}, joined again, are {''.join(answer(text))!r}"
    return None


def cuts_as_the_oracle(answer):
    for text in TEXTS:
        wanted = reference(text, knobs=frozenset(), steps={})
        if answer(text) != wanted:
            return f"{text!r} is cut into {answer(text)}, wanted {wanted}"
    return None


def probe(name, text):
    return Probe(name, lambda: (text,), gradient=False)


EXERCISE = Exercise(
    name="pretokenize",
    target="gpt2_scratch.bpe:pretokenize",
    minutes=20,
    axes="",
    reference=reference,
    probes=(
        probe("three words", "A red car"),
        probe("capitals and signs", "Stop!!! Go (now), OK?"),
        probe("numbers", "In 12345 days, room12 is 7"),
        probe("numbers beside signs", "3.14 (5/7) #1"),
        probe("contractions", "we've it's I'm you'll they're he'd can't"),
        probe("capital contractions, quotes", "IT'S 'so' O'Neill's don\u2019s"),
        probe("runs of spaces", "a   b  12    !  it"),
        probe("white space at both ends", "  a b  "),
        probe("line breaks and tabs", "a\nb\n\n c\t\td\n1 \n!"),
        probe("letters beyond ASCII", "caf\u00e9 \u65e5\u672c \u0434\u043e\u043c"),
        probe("numbers beyond ASCII", "1\u00bd x\u00b2! \u00b2! \u0661\u0662\u0663\u0664"),
        probe("underscore and a combining accent", "a_b _x9 e\u0301a"),
    ),
    knobs={
        "str_split": Diagnosis(
            says="these are the words without the white space between them",
            think="how would the text come back with the right spaces in it?",
            hint="`str.split` throws away what it splits at. Join your pieces: is it the text?",
            text="ch01#pieces",
        ),
        "white_lost": Diagnosis(
            says="white space that belongs to no word is left out",
            think="does every character of the text stand in some piece?",
            hint="`findall` leaves out what no alternative matches.",
            text="ch01#pieces",
        ),
        "stripped": Diagnosis(
            says="white space at both ends of the text is lost",
            think="joined again, are the pieces the whole text?",
            hint="A prompt that ends in a space is another prompt.",
            text="ch01#pieces",
        ),
        "lowered": Diagnosis(
            says="the text is in small letters",
            think="could the text come back with its capitals?",
            hint="GPT-2 tells Polish from polish.",
            text="ch01#pieces",
        ),
        "space_alone": Diagnosis(
            says="a space is a piece of its own",
            think="to which word does the space between two words belong?",
            hint="` ?` before a run takes one space in, if there is one.",
            text="ch01#pieces",
        ),
        "space_after": Diagnosis(
            says="a space belongs to the word before it",
            think="of which of the two words is the space a part?",
            hint="The pieces of `A red car` are `A`, ` red`, ` car`.",
            text="ch01#pieces",
        ),
        "any_white": Diagnosis(
            says="a line break or a tab goes with the word after it, as a space does",
            think="which white space may stand at the beginning of a word?",
            hint=r"`\s?` is more than ` ?`.",
            text="ch01#white",
        ),
        "many_spaces": Diagnosis(
            says="all spaces before a word go with it",
            think="how many spaces may stand at the beginning of a word?",
            hint="` *` is more than ` ?`.",
            text="ch01#white",
        ),
        "no_lookahead": Diagnosis(
            says="a run of white space keeps its last character, which the next word should get",
            think="in `a   b`, what does the word b begin with?",
            hint=r"Look for `(?!...)`: what follows must not be something. Give `\s+` one back.",
            text="ch01#white",
        ),
        "one_white": Diagnosis(
            says="each white character by itself is a piece",
            think="how many pieces are ten spaces?",
            hint="A run of white space is one piece, like a run of letters.",
            text="ch01#white",
        ),
        "no_contractions": Diagnosis(
            says="contractions are not cut off as 's, 't, 've and so on",
            think="which of the alternatives should an apostrophe meet first?",
            hint="Alternatives are tried from left to right.",
            text="ch01#contractions",
        ),
        "words_with_apostrophes": Diagnosis(
            says="an apostrophe within a word is part of the word",
            think="what are the pieces of `we've`?",
            hint="The class of letters has no apostrophe in it.",
            text="ch01#contractions",
        ),
        "any_case": Diagnosis(
            says="contractions in capitals, such as 'S, are cut off too",
            think="which letters does GPT-2's list of contractions have, small ones or all?",
            hint="It is a known oversight, and the vocabulary was made with it.",
            text="ch01#contractions",
        ),
        "curly": Diagnosis(
            says="the typographic apostrophe \u2019 is taken for the straight one",
            think="which of the two apostrophes is on a keyboard of 2019?",
            hint="\u2019 is a sign like any other.",
            text="ch01#contractions",
        ),
        "ascii_only": Diagnosis(
            says="only ASCII letters and digits count as letters and numbers",
            think="is \u00e9 a letter to your pattern?",
            hint=r"`[A-Za-z]` is 52 letters; `\p{L}` is all of them.",
            text="ch01#classes",
        ),
        "word_class": Diagnosis(
            says="letters, numbers and the underscore are one class, as \\w is",
            think="what are the pieces of `room12`?",
            hint=r"`\p{L}` is letters alone, `\p{N}` numbers alone.",
            text="ch01#classes",
        ),
        "one_class": Diagnosis(
            says="letters and numbers are one class",
            think="what are the pieces of `room12`?",
            hint="Two alternatives, not one class with both in it.",
            text="ch01#classes",
        ),
        "decimal_only": Diagnosis(
            says="\u00bd and \u00b2 are not taken for numbers",
            think="is a number the same as a decimal digit?",
            hint=r"`\d` is decimal digits; `\p{N}` is every number of Unicode.",
            text="ch01#classes",
        ),
        "marks": Diagnosis(
            says="combining accents count as letters",
            think="has an accent without a letter under it the class L?",
            hint=r"`\p{L}` has no marks in it; those are `\p{M}`.",
            text="ch01#classes",
        ),
        "one_digit": Diagnosis(
            says="each digit is a piece of its own",
            think="how long may a run of numbers be in GPT-2?",
            hint="Llama does this. GPT-2 has `+` there as elsewhere.",
            text="ch01#classes",
        ),
        "three_digits": Diagnosis(
            says="numbers are cut after three digits",
            think="how long may a run of numbers be in GPT-2?",
            hint="GPT-4 does this. GPT-2 has `+` there as elsewhere.",
            text="ch01#classes",
        ),
        "one_sign": Diagnosis(
            says="each sign is a piece of its own",
            think="what are the pieces of `Stop!!!`?",
            hint="A run of signs is one piece, like a run of letters.",
            text="ch01#classes",
        ),
    },
    exclusive=(
        ("str_split", "white_lost", "one_white", "no_lookahead"),
        ("space_alone", "space_after", "any_white", "many_spaces", "str_split"),
        ("no_contractions", "words_with_apostrophes", "any_case"),
        ("no_contractions", "words_with_apostrophes", "curly"),
        ("word_class", "one_class", "one_digit"),
        ("word_class", "one_class", "three_digits"),
        ("one_digit", "three_digits"),
        ("word_class", "one_class", "decimal_only"),
    ),
    hidden={
        "str_split+*": "split at white space, no word is cut anywhere else",
        "lowered+any_case": "in small letters no contraction has capitals",
        "ascii_only+marks": "a combining accent is beyond ASCII",
        "ascii_only+decimal_only": "ASCII has no other numbers than its digits",
    },
    hints=(
        "Which characters of a text may a token join, and which never? Where does the space"
        " between two words go?",
        "One regular expression with six alternatives, tried in order at each place:"
        r" contractions, ` ?` and letters (`\p{L}`), ` ?` and numbers (`\p{N}`), ` ?` and a run of"
        " what is neither of these nor white, white space up to but not including the last"
        r" character before something visible, any other white space. `regex` knows `\p{...}`,"
        " `re` doesn't.",
        "write the contractions as one alternative\nthen an optional space and letters\n"
        "then an optional space and numbers\nthen an optional space and anything else visible\n"
        "then white space that no visible character follows, then white space\n"
        "find all matches, in order",
    ),
    alternatives=(by_openais_alternatives, by_tiktokens_words, by_hand),
    properties=(
        Property("the pieces joined are the text", nothing_is_lost),
        Property("eight more texts", cuts_as_the_oracle),
    ),
    exceptions={
        r"bad escape \\p": r"`re` doesn't know \p{L}; `regex` does, and is called in the same way",
    },
)
