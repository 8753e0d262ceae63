"""causal_mask: where the future is."""

from __future__ import annotations

import torch
from torch import Tensor

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Spot


def causal_mask(queries: int, keys: int) -> Tensor:
    """True where a query may not look, because the key comes after it: (T, S), bool.

    The T queries are the last T of the S tokens: T = S, or fewer when earlier ones are known.
    """
    every = torch.ones(queries, keys, dtype=torch.bool)
    return every.triu(keys - queries + 1)  # (T, S)


# --- the oracle -------------------------------------------------------------------------------


def reference(queries, keys, *, knobs, steps):
    first = keys - queries  # the place of the first query among the tokens
    if "square_only" in knobs:
        first = 0
    if "offset_backwards" in knobs:
        first = queries - keys
    place = torch.arange(queries)[:, None] + first
    key = torch.arange(keys)[None]
    steps["the place of each query"], steps["the place of each key"] = place, key
    if "mask_diag" in knobs:
        hidden = key >= place
    elif "mask_late" in knobs:
        hidden = key > place + 1
    elif "mask_lower" in knobs:
        hidden = key < place
    elif "no_causal" in knobs:
        hidden = (key > place) & False
    else:
        hidden = key > place
    if "inverted" in knobs:
        hidden = ~hidden
    if "transposed" in knobs:
        hidden = hidden.T
    if "additive" in knobs:
        return torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    return hidden


# --- right in other ways ----------------------------------------------------------------------


def by_comparing(queries, keys):
    own = torch.arange(keys - queries, keys)
    return torch.arange(keys) > own[:, None]


def by_loops(queries, keys):
    rows = [[s > t + keys - queries for s in range(keys)] for t in range(queries)]
    return torch.tensor(rows)


def by_cutting(queries, keys):
    square = torch.tril(torch.ones(keys, keys))
    return square[keys - queries :] == 0


def by_joining(queries, keys):
    known = torch.zeros(queries, keys - queries, dtype=torch.bool)
    square = torch.ones(queries, queries, dtype=torch.bool).triu(1)
    return torch.cat([known, square], 1)


EXERCISE = Exercise(
    name="causal_mask",
    target="chapters.ch04_one_head.exercises.causal_mask:causal_mask",
    minutes=10,
    axes="query key",
    reference=reference,
    probes=(
        Probe("5 tokens, all of them queries", lambda: (5, 5)),
        Probe("the last 3 of 7 tokens", lambda: (3, 7)),
        Probe("the newest of 4 tokens", lambda: (1, 4)),
        Probe("one token", lambda: (1, 1)),
    ),
    knobs={
        "mask_diag": Diagnosis(
            says="a token can't see itself, so the first one sees nothing at all",
            think="what is the first token to look at?",
            hint="The diagonal of a square mask is False.",
            text="ch04#mask",
        ),
        "mask_late": Diagnosis(
            says="each token sees one token of its future",
            think="which diagonal is the first that is hidden?",
            hint="Write the mask for three tokens on paper.",
            text="ch04#mask",
        ),
        "mask_lower": Diagnosis(
            says="the past is hidden and the future visible",
            think="does the row of the mask belong to the query or to the key?",
            hint="Row t is what query t may not see: for t = 0 that is everything but key 0.",
            text="ch04#mask",
        ),
        "no_causal": Diagnosis(
            says="nothing is hidden",
            think="for the first of five tokens, which keys lie in its future?",
            hint="Compare the place of the key with the place of the query.",
            text="ch04#mask",
        ),
        "inverted": Diagnosis(
            says="True stands where a query may look",
            think="does True mean look or don't look in this course?",
            hint="Every mask of this course is called `hidden`, and True is hidden.",
            text="ch04#mask",
        ),
        "square_only": Diagnosis(
            says="the first query is taken for the first token: the mask is aligned at its upper"
            " left corner",
            think="with three queries and seven keys, which token is the first query?",
            hint="The newest query may look at every key. Count from the lower right corner.",
            text="ch04#rectangle",
        ),
        "offset_backwards": Diagnosis(
            says="the mask is moved to the wrong side when there are more keys than queries",
            think="is the first query before the first key, or after it?",
            hint="With more keys than queries, more is visible in each row, not less.",
            text="ch04#rectangle",
        ),
        "transposed": Diagnosis(
            says="rows are keys and columns queries",
            think="which of the two numbers is the height of the table?",
            hint="The mask lies on the scores, which are (query, key).",
            text="ch04#rectangle",
        ),
        "additive": Diagnosis(
            says="this is a mask to add to the scores, 0 and -inf, not one of yes and no",
            think="what kind of value answers `may not look`?",
            hint="A bool can be joined with other masks by |; -inf comes in with exercise 4.3.",
            text="ch04#mask",
        ),
    },
    exclusive=(
        ("mask_diag", "mask_late", "mask_lower", "no_causal"),
        ("square_only", "offset_backwards"),
        ("mask_diag", "mask_lower", "inverted"),  # two of them are the third
    ),
    hidden={
        "no_causal+additive": "a mask of zeros hides nothing, whatever it is made of",
        "no_causal+square_only": "where nothing is hidden there is no corner to count from",
        "no_causal+offset_backwards": "where nothing is hidden there is nothing to move",
    },
    hints=(
        "Key s is hidden from query t when it comes later. With 7 tokens of which the last 3 are"
        " queries, what is the place of query 0 among the 7?",
        "The place of query t is t + S - T. Key s is in its future when s is larger. As a table"
        " (T, S), the hidden part is a triangle in the upper right, and its last row is empty.",
        "take a table of True, queries by keys\nkeep the triangle above a diagonal\n"
        "for a square the first diagonal kept is the one next to the main one\n"
        "for each key more than there are queries, move it one to the right",
    ),
    alternatives=(by_comparing, by_loops, by_cutting, by_joining),
    exceptions={
        r"triu|tril": "`triu` and `tril` want the number of the diagonal, 0 for the main one",
    },
    spots=(
        Spot(
            source=(
                "def causal_mask(queries, keys):\n"
                "    rows = []\n"
                "    for t in range(queries):\n"
                "        own = t\n"
                "        rows.append([s > own for s in range(keys)])\n"
                "    return torch.tensor(rows)\n"
            ),
            line=4,
            knob="square_only",
        ),
    ),
)
