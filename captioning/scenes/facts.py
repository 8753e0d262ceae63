"""What a scene says: its facts, the caption they make, and the way back.

The facts of a scene with n objects are 2 + 4n: how many objects there are, the background, and
each object's size, colour, shape and place. Every word of a caption follows from them, so that
nothing in it is left to chance and all of it can be learned from the picture.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Fact = tuple[str, str, str, str]  # size, colour, shape, place
Reading = tuple[list[Fact], str | None]  # the objects and the background; None: not said

# The order inside each tuple is also the order in which a caption lists its objects.
SIZES = ("large", "small")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the middle",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
BACKGROUNDS = ("sky", "grass", "sand", "water", "bricks", "stones")
MOST_OBJECTS = 4

_VERBS = ("there is", "we can see", "there are three shapes:", "we can see four shapes:")
_BEHIND = {
    "sky": "we can see the sky",
    "grass": "there is grass",
    "sand": "we can see sand",
    "water": "there is water",
    "bricks": "we can see a wall of bricks",
    "stones": "there is a floor of stones",
}


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """The objects as a caption lists them: by place as one reads, then size, colour, shape."""
    return sorted(
        facts,
        key=lambda fact: (
            PLACES.index(fact[3]),
            SIZES.index(fact[0]),
            COLOURS.index(fact[1]),
            SHAPES.index(fact[2]),
        ),
    )


def describe(facts: Iterable[Fact], background: str) -> str:
    """The one caption of these facts, in whatever order they come.

    The opening depends on the first object's shape and on the count, the end on the background.
    """
    ordered = in_order(facts)
    if not 1 <= len(ordered) <= MOST_OBJECTS:
        raise ValueError(
            f"a scene holds 1 to {MOST_OBJECTS} objects, got {len(ordered)}. Pass that many facts."
        )
    medium = "image" if ordered[0][2] in ("circle", "ring", "star") else "picture"
    phrases = ["a " + " ".join(fact) for fact in ordered]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
    opening = f"In this {medium} {_VERBS[len(ordered) - 1]} {listed}."
    return f"{opening} In the background {_BEHIND[background]}."


# ---- reading -----------------------------------------------------------------------------------

# "at the top left" is read by its last words, longest first, whatever preposition came before.
_PLACE_WORDS = {place.split("the ")[1]: place for place in PLACES}
_KINDS = (SIZES, COLOURS, SHAPES)
_TOKEN = re.compile(
    r"\b(?:{}|[a-z]+)\b|[.!?]".format("|".join(sorted(_PLACE_WORDS, key=len, reverse=True)))
)


def read_facts(text: str) -> Reading:
    """The objects a text names, in its own order, and its first background (None: none named).

    Any text will do: unknown words are passed over, and an object counts only when size, colour,
    shape and place follow one another. "a", a second word of a kind or a full stop begins anew.
    """
    facts: list[Fact] = []
    background = None
    begun: list[str] = []  # size, colour, shape: as far as this object has been read
    for token in _TOKEN.findall(" ".join(text.lower().replace("-", " ").split())):
        if token in BACKGROUNDS:
            background = background or token
        elif token in _PLACE_WORDS:
            if len(begun) == 3:
                facts.append((begun[0], begun[1], begun[2], _PLACE_WORDS[token]))
            begun = []
        elif token in SIZES:
            begun = [token]
        elif token in COLOURS or token in SHAPES:
            expected = len(begun) < 3 and token in _KINDS[len(begun)]
            begun = [*begun, token] if expected else []
        elif token in ("a", ".", "!", "?"):
            begun = []
    return facts, background


# ---- scoring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Facts of one scene (or, added up, of many): said, drawn, and both."""

    right: int
    said: int
    drawn: int
    exact: bool

    @property
    def precision(self) -> float:
        return self.right / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.drawn if self.drawn else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.said + self.drawn) if self.said + self.drawn else 0.0


def score_facts(said: Reading, drawn: Reading) -> Score:
    """Compares what was said of a scene with what was drawn: two (facts, background) pairs.

    Objects are paired so that most facts agree; a pair gives up to four right facts, the count
    and the background one each. A said fact that is not drawn costs precision, a drawn one that
    is not said recall. A text without objects says no count. Exact: all right, none invented.
    """
    counted = bool(said[0]) and len(said[0]) == len(drawn[0])
    behind = said[1] is not None and said[1] == drawn[1]
    agreements = sum(_agreement(said[0][i], drawn[0][j]) for i, j in _pairs(said[0], drawn[0]))
    return Score(
        right=counted + behind + agreements,
        said=bool(said[0]) + (said[1] is not None) + 4 * len(said[0]),
        drawn=bool(drawn[0]) + (drawn[1] is not None) + 4 * len(drawn[0]),
        exact=sorted(said[0]) == sorted(drawn[0]) and said[1] == drawn[1],
    )


def summarise(scores: Iterable[Score]) -> dict[str, float]:
    """Many scenes' scores as one: facts pooled over all scenes, exact match as a share of them."""
    scores = list(scores)
    if not scores:
        raise ValueError("no scores to summarise. Score at least one scene.")
    pooled = Score(
        right=sum(score.right for score in scores),
        said=sum(score.said for score in scores),
        drawn=sum(score.drawn for score in scores),
        exact=all(score.exact for score in scores),
    )
    return {
        "facts_precision": pooled.precision,
        "facts_recall": pooled.recall,
        "facts_f1": pooled.f1,
        "exact_match": sum(score.exact for score in scores) / len(scores),
        "n": len(scores),
    }


def explain(said: Reading, drawn: Reading) -> list[tuple[str, bool]]:
    """Each said fact and whether it is right, as `score_facts` counts them; then what is unsaid."""
    facts, background = said
    pairs = dict(_pairs(facts, drawn[0]))
    lines = []
    if facts:
        number = f"{len(facts)} object" + "s" * (len(facts) > 1)
        lines.append((number, len(facts) == len(drawn[0])))
    for i, fact in enumerate(facts):
        truth = drawn[0][pairs[i]] if i in pairs else (None,) * 4
        lines += [(f"object {i + 1}: {a}", a == b) for a, b in zip(fact, truth, strict=True)]
    if background is not None:
        lines.append((f"background: {background}", background == drawn[1]))
    unsaid = [" ".join(f) for j, f in enumerate(drawn[0]) if j not in pairs.values()]
    if background is None and drawn[1] is not None:
        unsaid.append(f"background {drawn[1]}")
    return lines + [(f"not said: {fact}", False) for fact in unsaid]


def _agreement(one: Fact, other: Fact) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def _pairs(said: Sequence[Fact], drawn: Sequence[Fact]) -> list[tuple[int, int]]:
    """The pairing (said index, drawn index), as many as possible, with the most facts agreeing.

    Goes through the said objects keeping the best pairing for each set of drawn ones used up:
    16 sets at most, however many objects a broken caption names.
    """
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}  # used -> agreement, pairs
    for i, fact in enumerate(said):
        for used, (agreed, pairs) in list(best.items()):
            for j, other in enumerate(drawn):
                if used >> j & 1:
                    continue
                total = agreed + _agreement(fact, other)
                if (used | 1 << j) not in best or total > best[used | 1 << j][0]:
                    best[used | 1 << j] = (total, [*pairs, (i, j)])
    return max(best.values(), key=lambda entry: (entry[0], len(entry[1])))[1]
