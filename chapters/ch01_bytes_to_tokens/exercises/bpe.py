"""1.3 bpe: the merges of one piece, the lowest rank first."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot

# --- the oracle -------------------------------------------------------------------------------


def ranked(text):
    """`h|e t|h` -> {(b"h", b"e"): 0, (b"t", b"h"): 1}; _ is a space, a Latin-1 character a byte."""
    pairs = [each.replace("_", " ").encode("latin-1").split(b"|") for each in text.split()]
    return {(first, second): rank for rank, (first, second) in enumerate(pairs)}


def choose(tokens, ranks, knobs, banned):
    """The pair to join next, or None."""
    places = list(pairwise(tokens))
    if "skips_last_pair" in knobs:
        places = places[:-1]
    known = [pair for pair in places if pair in ranks and pair not in banned]
    if "rank_zero" in knobs:
        known = [pair for pair in known if ranks[pair] != 0]
    if "bytes_only" in knobs:
        known = [pair for pair in known if len(pair[0] + pair[1]) == 2]
    if not known:
        return None
    if "left_to_right" in knobs:
        return known[0]
    if "right_to_left" in knobs:
        return known[-1]
    if "highest_rank" in knobs:
        return max(known, key=ranks.__getitem__)
    if "most_frequent" in knobs:
        often = Counter(known)
        return min(known, key=lambda pair: (-often[pair], ranks[pair]))
    if "longest_pair" in knobs:
        return min(known, key=lambda pair: (-len(pair[0] + pair[1]), ranks[pair]))
    return min(known, key=ranks.__getitem__)


def join(tokens, pair, knobs):
    """`tokens` with the pair joined wherever it stands, from the left."""
    joined, i, done = [], 0, False
    if "rightmost" in knobs:
        turned = [token[::-1] for token in tokens[::-1]]
        there = join(turned, (pair[1][::-1], pair[0][::-1]), knobs - {"rightmost"})
        return [token[::-1] for token in there[::-1]]
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair and not (done and knobs & {"first_only", "one_merge"}):
            joined.append(pair[0] + pair[1])
            i += 1 if "overlap" in knobs else 2
            done = True
        else:
            joined.append(tokens[i])
            i += 1
    return joined


def longest_match(piece, ranks):
    """The longest known token from the left, again and again, as WordPiece does."""
    known, tokens = {a + b for a, b in ranks}, []
    while piece:
        length = max((n for n in range(1, len(piece) + 1) if piece[:n] in known), default=1)
        tokens.append(piece[:length])
        piece = piece[length:]
    return tokens


def reference(piece, ranks, *, knobs, steps):
    tokens = [piece[i : i + 1] for i in range(len(piece))]
    steps["the single bytes"] = list(tokens)
    if "no_merge" in knobs:
        return tokens
    if "longest_match" in knobs:
        return longest_match(piece, ranks)
    banned = set()
    for count in range(100):  # an overlapping join need not end by itself
        if "leaves_two" in knobs and len(tokens) <= 2:
            break
        pair = choose(tokens, ranks, knobs, banned)
        if pair is None or (count and knobs & {"one_merge", "one_rank"}):
            break
        tokens = join(tokens, pair, knobs)
        steps[f"the tokens after the merge of {pair[0]!r} and {pair[1]!r}"] = list(tokens)
        if "first_only" in knobs:
            banned.add(pair)
    return tokens[:-1] if "last_lost" in knobs else tokens


# --- right in other ways ----------------------------------------------------------------------


def one_pair_at_a_time(piece, ranks):
    tokens = [bytes([byte]) for byte in piece]
    while True:
        found = [
            (ranks[tokens[i], tokens[i + 1]], i)
            for i in range(len(tokens) - 1)
            if (tokens[i], tokens[i + 1]) in ranks
        ]
        if not found:
            return tokens
        _, i = min(found)
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def rank_by_rank(piece, ranks):
    tokens = [bytes([byte]) for byte in piece]
    for first, second in sorted(ranks, key=ranks.get):
        out = []
        for token in tokens:
            if out and out[-1] == first and token == second:
                out[-1] = first + second
            else:
                out.append(token)
        tokens = out
    return tokens


def by_recursion(piece, ranks):
    def merge(tokens):
        pairs = [pair for pair in pairwise(tokens) if pair in ranks]
        if not pairs:
            return tokens
        best = min(pairs, key=lambda pair: ranks[pair])
        return merge(replaced(tokens, best))

    def replaced(tokens, pair):
        if len(tokens) < 2:
            return tokens
        if (tokens[0], tokens[1]) == pair:
            return (tokens[0] + tokens[1], *replaced(tokens[2:], pair))
        return (tokens[0], *replaced(tokens[1:], pair))

    return list(merge(tuple(piece[i : i + 1] for i in range(len(piece)))))


# --- probes and properties ---------------------------------------------------------------------

STORY = (  # the first 60 merges of the story in verdict.py
    "_|t h|e _|a i|n _|h _|s _|w _|o _t|he o|u r|e i|t _|m i|s e|d a|t n|d _|b in|g _|p a|s e|n "
    "_t|o _|d _|f e|r _|he _h|a _|I _|l o|n _o|f _|c -|- _t|h e|s o|r e|l _w|as a|n _|it _a|nd "
    "_b|e a|r i|c i|m _o|n a|c o|w _|in _h|is u|r _|e l|e _|g s|t v|e _|n o|m u|t "
)
LOW = "l|o lo|w e|r low|er e|s es|t"
THERE = "h|e t|h _|th he|r t|her"
SEAT = "x|y s|e a|t se|a"
BANANA = "a|n b|an an|a ban|ana"
RUN = "x|y a|a aa|aa"


def probe(name, piece, table):
    return Probe(name, lambda: (piece, ranked(table)), gradient=False)


def nothing_is_lost(answer):
    for piece, table in ((b"lowest lower", LOW), (b" there the", THERE), (b"a" * 21, RUN)):
        tokens = answer(piece, ranked(table))
        if b"".join(tokens) != piece:
            return f"the tokens of {piece!r}, joined, are {b''.join(tokens)!r}"
    return None


EXERCISE = Exercise(
    name="bpe",
    target="gpt2_scratch.bpe:bpe",
    minutes=30,
    axes="",
    reference=reference,
    probes=(
        probe("nothing to merge", b"xyz", LOW),
        probe("two bytes that are one token", b"er", LOW),
        probe("merges of merges", b"slower", LOW),
        probe("the lowest rank is not the leftmost", b" there", THERE),
        probe("a merge that takes a neighbour's byte away", b"banana", BANANA),
        probe("two words of one stem", b"lowestlower", LOW),
        probe("three and five the same", b"aaabaaaaa", RUN),
        probe(
            "a character of two bytes",
            "caf\u00e9\u00e9".encode(),
            "\u00c3|\u00a9 c|a f|\u00c3\u00a9",
        ),
        probe("` therefore`, merges of a story", b" therefore", STORY),
        probe("` touched`, merges of a story", b" touched", STORY),
        probe("` relatively`, merges of a story", b" relatively", STORY),
        probe("` leisure`, merges of a story", b" leisure", STORY),
        probe("` strongest`, merges of a story", b"strongest", STORY),
        probe("a short pair or a long one", b"seat", SEAT),
        probe("a piece of 33 bytes", b"ab" * 13 + b"a" * 7, "a|b ab|ab a|a abab|abab"),
        probe("one byte", b"h", THERE),
        probe("no byte at all", b"", THERE),
    ),
    knobs={
        "left_to_right": Diagnosis(
            says="the leftmost pair that has a rank is joined, whatever its rank",
            think="which of the pairs in ` there` was learned first?",
            hint="Look at all neighbours before you join any: whose rank is the lowest?",
            text="ch01#lowest",
        ),
        "right_to_left": Diagnosis(
            says="the rightmost pair that has a rank is joined, whatever its rank",
            think="which of the pairs in ` there` was learned first?",
            hint="Look at all neighbours before you join any: whose rank is the lowest?",
            text="ch01#lowest",
        ),
        "highest_rank": Diagnosis(
            says="the pair of the highest rank is joined first",
            think="is a low rank early or late?",
            hint="Rank 0 is the merge that was learned first, the most frequent pair of all.",
            text="ch01#lowest",
        ),
        "most_frequent": Diagnosis(
            says="the pair that stands most often in the piece is joined first",
            think="frequent in which text: the one the merges were learned from, or this piece?",
            hint="Counting is how merges are learned. Here the ranks say it all.",
            text="ch01#lowest",
        ),
        "longest_pair": Diagnosis(
            says="the pair that makes the longest token is joined first",
            think="what does the rank of a pair say, and what has length to do with it?",
            hint="The rank alone decides.",
            text="ch01#lowest",
        ),
        "longest_match": Diagnosis(
            says="the longest known token is taken from the left, again and again",
            think="in which order were these tokens put together when they were learned?",
            hint="That is how BERT's WordPiece cuts. Here one begins with single bytes.",
            text="ch01#lowest",
        ),
        "no_merge": Diagnosis(
            says="these are the single bytes; nothing was joined",
            think="which neighbours among them have a rank?",
            hint="`zip(tokens, tokens[1:])` makes all neighbours.",
            text="ch01#merge",
        ),
        "one_merge": Diagnosis(
            says="one pair is joined in one place, and that is all",
            think="after a merge, are there pairs that can be joined?",
            hint="It is a loop that ends when no neighbours have a rank.",
            text="ch01#merge",
        ),
        "one_rank": Diagnosis(
            says="one pair is joined wherever it stands, and that is all",
            think="after a merge, are there pairs that can be joined?",
            hint="It is a loop that ends when no neighbours have a rank.",
            text="ch01#merge",
        ),
        "bytes_only": Diagnosis(
            says="only single bytes are joined; a token of two is never joined again",
            think="which new neighbours does a merge make?",
            hint="After each merge the pairs are other ones: look at all of them again.",
            text="ch01#merge",
        ),
        "first_only": Diagnosis(
            says="of several places where a pair stands only the first is joined",
            think="how often can the pair of lowest rank stand in a piece?",
            hint="`banana` has a, n twice.",
            text="ch01#merge",
        ),
        "leaves_two": Diagnosis(
            says="when two tokens are left, they are not joined",
            think="how many tokens can be the end of it, at least?",
            hint="A whole piece can be one token.",
            text="ch01#merge",
        ),
        "skips_last_pair": Diagnosis(
            says="the last two tokens are never looked at as a pair",
            think="how many pairs of neighbours have five tokens?",
            hint="n tokens have n - 1 pairs; `range(n - 1)` reaches the last one.",
            text="ch01#merge",
        ),
        "rank_zero": Diagnosis(
            says="the pair of rank 0 is never joined",
            think="is 0 true or false to Python?",
            hint="`ranks.get(pair) or ...` and `if ranks.get(pair)` take 0 for missing.",
            text="ch01#merge",
        ),
        "rightmost": Diagnosis(
            says="where a pair overlaps with itself, as in aaa, the right one is joined",
            think="in aaa, which two are joined first?",
            hint="One goes through the tokens from the left.",
            text="ch01#overlap",
        ),
        "overlap": Diagnosis(
            says="the second token of a pair that is joined stays there as well",
            think="where does the search go on after a pair was joined: with its second token,"
            " or after it?",
            hint="Join your tokens: are they longer than the piece?",
            text="ch01#overlap",
        ),
        "last_lost": Diagnosis(
            says="the last token is missing",
            think="what do your tokens make when they are joined?",
            hint="A loop over pairs ends one token before the end.",
            text="ch01#merge",
        ),
    },
    exclusive=(
        (
            *("left_to_right", "right_to_left", "highest_rank", "most_frequent", "longest_pair"),
            *("longest_match", "no_merge"),
        ),
        ("one_merge", "one_rank", "first_only"),
        ("rightmost", "overlap"),
    ),
    hidden={
        "no_merge+*": "where nothing is merged, it is not merged wrongly either",
        "longest_pair+one_merge": "at first all tokens are equally long",
        "longest_pair+one_rank": "at first all tokens are equally long",
        "longest_pair+bytes_only": "single bytes are equally long",
        "longest_pair+overlap": "the token that stays keeps long pairs apart",
        "one_merge+bytes_only": "the first merge is of single bytes",
        "one_rank+bytes_only": "the first merge is of single bytes",
        "leaves_two+skips_last_pair": "the only pair of two tokens is the last one",
        "longest_match+*": "what takes the longest token from the left merges nothing",
    },
    hints=(
        "Of all neighbours that could be joined, which two were joined first when the merges were"
        " learned?",
        "A list of tokens, at first one for each byte: `bytes` of length 1. Then again and again:"
        " among the pairs of neighbours that are keys of `ranks`, the one with the lowest rank."
        " It becomes one token wherever it stands. No such pair: done.",
        "cut the piece into single bytes\nrepeat\n    find the pair of neighbours of lowest rank\n"
        "    if none has a rank, stop\n    make a new list: go from the left, join the two where"
        " they are that pair and step over both, else keep one and step over it",
    ),
    alternatives=(one_pair_at_a_time, rank_by_rank, by_recursion),
    properties=(Property("the tokens joined are the piece", nothing_is_lost),),
    exceptions={
        r"^\(b['\"]": "that pair has no rank: not any two neighbours may be joined",
        r"concat|unsupported operand type|bytes-like object is required|expected \w+, int found": (
            "`for x in piece` gives numbers; a token of one byte is `bytes([x])` or"
            " `piece[i : i + 1]`"
        ),
        r"empty|list index out of range": (
            "at some time no pair is left, and at the end of the list no neighbour"
        ),
    },
    spots=(
        Spot(
            source="""def bpe(piece, ranks):
    tokens = [bytes([byte]) for byte in piece]
    while True:
        best = None
        for pair in pairwise(tokens):
            if ranks.get(pair) and (best is None or ranks[pair] < ranks[best]):
                best = pair
        if best is None:
            return tokens
        tokens = joined(tokens, best)
""",
            line=6,
            knob="rank_zero",
        ),
        Spot(
            source="""def joined(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            out.append(tokens[i] + tokens[i + 1])
            i += 1
        else:
            out.append(tokens[i])
            i += 1
    return out
""",
            line=6,
            knob="overlap",
        ),
        Spot(
            source="""def bpe(piece, ranks):
    tokens = [piece[i : i + 1] for i in range(len(piece))]
    while len(tokens) > 2:
        pairs = [pair for pair in pairwise(tokens) if pair in ranks]
        if not pairs:
            break
        best = min(pairs, key=ranks.get)
        tokens = joined(tokens, best)
    return tokens
""",
            line=3,
            knob="leaves_two",
        ),
    ),
)
