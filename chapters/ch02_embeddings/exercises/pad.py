"""2.3 pad: lists of unequal length become one tensor, and a mask says what is real."""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot


def pad(rows: list[list[int]], pad_id: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and padding_mask, both (B, T), of B lists of ids: T is the length of the longest.

    Shorter rows are filled with pad_id on their "left" or "right". The mask is True at padding.
    """
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.ones(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        first = longest - len(row) if side == "left" else 0
        ids[i, first : first + len(row)] = torch.tensor(row)
        mask[i, first : first + len(row)] = False
    return ids, mask


def reference(rows, pad_id, side, *, knobs, steps):
    longest = max(map(len, rows))
    longest = len(rows[0]) if "first_length" in knobs else longest
    longest = min(map(len, rows)) if "shortest" in knobs else longest
    longest += "one_more" in knobs
    if "always_left" in knobs or "always_right" in knobs:
        side = "left" if "always_left" in knobs else "right"
    fill = 0 if "zeros" in knobs else pad_id
    filled, masks = [], []
    for row in rows:
        kept = row[:longest]
        gap = longest - len(kept)
        real, padding = [False] * len(kept), [True] * gap
        if side == "left" and "turned" not in knobs:
            filled.append([fill] * gap + kept)
            masks.append(padding + real)
        elif side == "left":
            filled.append(kept[::-1] + [fill] * gap)
            masks.append(real + padding)
        else:
            filled.append(kept + [fill] * gap)
            masks.append(real + padding)
    steps["the filled rows"] = ids = torch.tensor(filled, dtype=torch.int64)
    mask = torch.tensor(masks)
    if "mask_by_id" in knobs:
        mask = ids == pad_id
    if "mask_inverted" in knobs:
        mask = ~mask
    if "numbers" in knobs:
        mask = mask.long()
    if "ids_alone" in knobs:
        return ids
    return (mask, ids) if "swapped" in knobs else (ids, mask)


# --- right in other ways ----------------------------------------------------------------------


def by_lists(rows, pad_id, side):
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap, real = [pad_id] * (longest - len(row)), [False] * len(row)
        hidden = [True] * len(gap)
        ids.append(gap + row if side == "left" else row + gap)
        mask.append(hidden + real if side == "left" else real + hidden)
    return torch.tensor(ids), torch.tensor(mask)


def by_pad_sequence(rows, pad_id, side):
    """Turned round for the left side, filled on the right, and turned back."""
    turn = -1 if side == "left" else 1
    tensors = [torch.tensor(row[::turn], dtype=torch.int64) for row in rows]
    ids = pad_sequence(tensors, batch_first=True, padding_value=pad_id)
    mask = torch.arange(ids.shape[1]) >= torch.tensor([len(row) for row in rows])[:, None]
    return (ids.flip(1), mask.flip(1)) if side == "left" else (ids, mask)


def by_counting(rows, pad_id, side):
    lengths = torch.tensor([[len(row)] for row in rows])
    longest = int(lengths.max())
    column = torch.arange(longest)
    mask = column < longest - lengths if side == "left" else column >= lengths
    ids = torch.full(mask.shape, pad_id)
    ids[~mask] = torch.tensor([token for row in rows for token in row])
    return ids, mask


# --- what holds for every right answer ---------------------------------------------------------


def the_real_tokens_are_the_rows(answer):
    rows = [[5, 8], [3, 1, 4, 1, 5, 9], [7], [2, 6, 5]]
    for side in ("left", "right"):
        ids, mask = answer(rows, 0, side)
        back = [row[~hidden].tolist() for row, hidden in zip(ids, mask, strict=True)]
        if back != rows:
            return f"on the {side}: ids where the mask is False are {back}, the rows were {rows}"
    return None


def one_of_a_kind(answer):
    """A row alone needs no padding."""
    ids, mask = answer([[4, 2, 3]], 9, "left")
    if ids.tolist() == [[4, 2, 3]] and not mask.any():
        return None
    return "one row alone came back padded or changed"


EXERCISE = Exercise(
    name="pad",
    target="chapters.ch02_embeddings.exercises.pad:pad",
    minutes=15,
    axes=("row column", "row column"),
    reference=reference,
    probes=(
        Probe("right", lambda: ([[5, 8], [3, 1, 4, 6], [7]], 9, "right")),
        Probe("left", lambda: ([[5, 8], [3, 1, 4, 6], [7]], 9, "left")),
        Probe("the padding id is also a word", lambda: ([[9, 2], [9, 3, 9, 1, 9]], 9, "right")),
        Probe(
            "the longest row first, on the left", lambda: ([[2, 7, 1, 8], [3, 3], [6]], 9, "left")
        ),
    ),
    knobs={
        "mask_inverted": Diagnosis(
            says="the mask is True at real tokens",
            think="what does True in `padding_mask` mean, in every chapter of this course?",
            hint="Other libraries' attention mask is 1 where one may look. This is the opposite.",
            text="ch02#mask",
        ),
        "mask_by_id": Diagnosis(
            says="the mask is True wherever an id equals pad_id, also at real tokens",
            think="can a real token have the padding's id?",
            hint="GPT-2 has no id of its own for padding: one borrows that of a real token.",
            text="ch02#mask",
        ),
        "first_length": Diagnosis(
            says="all rows have the length of the first; longer ones are cut",
            think="which row decides how long the tensor must be?",
            hint="No token may get lost.",
            text="ch02#batch",
        ),
        "shortest": Diagnosis(
            says="all rows are cut to the length of the shortest",
            think="what happens to the tokens of the longer rows?",
            hint="No token may get lost.",
            text="ch02#batch",
        ),
        "one_more": Diagnosis(
            says="every row has at least one padded column: the tensor is one too wide",
            think="how much padding does the longest row need?",
            hint="Check your count for a batch of one row.",
            text="ch02#batch",
        ),
        "always_right": Diagnosis(
            says='the padding is on the right also where "left" was asked for',
            think="what in your function depends on `side`?",
            hint="On the left: first the padding, then the row.",
            text="ch02#side",
        ),
        "always_left": Diagnosis(
            says='the padding is on the left also where "right" was asked for',
            think="what in your function depends on `side`?",
            hint="On the right: first the row, then the padding.",
            text="ch02#side",
        ),
        "turned": Diagnosis(
            says="on the left side the rows are turned round and padded on the right, and not"
            " turned back",
            think="in which order do the tokens of a row stand after each of your steps?",
            hint="Turning is a fine trick if it is done twice.",
            text="ch02#side",
        ),
        "zeros": Diagnosis(
            says="rows are filled with 0, not with pad_id",
            think="where is pad_id used?",
            hint="0 is the id of a real token: GPT-2's 0 is an exclamation mark.",
            text="ch02#batch",
        ),
        "numbers": Diagnosis(
            says="the mask holds the whole numbers 0 and 1, not True and False",
            think="what does `~` do to the number 1?",
            hint="A mask is of dtype bool; `~` and `masked_fill` rely on it.",
            text="ch02#mask",
        ),
        "ids_alone": Diagnosis(
            says="the ids come without a mask",
            think="how shall the model know which tokens are real?",
            hint="Two tensors of the same shape.",
            text="ch02#mask",
        ),
        "swapped": Diagnosis(
            says="the mask comes first and the ids second",
            think="in which order does the docstring name the two?",
            hint="ids, then mask.",
            text="ch02#mask",
        ),
    },
    exclusive=(
        ("first_length", "shortest", "one_more"),
        ("always_right", "always_left", "turned"),
        ("shortest", "always_right", "always_left", "turned", "zeros"),
        ("ids_alone", "mask_inverted", "mask_by_id", "numbers", "swapped"),
    ),
    hidden={"numbers+*": "wrong values are told first, and the mask's dtype when they are right"},
    hints=(
        "Three rows of 2, 4 and 1 tokens: draw them below each other, once pushed to the left, once"
        " to the right. How wide is the drawing, and which cells are empty?",
        "ids (B, T) can begin as pad_id everywhere, the mask as True everywhere. Then each row is"
        " written into its place, from 0 on or up to the end, and the mask is False just there.",
        "find the longest length\nfor each row: the gap is what it lacks\nleft: gap then row\n"
        "right: row then gap\nthe mask: True for the gap, False for the row\nboth as tensors",
    ),
    alternatives=(by_lists, by_pad_sequence, by_counting),
    properties=(
        Property("the real tokens are the rows", the_real_tokens_are_the_rows),
        Property("one row alone", one_of_a_kind),
    ),
    exceptions={
        r"expected sequence of length (\d+) at dim 1 \(got (\d+)\)": (
            "a tensor is a full table: the rows must be filled up to one length first"
        ),
        r"must match the size|shape mismatch|can't assign|expanded size": (
            "a row is written into a place of another length"
        ),
    },
    secrets=("mask_by_id", "first_length", "zeros", "turned"),
    spots=(
        Spot(
            source="""def pad(rows, pad_id, side):
    longest = max(len(row) for row in rows)
    filled = []
    for row in rows:
        gap = [pad_id] * (longest - len(row))
        filled.append(gap + row if side == "left" else row + gap)
    ids = torch.tensor(filled)
    mask = ids == pad_id
    return ids, mask
""",
            line=8,
            knob="mask_by_id",
        ),
    ),
)
