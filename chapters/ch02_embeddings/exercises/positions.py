"""2.4 positions: a token's place among the real tokens of its row."""

from __future__ import annotations

import torch

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot


def positions(mask: torch.Tensor) -> torch.Tensor:
    """A real token's position: how many real tokens stand before it in its row.

    padding_mask (B, T), True = padding -> (B, T) int64. Padding may get any number in 0 ... T - 1.
    """
    return ((~mask).cumsum(-1) - 1).clamp(min=0)


def use(answer, mask):
    """Padding's position is free as long as wpe has such a row: it is told as 0."""
    found = answer(mask)
    if not isinstance(found, torch.Tensor) or found.shape != mask.shape or found is mask:
        return found
    free = mask & (found >= 0) & (found < mask.shape[1])
    return found.masked_fill(free, 0)


def reference(mask, *, knobs, steps):
    real = (~mask).long()
    if "counts_padding" in knobs:
        real = mask.long()
    axis = 0 if "over_batch" in knobs else 1
    count = real.cumsum(axis)
    steps["how many real tokens there are so far"] = count
    column = torch.arange(mask.shape[1]).expand(mask.shape)
    padding = mask.sum(1, keepdim=True)
    if "columns" in knobs:
        found = column
    elif "less_padding" in knobs:
        found = column - padding
    elif "from_first" in knobs:
        found = column - (~mask).int().argmax(1, keepdim=True)
    elif "as_attention_mask" in knobs:
        found = torch.where(mask, mask.long().cumsum(1) - 1, 1)
    elif "backwards" in knobs:
        found = count[:, -1:] - count
    else:
        found = count - int("from_one" not in knobs)
    if "no_clamp" not in knobs:
        found = found.clamp(min=0)
    if "first_row" in knobs:
        found = found[:1].expand(mask.shape)
    if "floats" in knobs:
        found = found.double()
    found = torch.where(mask & (found >= 0) & (found < mask.shape[1]), 0, found)
    steps["the positions"] = found
    return found


def masks(*rows):
    """`x` is padding, `.` a real token."""
    return (torch.tensor([[letter == "x" for letter in row] for row in rows]),)


# --- right in other ways ----------------------------------------------------------------------


def as_hugging_face(mask):
    """1 at padding, as that library has it."""
    return ((~mask).long().cumsum(-1) - 1).masked_fill(mask, 1)


def by_counting_before(mask):
    """Real tokens strictly before each, by a product with a triangle."""
    before = torch.ones(mask.shape[1], mask.shape[1]).triu(1)
    return ((~mask).float() @ before).long().clamp(max=mask.shape[1] - 1)


def by_loops(mask):
    rows = []
    for row in mask.tolist():
        place, found = 0, []
        for padded in row:
            found.append(0 if padded else place)
            place += not padded
        rows.append(found)
    return torch.tensor(rows)


def by_columns(mask):
    """Each column's number less the padding before it; padding itself gets its own column."""
    column = torch.arange(mask.shape[1])
    return torch.where(mask, column, column - mask.long().cumsum(1))


# --- what holds for every right answer ---------------------------------------------------------


def real_tokens_count_up(answer):
    (mask,) = masks("xx.x..x.", "........", "x......x")
    for row, hidden in zip(answer(mask), mask, strict=True):
        if row[~hidden].tolist() != list(range(int((~hidden).sum()))):
            return f"the real tokens of a row got {row[~hidden].tolist()}, not 0, 1, 2, ..."
    return None


EXERCISE = Exercise(
    name="positions",
    target="chapters.ch02_embeddings.exercises.positions:positions",
    minutes=10,
    axes="row column",
    reference=reference,
    use=use,
    probes=(
        Probe("padded on the left", lambda: masks("xx...", ".....", "xxxx.")),
        Probe("no padding", lambda: masks(".....", ".....", ".....")),
        Probe("padded on the right", lambda: masks("...xx", ".....", ".xxxx")),
        Probe(
            "padded in the middle: a prompt and its continuation",
            lambda: masks("..xx...", "x......"),
        ),
    ),
    knobs={
        "columns": Diagnosis(
            says="the number of the column stands for the position, padded or not",
            think="at which position should the first real token of a left-padded row be?",
            hint="The same text, alone and padded, must get the same positions.",
            text="ch02#padded-positions",
        ),
        "no_clamp": Diagnosis(
            says="padding on the left gets position -1, and wpe[-1] is its last row",
            think="what does Python do with the index -1?",
            hint="Any row of the table will do for padding, but it must be one that exists.",
            text="ch02#padded-positions",
        ),
        "from_one": Diagnosis(
            says="the first real token is at position 1",
            think="does the count of real tokens include the token itself?",
            hint="Positions are how many stand *before*.",
            text="ch02#padded-positions",
        ),
        "counts_padding": Diagnosis(
            says="padding is counted, not the real tokens",
            think="is the mask True or False at a real token?",
            hint="True is padding; `~` turns it round.",
            text="ch02#mask",
        ),
        "over_batch": Diagnosis(
            says="the count runs down the batch, not along the row",
            think="along which axis does a text run?",
            hint="`cumsum` wants to know the axis; (B, T) counts from 0.",
            text="ch02#padded-positions",
        ),
        "less_padding": Diagnosis(
            says="all the padding of a row is taken off each column, also what comes behind it",
            think="how much of a row's padding stands before a given token?",
            hint="Padding on the right moves no token.",
            text="ch02#padded-positions",
        ),
        "from_first": Diagnosis(
            says="columns are counted from the first real token: right unless padding is in the"
            " middle",
            think="what if there is padding between two real tokens?",
            hint="That happens: a prompt padded on the right, then the tokens written after it.",
            text="ch02#padded-positions",
        ),
        "first_row": Diagnosis(
            says="every row gets the positions of row 0",
            think="is the padding the same in each row?",
            hint="The positions are (B, T), with a row for each row.",
            text="ch02#padded-positions",
        ),
        "backwards": Diagnosis(
            says="these are the numbers of real tokens that are still to come",
            think="is it the tokens before it or those after it that make a token's position?",
            hint="The first real token is at position 0, not the last.",
            text="ch02#padded-positions",
        ),
        "as_attention_mask": Diagnosis(
            says="every real token gets 1, as padding does from Hugging Face's two lines: they were"
            " given a mask that is True at padding, and expect one that is 1 at real tokens",
            think="is this mask true at real tokens or at padding?",
            hint="Turn the mask round first.",
            text="ch02#mask",
        ),
        "floats": Diagnosis(
            says="the positions are floats, and a table can't be indexed by those",
            think="which dtype must an index have?",
            hint="Whole numbers: int64, which torch also calls `long`.",
            text="ch02#padded-positions",
        ),
    },
    exclusive=(
        ("columns", "less_padding", "from_first", "as_attention_mask", "backwards", "from_one"),
        ("columns", "less_padding", "from_first", "counts_padding", "as_attention_mask"),
        ("columns", "less_padding", "from_first", "over_batch"),
        ("columns", "no_clamp"),
        ("columns", "first_row"),
        ("no_clamp", "from_one", "as_attention_mask", "backwards"),
        ("over_batch", "as_attention_mask"),
    ),
    hidden={"floats+*": "wrong numbers are told first, and their dtype when they are right"},
    hints=(
        "Row by row: how many real tokens stand before this one? Why is that the same, however much"
        " padding there is?",
        "The mask turned round is 1 at real tokens. Its running total along the row counts a real"
        " token itself as well, so it is one too high. On the left it is then below 0 at padding,"
        " where any row of the table may stand instead.",
        "turn the mask round\nrunning total along the row\none less\nnothing below zero",
    ),
    alternatives=(as_hugging_face, by_counting_before, by_loops, by_columns),
    properties=(Property("real tokens count 0, 1, 2, ...", real_tokens_count_up),),
    exceptions={
        r"Negation, the `-` operator, on a bool|Subtraction, the `-` operator, with": (
            "True and False can't be subtracted; turn a mask round with `~`"
        ),
    },
    secrets=("no_clamp", "less_padding", "from_first", "first_row"),
    spots=(
        Spot(
            source="""def positions(mask):
    batch, tokens = mask.shape
    column = torch.arange(tokens)[None]
    padding = mask.sum(1, keepdim=True)
    found = column - padding
    return found.clamp(min=0)
""",
            line=4,
            knob="less_padding",
        ),
    ),
)
