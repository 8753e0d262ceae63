"""2.1 embed: two tables, two look-ups, one sum."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import ids as some_ids
from chapters.runner.inputs import numbers


def embed(ids: torch.Tensor, wte: torch.Tensor, wpe: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Each token's row of wte (V, C) plus its position's row of wpe (P, C).

    (B, T) -> (B, T, C). The first column of ids stands at position `start`; start + T <= P.
    """
    return wte[ids] + wpe[start : start + ids.shape[1]]


def reference(ids, wte, wpe, start=0, *, knobs, steps):
    batch, tokens = ids.shape
    start = 0 if "no_start" in knobs else start
    count = torch.arange(tokens)
    if "backwards" in knobs:
        count = tokens - 1 - count
    if "one_position" in knobs:
        count = torch.zeros_like(count)
    if "by_row" in knobs:
        count = torch.arange(batch)[:, None].expand(batch, tokens)
    positions = ids if "by_id" in knobs else count + start + int("from_one" in knobs)
    words = F.embedding(ids, wte)
    if "sqrt_c" in knobs:
        words = words * math.sqrt(wte.shape[1])
    steps["the rows of wte"] = words
    places = F.embedding(positions, wpe)
    steps["the rows of wpe"] = places
    places = places.expand(words.shape)
    if "detached" in knobs:
        places = places.detach()
    if "concatenated" in knobs:
        return torch.cat([words, places], -1)
    if "multiplied" in knobs:
        return words * places
    if "no_positions" in knobs:
        return words
    return places if "only_positions" in knobs else words + places


def inputs(batch=2, tokens=5, start=0, table=13):
    ids = some_ids(batch, tokens, below=11, seed=batch + tokens)
    return ids, numbers(11, 4, seed=51), numbers(table, 4, seed=52), start


# --- right in other ways ----------------------------------------------------------------------


def by_embedding(ids, wte, wpe, start=0):
    positions = torch.arange(start, start + ids.shape[-1])
    return F.embedding(ids, wte) + F.embedding(positions, wpe)


def by_one_hot(ids, wte, wpe, start=0):
    words = F.one_hot(ids, len(wte)).to(wte) @ wte
    return words + wpe.narrow(0, start, ids.shape[1])[None]


def by_loops(ids, wte, wpe, start=0):
    rows = []
    for row in ids.tolist():
        rows.append(torch.stack([wte[token] + wpe[start + t] for t, token in enumerate(row)]))
    return torch.stack(rows)


# --- what holds for every right answer ---------------------------------------------------------


def rows_alone(answer):
    ids, wte, wpe, _ = inputs()
    whole = answer(ids, wte, wpe)
    alone = answer(ids[1:], wte, wpe)
    if torch.equal(whole[1:], alone):
        return None
    return "row 1 alone gives something else than row 1 in a batch of two"


def in_two_pieces(answer):
    ids, wte, wpe, _ = inputs(tokens=7)
    whole = answer(ids, wte, wpe)
    pieces = torch.cat([answer(ids[:, :3], wte, wpe), answer(ids[:, 3:], wte, wpe, 3)], 1)
    if torch.equal(whole, pieces):
        return None
    return "seven tokens at once differ from three and then, from start 3 on, four"


EXERCISE = Exercise(
    name="embed",
    target="chapters.ch02_embeddings.exercises.embed:embed",
    minutes=10,
    axes="batch token channel",
    reference=reference,
    probes=(
        Probe("from the beginning", inputs),
        Probe("start 3", lambda: inputs(start=3)),
        Probe("one new token at position 6", lambda: inputs(batch=3, tokens=1, start=6)),
        Probe("up to the last row of wpe", lambda: inputs(tokens=7, start=1, table=8)),
    ),
    knobs={
        "no_start": Diagnosis(
            says="`start` is not used: every text begins at position 0",
            think="at which position does the first column of `ids` stand?",
            hint="With a cache only the new tokens come in; `start` says how many came before.",
            text="ch02#positions",
        ),
        "from_one": Diagnosis(
            says="positions are counted from 1, so the last token asks for a row behind the table",
            think="which row of wpe belongs to the first token of a text?",
            hint="Rows are counted as Python counts.",
            text="ch02#positions",
        ),
        "by_id": Diagnosis(
            says="the rows of wpe are picked by token id, not by position",
            think="what does a token's place in the text have to do with its id?",
            hint="The same word at two places must get two different rows of wpe.",
            text="ch02#positions",
        ),
        "by_row": Diagnosis(
            says="the number of the row in the batch stands for the position",
            think="along which axis of (B, T) does one text run?",
            hint="Row 0 of the batch is one text, row 1 another; both begin at `start`.",
            text="ch02#positions",
        ),
        "one_position": Diagnosis(
            says="all tokens of a text get one and the same row of wpe, that of `start`",
            think="how many different positions do T tokens have?",
            hint="T rows of wpe are needed, beginning with row `start`.",
            text="ch02#positions",
        ),
        "backwards": Diagnosis(
            says="positions are counted from the end of the text",
            think="which token has the lowest position, the first or the last?",
            hint="Left to right, as the text is read.",
            text="ch02#positions",
        ),
        "no_positions": Diagnosis(
            says="these are the rows of wte alone; positions are missing",
            think='how would a model tell "dog bites man" from "man bites dog"?',
            hint="A second table waits to be used.",
            text="ch02#positions",
        ),
        "only_positions": Diagnosis(
            says="these are the rows of wpe alone; the words are missing",
            think="does your output depend on `ids` at all?",
            hint="Change an id: which number of your output changes?",
            text="ch02#tables",
        ),
        "concatenated": Diagnosis(
            says="the two rows are put end to end, so a token has 2C channels",
            think="how wide may a token be, so that the first block can take it?",
            hint="What comes out is as wide as each of the rows that go in.",
            text="ch02#sum",
        ),
        "multiplied": Diagnosis(
            says="the two rows are multiplied channel by channel",
            think="how does GPT-2 join a word and its place?",
            hint="Where wpe is 0, the word should be as it is in wte.",
            text="ch02#sum",
        ),
        "sqrt_c": Diagnosis(
            says="the rows of wte are multiplied by sqrt(C), as the first Transformer did",
            think="does GPT-2 change the size of its embeddings?",
            hint="The paper of 2017 has that factor, OpenAI's model.py has not.",
            text="ch02#sum",
        ),
        "detached": Diagnosis(
            says="the values are right, but no gradient reaches wpe",
            think="is wpe learned, or a fixed table of sines?",
            hint="Look for `.data`, `.detach()` or `no_grad` around the positions.",
            text="ch02#positions",
        ),
    },
    exclusive=(
        ("no_positions", "only_positions", "concatenated", "multiplied"),
        ("by_id", "by_row", "one_position", "backwards"),
        ("by_id", "from_one"),
        ("by_id", "no_start"),
        ("no_positions", "from_one"),
        ("no_positions", "by_id", "by_row", "one_position", "backwards"),
        ("no_positions", "no_start"),
        ("only_positions", "sqrt_c"),
        ("no_positions", "detached"),
    ),
    hidden={"detached+*": "the values tell the other mistake, and gradients are looked at after"},
    hints=(
        "A token has an id and a place. Which table knows about the one, which about the other?",
        "Indexing wte (V, C) with ids (B, T) gives (B, T, C): a row for each id. The positions are"
        " `start` and the T - 1 after it, the same for every text of the batch: T rows of wpe,"
        " (T, C), which fit beside (B, T, C).",
        "rows of wte at the ids\nrows of wpe from `start` on, as many as a text has tokens\n"
        "add the two",
    ),
    alternatives=(by_embedding, by_one_hot, by_loops),
    properties=(
        Property("each text for itself", rows_alone),
        Property("two pieces are the whole", in_two_pieces),
    ),
    exceptions={
        r"index out of range|out of bounds": (
            "a row was asked for that the table doesn't have; positions run from 0 to P - 1, and"
            " ids from 0 to V - 1"
        ),
        r"indices must be|tensors used as indices": (
            "a table is indexed by whole numbers (int64); what goes into the brackets is not"
        ),
    },
    secrets=("no_start", "by_id", "sqrt_c", "backwards"),
    spots=(
        Spot(
            source="""def embed(ids, wte, wpe, start=0):
    batch, tokens = ids.shape
    words = wte[ids]
    positions = torch.arange(tokens)
    places = wpe[positions]
    return words + places
""",
            line=4,
            knob="no_start",
        ),
    ),
)
