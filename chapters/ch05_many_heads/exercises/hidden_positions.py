"""hidden_positions: the future and the padding in one mask."""

from __future__ import annotations

import torch

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Spot

CPU = torch.device("cpu")

# --- the oracle -------------------------------------------------------------------------------


def reference(tokens, keys, padding_mask, device, *, knobs, steps):
    first = 0 if "square_only" in knobs else keys - tokens
    query = torch.arange(tokens)[:, None] + first
    key = torch.arange(keys)[None]
    future = key > query
    if "mask_diag" in knobs:
        future = key >= query
    if "mask_late" in knobs:
        future = key > query + 1
    if "mask_lower" in knobs:
        future = key < query
    if "no_causal" in knobs:
        future = torch.zeros_like(future)
    steps["the future, (T, S)"] = future
    hidden = future[None, None]  # (1, 1, T, S)
    padded = padding_mask
    if padded is not None and "no_pad" not in knobs:
        if "pad_inverted" in knobs:
            padded = ~padded
        columns = padded[:, None, None, :]  # (B, 1, 1, S)
        rows = padded[:, None, keys - tokens :, None]  # (B, 1, T, 1)
        if "pad_queries" in knobs:
            columns = padded[:, None, :, None]  # (B, 1, S, 1), which only fits where T = S
        if "pad_new_queries" in knobs:
            columns = rows
        if "pad_both" in knobs:
            columns = columns | rows
        if "pad_first_row" in knobs:
            columns = columns[:1].expand(len(padded), -1, -1, -1)
        hidden = hidden & columns if "and_for_or" in knobs else hidden | columns
        steps["future or padding"] = hidden
        if "padding_only" in knobs:
            hidden = columns
    if "inverted" in knobs:
        hidden = ~hidden
    if "no_head_axis" in knobs:
        hidden = hidden[:, 0]
    return hidden


# --- the probes -------------------------------------------------------------------------------


def padding(keys, *rows):
    """(B, keys), True at the places named for each row."""
    mask = torch.zeros(len(rows), keys, dtype=torch.bool)
    for row, places in zip(mask, rows, strict=True):
        row[list(places)] = True
    return mask


# --- right in other ways ----------------------------------------------------------------------


def by_loops(tokens, keys, padding_mask, device):
    rows = [None] if padding_mask is None else padding_mask.tolist()
    tables = [
        [
            [s > t + keys - tokens or (row is not None and row[s]) for s in range(keys)]
            for t in range(tokens)
        ]
        for row in rows
    ]
    return torch.tensor(tables, device=device)[:, None]


def by_comparing(tokens, keys, padding_mask, device):
    place = torch.arange(keys, device=device)
    if padding_mask is not None:  # a padded key stands behind the end
        place = torch.where(padding_mask, keys, place)
    own = torch.arange(keys - tokens, keys, device=device)
    return (place.reshape(-1, 1, 1, keys) > own[:, None]).contiguous()


def by_visible(tokens, keys, padding_mask, device):
    visible = torch.ones(keys, keys, device=device).tril().bool()[keys - tokens :]
    if padding_mask is None:
        return ~visible[None, None]
    return torch.logical_not(torch.logical_and(visible, ~padding_mask[:, None, None, :]))


EXERCISE = Exercise(
    name="hidden_positions",
    target="gpt2_scratch.model:hidden_positions",
    minutes=15,
    axes="batch heads query key",
    needs=("causal_mask",),
    survivors={
        "torch.ones(tokens, keys, dtype=torch.bool, device=device)"
        " -> torch.ones(tokens, keys, dtype=torch.bool)": "every machine has one device for sure",
    },
    reference=reference,
    probes=(
        Probe(
            "row 1 padded behind",
            lambda: (5, 5, padding(5, (), (3, 4)), CPU),
        ),
        Probe(
            "row 0 padded in front",
            lambda: (5, 5, padding(5, (0, 1), (), (4,)), CPU),
        ),
        Probe("the last 3 of 7 tokens", lambda: (3, 7, padding(7, (0, 5), ()), CPU)),
        Probe("no padding", lambda: (5, 5, None, CPU)),
        Probe("no padding, the last 2 of 6 tokens", lambda: (2, 6, None, CPU)),
    ),
    knobs={
        "mask_diag": Diagnosis(
            says="a token can't see itself",
            think="what is the first token to look at?",
            hint="The diagonal is visible, unless it is padding.",
            text="ch05#padding",
        ),
        "mask_late": Diagnosis(
            says="each token sees one token of its future",
            think="which diagonal is the first that is hidden?",
            hint="Your mask of chapter 4 is the first half of this one.",
            text="ch05#padding",
        ),
        "mask_lower": Diagnosis(
            says="the past is hidden and the future visible",
            think="does the row of the mask belong to the query or to the key?",
            hint="Row t is what query t may not see.",
            text="ch05#padding",
        ),
        "no_causal": Diagnosis(
            says="padding is hidden and the future is not",
            think="which two reasons are there to hide a key?",
            hint="The mask of the padding says nothing about order.",
            text="ch05#padding",
        ),
        "square_only": Diagnosis(
            says="the first query is taken for the first token: the mask is aligned at its upper"
            " left corner",
            think="with three queries and seven keys, which token is the first query?",
            hint="Count from the lower right corner, as in exercise 4.2.",
            text="ch05#padding",
        ),
        "no_pad": Diagnosis(
            says="padded keys are visible: this is the future alone",
            think="where does `padding_mask` come into your function?",
            hint="It is (B, S), a yes or no for each key; give it two axes of 1.",
            text="ch05#padding",
        ),
        "pad_inverted": Diagnosis(
            says="real tokens are hidden and padding is visible",
            think="does True mean padding or a real token?",
            hint="Hugging Face's attention_mask is 1 for real tokens. Ours is the other one.",
            text="ch05#padding",
        ),
        "pad_queries": Diagnosis(
            says="the rows of padded queries are hidden, the columns of padded keys are not",
            think="which axis of the scores is the key?",
            hint="(B, 1, T, S): the padding mask lies along the last axis.",
            text="ch05#padding",
        ),
        "pad_new_queries": Diagnosis(
            says="the rows of those padded tokens that are queries are hidden, the columns of"
            " padded keys are not",
            think="which axis of the scores is the key?",
            hint="(B, 1, T, S): the padding mask lies along the last axis, whole.",
            text="ch05#padding",
        ),
        "pad_both": Diagnosis(
            says="padded keys are hidden, and padded queries too: their rows see nothing at all",
            think="who reads what a padded query computes?",
            hint="Nobody does, once its key is hidden. Its own row need not be.",
            text="ch05#padding",
        ),
        "pad_first_row": Diagnosis(
            says="every sentence has the padding of the first one",
            think="which axis of `padding_mask` tells one sentence from another?",
            hint="The result has B in front when there is padding, not 1.",
            text="ch05#padding",
        ),
        "and_for_or": Diagnosis(
            says="a key is hidden only where it is future and padding at once",
            think="is one reason enough to hide a key?",
            hint="`hidden` says may not look: reasons add up.",
            text="ch05#padding",
        ),
        "padding_only": Diagnosis(
            says="where there is padding the future is forgotten, and the mask is (B, 1, 1, S)",
            think="is what query 0 may not see the same as what query 4 may not see?",
            hint="Two masks of different shapes can be joined: torch stretches axes of 1.",
            text="ch05#padding",
        ),
        "inverted": Diagnosis(
            says="True stands where a query may look",
            think="does True mean look or don't look in this course?",
            hint="The name of the function says it.",
            text="ch05#padding",
        ),
        "no_head_axis": Diagnosis(
            says="the axis of the heads is missing: (B, T, S)",
            think="which axis of the scores (B, H, T, S) does a mask (B, T, S) meet with its B?",
            hint="Shapes are matched from the right. An axis of 1 stands for all heads.",
            text="ch05#padding",
        ),
    },
    exclusive=(
        ("mask_diag", "mask_late", "mask_lower", "no_causal"),
        ("square_only", "no_causal"),
        ("no_pad", "pad_inverted", "pad_both"),
        ("no_pad", "pad_queries", "pad_new_queries", "pad_both"),
        ("no_pad", "pad_first_row"),
        ("no_pad", "and_for_or", "padding_only"),
    ),
    hints=(
        "A key is hidden for one of two reasons. Which of them depends on the sentence, and which"
        " on the query?",
        "The future is one table (T, S) for all, as in exercise 4.2. Padding is a row (S) for each"
        " sentence, the same for every query. With axes of length 1 in the right places they join"
        " to (B, 1, T, S): hidden where one or the other says so.",
        "make the table of the future, queries by keys\nput two axes of 1 in front of it\n"
        "without padding that is all\n"
        "give the padding two axes of 1 in the middle\nhide where either is True",
    ),
    alternatives=(by_loops, by_comparing, by_visible),
    exceptions={
        r"'NoneType' object": "`padding_mask` is None where there is no padding",
        r"must match the size of tensor b": (
            "the padding (B, S) needs axes of 1 for heads and queries: B stays first and S last"
        ),
    },
    spots=(
        Spot(
            source=(
                "def hidden_positions(tokens, keys, padding_mask, device):\n"
                "    ahead = torch.ones(tokens, keys, dtype=torch.bool, device=device)\n"
                "    hidden = ahead.triu(keys - tokens + 1)[None, None]\n"
                "    if padding_mask is not None:\n"
                "        mine = padding_mask[:, keys - tokens :]\n"
                "        hidden = hidden | mine[:, None, :, None]\n"
                "    return hidden\n"
            ),
            line=6,
            knob="pad_queries",
        ),
    ),
)
