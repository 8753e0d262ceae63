"""1.5 train_bpe: how the merges are learned from text."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

from chapters.ch01_bytes_to_tokens import judges
from chapters.ch01_bytes_to_tokens.exercises import bpe, pretokenize
from chapters.ch01_bytes_to_tokens.verdict import TEXT
from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property
from gpt2_scratch.bpe import pretokenize as package_pretokenize

# --- the oracle: everything is counted again for each merge ---------------------------------------


def pieces_of(texts, knobs):
    if "lowered" in knobs:
        texts = [text.lower() for text in texts]
    if "texts_joined" in knobs:
        texts = ["".join(texts)]
    if "first_text_only" in knobs:
        texts = texts[:1]
    if "no_pieces" in knobs:
        return list(texts)
    if "spaces_lost" in knobs:
        return [word for text in texts for word in text.split()]
    cut = [pretokenize.reference(text, knobs=frozenset(), steps={}) for text in texts]
    return list(chain(*cut))


def symbols(piece, knobs):
    if "characters" in knobs:
        return [character.encode() for character in piece]
    return [bytes([byte]) for byte in piece.encode()]


def places(word, knobs):
    """The pairs of a word."""
    pairs = list(pairwise(word))
    if "runs_once" in knobs:  # aaa holds the pair a, a once
        kept, free = [], 0
        for i, pair in enumerate(pairs):
            if i >= free or pair[0] != pair[1]:
                kept.append(pair)
                free = i + 2 if pair[0] == pair[1] else free
        return kept
    return pairs


def chosen(counts, age, knobs):
    """The pair to merge."""
    sign = 1 if "rarest" in knobs else -1

    def order(pair):
        count = sign * counts[pair]
        if "ties_by_bytes" in knobs:
            return count, pair
        if "ties_by_joined" in knobs:
            return count, pair[0] + pair[1]
        if "ties_second_first" in knobs:
            return count, age[pair[1]], age[pair[0]]
        return count, age[pair[0]], age[pair[1]]

    if "ties_first_seen" in knobs:
        return min(counts, key=lambda pair: sign * counts[pair])
    if "ties_newest" in knobs:
        return min(counts, key=lambda p: (sign * counts[p], -age[p[0]], -age[p[1]]))
    return min(counts, key=order)


def reference(texts, n, *, knobs, steps):
    if "one_more" in knobs:
        n = n + 1
    found = Counter(pieces_of(texts, knobs))
    if "each_piece_once" in knobs:
        found = Counter(dict.fromkeys(found, 1))
    steps["how often each piece stands in the texts"] = dict(found)
    words = {piece: symbols(piece, knobs) for piece in found}
    age = {bytes([byte]): i for i, byte in enumerate(judges.byte_order())}
    for token in sorted(set(chain(*words.values())) - age.keys()):
        age[token] = len(age)
    merges, used = [], set()
    while len(merges) < n:
        if not ("never_recounted" in knobs and merges):
            counts = Counter()
            for piece, word in words.items():
                for pair in places(word, knobs):
                    counts[pair] += found[piece]
        if counts:
            steps[f"the counts of all pairs for merge {len(merges) + 1}"] = dict(counts)
        left = {pair: count for pair, count in counts.items() if pair not in used}
        if "stops_at_one" in knobs:
            left = {pair: count for pair, count in left.items() if count > 1}
        if not left:
            break
        best = chosen(left, age, knobs)
        merges.append(best)
        used.add(best)
        age.setdefault(best[0] + best[1], len(age))
        steps[f"the merges up to number {len(merges)}"] = list(merges)
        joins = {"first_only", "overlap"} & knobs
        words = {piece: bpe.join(word, best, joins) for piece, word in words.items()}
    return merges


# --- right in other ways ----------------------------------------------------------------------


def in_ids(texts, n):
    """With ids for tokens, as many tutorials have it, turned into bytes at the end."""
    order = judges.byte_order()
    id_of = {byte: i for i, byte in enumerate(order)}
    words = [
        [id_of[byte] for byte in piece.encode()]
        for text in texts
        for piece in package_pretokenize(text)
    ]
    tokens, pairs = [bytes([byte]) for byte in order], []
    while len(pairs) < n:
        counts = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        often = max(counts.values())
        best = min(pair for pair, count in counts.items() if count == often)
        pairs.append(best)
        tokens.append(tokens[best[0]] + tokens[best[1]])
        for k, word in enumerate(words):
            out = []
            for i in word:
                if out and (out[-1], i) == best:
                    out[-1] = len(tokens) - 1
                else:
                    out.append(i)
            words[k] = out
    return [(tokens[a], tokens[b]) for a, b in pairs]


def by_encoding_again(texts, n):
    """The texts are encoded anew with what has been learned, and counted."""
    order = [bytes([byte]) for byte in judges.byte_order()]
    learned = []
    while len(learned) < n:
        ranks = {pair: rank for rank, pair in enumerate(learned)}
        counts = Counter()
        for text in texts:
            for piece in package_pretokenize(text):
                tokens = bpe.one_pair_at_a_time(piece.encode(), ranks)
                counts.update(pairwise(tokens))
        if not counts:
            break
        made = [*order, *(a + b for a, b in learned)]
        ranked = sorted(counts, key=lambda p: (-counts[p], made.index(p[0]), made.index(p[1])))
        learned.append(ranked[0])
    return learned


def by_linked_words(texts, n):
    """Words as tuples under their counts; sorted in two steps."""
    words = Counter()
    for text in texts:
        words.update(
            tuple(bytes([b]) for b in p.encode("utf-8")) for p in package_pretokenize(text)
        )
    age = {bytes([byte]): i for i, byte in enumerate(judges.byte_order())}
    merges = []
    for _ in range(n):
        counts = Counter()
        for word, times in words.items():
            for i in range(len(word) - 1):
                counts[word[i : i + 2]] += times
        if not counts:
            return merges
        oldest = sorted(counts, key=lambda pair: (age[pair[0]], age[pair[1]]))
        first, second = sorted(oldest, key=counts.get, reverse=True)[0]
        merges.append((first, second))
        age[first + second] = len(age)
        after = Counter()
        for word, times in words.items():
            out, i = (), 0
            while i < len(word):
                step = 2 if word[i : i + 2] == (first, second) else 1
                out += (b"".join(word[i : i + step]),)
                i += step
            after[out] += times
        words = after
    return merges


# --- probes and properties ---------------------------------------------------------------------


def probe(name, texts, n):
    return Probe(name, lambda: (list(texts), n), gradient=False)


def of_a_story(answer):
    story = TEXT[:3000].split("\n\n")
    wanted = reference(story, 40, knobs=frozenset(), steps={})
    got = answer(story, 40)
    if got == wanted:
        return None
    at = next((i for i, pair in enumerate(got) if i >= 40 or pair != wanted[i]), len(got))
    mine, right = [each[at] if at < len(each) else "missing" for each in (got, wanted)]
    return f"of 40 merges learned from a story, number {at + 1} is {mine}, wanted {right}"


EXERCISE = Exercise(
    name="train_bpe",
    target="gpt2_scratch.bpe:train_bpe",
    minutes=40,
    axes="",
    needs=("bytes_to_unicode", "pretokenize", "bpe"),
    reference=reference,
    probes=(
        probe("one word", ["lolo"], 2),
        probe("a frequent word and a rare one", ["hug hug hug hug pug pun pun bun"], 6),
        probe("pairs equally frequent", ["zq zq Qz Qz \u00e9 ba ba ab ab"], 7),
        probe("six texts", ["in", "to", "go", "in", "to", "on"], 4),
        probe("runs of one letter", ["aaa aaa yx yxz yxv"], 5),
        probe("sentences with signs", ["It is, it is! It's IT, is it?"], 8),
        probe("letters of two and three bytes", ["\u00e9t\u00e9 \u00e9t\u00e9 \u65e5\u65e5"], 6),
        probe("fewer pairs than asked for", ["to to"], 9),
        probe("no merge asked for", ["abab"], 0),
        probe("no text", [], 3),
    ),
    knobs={
        "no_pieces": Diagnosis(
            says="pairs are counted across pieces, in the text as a whole",
            think="could a pair such as `e`, ` ` ever be merged when a text is encoded?",
            hint="Encoding cuts a text into pieces first. So does learning.",
            text="ch01#learn",
        ),
        "spaces_lost": Diagnosis(
            says="pairs are counted in words without their spaces",
            think="of which word is the space before it a part?",
            hint="`str.split` is not how GPT-2 cuts; you wrote a better one.",
            text="ch01#learn",
        ),
        "lowered": Diagnosis(
            says="pairs are counted in small letters",
            think="are `It` and `it` one token?",
            hint="Nothing about a text is changed before it is counted.",
            text="ch01#learn",
        ),
        "texts_joined": Diagnosis(
            says="the texts are joined before they are cut, so that words meet that don't",
            think="which pieces are there where one text ends and the next begins?",
            hint="Cut each text by itself.",
            text="ch01#learn",
        ),
        "first_text_only": Diagnosis(
            says="only the first text is counted",
            think="how many texts are in `texts`?",
            hint="Is the counter made anew inside a loop, or is there a return in it?",
            text="ch01#learn",
        ),
        "each_piece_once": Diagnosis(
            says="each different piece counts once, however often it stands in the texts",
            think="which pair is more frequent: one of a rare word, or one of a frequent word?",
            hint="A pair counts as often as its piece stands there.",
            text="ch01#learn",
        ),
        "characters": Diagnosis(
            says="learning begins with characters, not with bytes",
            think="how many different tokens may there be before the first merge?",
            hint="\u00e9 is two tokens at first, \u65e5 is three.",
            text="ch01#bytes",
        ),
        "never_recounted": Diagnosis(
            says="pairs are counted once, at the beginning, and the most frequent ones taken",
            think="which new pairs does a merge make, and which disappear?",
            hint="After `h`, `e` has become `he` there are fewer pairs `t`, `h`.",
            text="ch01#learn",
        ),
        "rarest": Diagnosis(
            says="the rarest pair is merged",
            think="which pair saves the most tokens when it becomes one?",
            hint="`min` or `max`, and with which sign?",
            text="ch01#learn",
        ),
        "ties_first_seen": Diagnosis(
            says="of equally frequent pairs the one that was seen first is merged",
            think="what does the docstring say about equally frequent pairs?",
            hint="`Counter.most_common` and `max` keep the first of equals.",
            text="ch01#ties",
        ),
        "ties_newest": Diagnosis(
            says="of equally frequent pairs the one with the newest tokens is merged",
            think="what does the docstring say about equally frequent pairs?",
            hint="`max` over (count, age) takes the largest age too.",
            text="ch01#ties",
        ),
        "ties_by_bytes": Diagnosis(
            says="of equally frequent pairs the one is merged whose bytes come first",
            think="which is older: the token of byte 32, or that of byte 33?",
            hint="The age of a token is its id: see `bytes_to_unicode`.",
            text="ch01#ties",
        ),
        "ties_by_joined": Diagnosis(
            says="of equally frequent pairs the one is merged whose joined bytes come first",
            think="which is older: the token of byte 32, or that of byte 33?",
            hint="The age of a token is its id: see `bytes_to_unicode`.",
            text="ch01#ties",
        ),
        "ties_second_first": Diagnosis(
            says="of equally frequent pairs the one whose second token is older is merged",
            think="which of the two tokens of a pair is asked first?",
            hint="The first one's age decides; the second one's only where the first is the same.",
            text="ch01#ties",
        ),
        "runs_once": Diagnosis(
            says="aaa counts as one pair a, a, where its two pairs of neighbours should count",
            think="how many neighbours are there in aaa?",
            hint="Counting looks at all neighbours; only merging has to skip.",
            text="ch01#overlap",
        ),
        "overlap": Diagnosis(
            says="the second token of a pair that is merged stays there as well",
            think="where does the search go on after a pair was merged: with its second token,"
            " or after it?",
            hint="Join the tokens of a word after a merge: is it still the word?",
            text="ch01#overlap",
        ),
        "first_only": Diagnosis(
            says="a pair is merged only where it first stands in a piece",
            think="how often can one pair stand in one word?",
            hint="`lolo` has l, o twice.",
            text="ch01#merge",
        ),
        "stops_at_one": Diagnosis(
            says="learning stops when no pair stands twice in the texts",
            think="when is there nothing left to merge?",
            hint="A rule of taste that GPT-2's way doesn't have: `n` merges were asked for.",
            text="ch01#learn",
        ),
        "one_more": Diagnosis(
            says="there is one merge too many",
            think="how many merges are there when the loop ends?",
            hint="`<` or `<=`?",
            text="ch01#learn",
        ),
    },
    exclusive=(
        ("no_pieces", "spaces_lost"),
        ("ties_first_seen", "ties_newest", "ties_by_bytes", "ties_by_joined", "ties_second_first"),
        ("texts_joined", "first_text_only"),
        ("never_recounted", "overlap", "first_only"),
    ),
    hidden={
        "rarest+runs_once": "counted once or twice, a run is not the rarest pair",
        "rarest+first_only": "the rarest pair hardly ever stands twice in a piece",
        "overlap+stops_at_one": "tokens that stay keep every pair as frequent as it was",
    },
    hints=(
        "Which two neighbours, made one token, would shorten the texts the most?",
        "A dict from each different piece to how often it stands in the texts, and for each piece"
        " its list of tokens, at first single bytes. A merge is a round: count the pairs of"
        " neighbours, each as often as its piece stands there; take the best; join it in every"
        " piece. The age of a token decides between equals: keep a dict for it.",
        "count the pieces of all texts\ncut each different piece into single bytes\n"
        "repeat n times\n"
        "    count every pair, times the count of its piece\n    stop if there is none\n"
        "    take the most frequent, of equals the oldest\n    note it; the new token is the"
        " youngest\n    join it wherever it stands",
    ),
    alternatives=(in_ids, by_encoding_again, by_linked_words),
    properties=(Property("40 merges of a story", of_a_story),),
    exceptions={
        r"iterable argument is empty|arg is an empty sequence|list index out of range": (
            "at some time no pair is left: then learning ends, however many were asked for"
        ),
        r"^b['\"]": "this token has no age yet: does a new token get one?",
        r"changed size during iteration": "a dict grows or shrinks while a loop goes through it",
    },
)
