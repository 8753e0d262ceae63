"""2.2 unembed: the way back, by the same table."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers


def unembed(states: torch.Tensor, wte: torch.Tensor) -> torch.Tensor:
    """The logit of every word: the dot product of a state (C,) with the word's row of wte (V, C).

    (B, T, C) -> (B, T, V).
    """
    return states @ wte.T


def reference(states, wte, *, knobs, steps):
    if "detached" in knobs:
        wte = wte.detach()
    if knobs & {"cosine", "unit_words"}:
        wte = wte / wte.norm(dim=1, keepdim=True)
    if "cosine" in knobs:
        states = states / states.norm(dim=-1, keepdim=True)
    if "normed" in knobs:
        states = F.layer_norm(states, states.shape[-1:])
    if "last_token" in knobs:
        states = states[:, -1]
    if "nearest" in knobs:
        logits = -(states[..., None, :] - wte).square().sum(-1)
    else:
        logits = torch.matmul(states, wte if "not_transposed" in knobs else wte.T)
    steps["the logits"] = logits
    if "scaled" in knobs:
        logits = logits / wte.shape[1] ** 0.5
    if "softmax" in knobs:
        logits = logits.softmax(-1)
    if "log_softmax" in knobs:
        logits = logits.log_softmax(-1)
    if "softmax_tokens" in knobs:
        logits = logits.softmax(1)
    if "best" in knobs:
        return logits.argmax(-1)
    return logits.mT if "words_first" in knobs else logits


def inputs(words=11, channels=4, seed=61):
    return numbers(2, 5, channels, seed=seed), numbers(words, channels, seed=seed + 1)


# --- right in other ways ----------------------------------------------------------------------


def by_linear(states, wte):
    return F.linear(states, wte)


def by_einsum(states, wte):
    return torch.einsum("vc,btc->btv", wte, states)


def by_words(states, wte):
    return torch.stack([(states * word).sum(-1) for word in wte], -1)


# --- what holds for every right answer ---------------------------------------------------------


def finds_the_word(answer):
    """A state that is a long word vector scores that word by its squared length."""
    _, wte = inputs()
    lengths = answer(wte[None], wte)[0].diagonal()
    if torch.allclose(lengths, wte.square().sum(1), rtol=0, atol=1e-9):
        return None
    return "a state that is a word's own row should score the row's squared length for that word"


EXERCISE = Exercise(
    name="unembed",
    target="chapters.ch02_embeddings.exercises.unembed:unembed",
    minutes=8,
    axes="batch token word",
    reference=reference,
    probes=(
        Probe("11 words, 4 channels", inputs),
        Probe("square wte, 7 words and 7 channels", lambda: inputs(7, 7, seed=63)),
        Probe("3 words, 13 channels", lambda: inputs(3, 13, seed=65)),
    ),
    knobs={
        "not_transposed": Diagnosis(
            says="states meet wte as it lies, (V, C): that fails where V isn't C, and gives wrong"
            " numbers where it is",
            think="which axis of wte is as long as a state?",
            hint="A product sums over the last axis of the left and the first of the right.",
            text="ch02#back",
        ),
        "softmax": Diagnosis(
            says="these are probabilities: a softmax was applied to the logits",
            think="what is a logit, before anything is done to it?",
            hint="Scores are wanted. Loss and sampling turn them into shares themselves.",
            text="ch02#logits",
        ),
        "log_softmax": Diagnosis(
            says="these are logarithms of probabilities",
            think="what does each row of your exponentials sum to, and was that asked for?",
            hint="Scores are wanted, not yet compared with each other.",
            text="ch02#logits",
        ),
        "softmax_tokens": Diagnosis(
            says="a softmax was applied, over the tokens",
            think="what was asked for, scores or shares, and shares of what?",
            hint="No softmax at all is needed here.",
            text="ch02#logits",
        ),
        "best": Diagnosis(
            says="these are the ids of the best words, not the scores of all words",
            think="how many numbers does a model say about each next word?",
            hint="A choice comes later. Until then every word keeps its score.",
            text="ch02#logits",
        ),
        "last_token": Diagnosis(
            says="only the last token has scores",
            think="which tokens of a text are followed by another one?",
            hint="In training every token predicts its next one: (B, T, V).",
            text="ch02#logits",
        ),
        "words_first": Diagnosis(
            says="the axes come as (B, V, T)",
            think="which axis of (B, T, V) is the last?",
            hint="On which side of the product do the words stand?",
            text="ch02#back",
        ),
        "scaled": Diagnosis(
            says="the logits are divided by sqrt(C)",
            think="is this the place where GPT-2 divides by a root?",
            hint="That belongs to attention. The head of GPT-2 has no scale.",
            text="ch02#logits",
        ),
        "unit_words": Diagnosis(
            says="the rows of wte were brought to length 1",
            think="may a frequent word have a longer row than a rare one?",
            hint="A row's length is something the model has learned.",
            text="ch02#back",
        ),
        "cosine": Diagnosis(
            says="these are cosines: states and rows were brought to length 1",
            think="how large can a cosine be, and how large a logit?",
            hint="Dot products, of the vectors as they are.",
            text="ch02#back",
        ),
        "nearest": Diagnosis(
            says="these are negative squared distances between states and rows",
            think="when is a state's score for a word high: when it is near, or when it points the"
            " same way?",
            hint="|a - b|^2 = |a|^2 - 2 a.b + |b|^2. Only one of the three terms is wanted.",
            text="ch02#back",
        ),
        "normed": Diagnosis(
            says="the states went through a layer norm first",
            think="whose work is the last norm, this function's or that of the one who calls it?",
            hint="The states come in normed already.",
            text="ch02#back",
        ),
        "detached": Diagnosis(
            says="the values are right, but no gradient reaches wte",
            think="from how many places of the model does wte learn?",
            hint="Look for `.data` or `.detach()`.",
            text="ch02#back",
        ),
    },
    exclusive=(
        ("softmax", "log_softmax", "softmax_tokens", "best"),
        ("cosine", "unit_words"),
        ("cosine", "normed"),
        ("nearest", "not_transposed"),
        ("last_token", "words_first"),
        ("last_token", "softmax_tokens"),
        ("best", "words_first"),
        ("best", "scaled"),
    ),
    hidden={
        "detached+*": "the values tell the other mistake, and gradients are looked at after",
    },
    hints=(
        "A state is C numbers, and so is each word. How does one say in one number how well they"
        " agree?",
        "The logit of word v at token t is the sum over c of state[t, c] times wte[v, c]. For all"
        " tokens and words at once that is one product of (B, T, C) with (C, V).",
        "turn wte so that channels come first\nmultiply the states by it\nnothing else",
    ),
    alternatives=(by_linear, by_einsum, by_words),
    properties=(Property("a word's own row", finds_the_word),),
    exceptions={
        r"mat1 and mat2 shapes cannot be multiplied \((\d+)x(\d+) and (\d+)x(\d+)\)": (
            "a state has {1} numbers, and the matrix that it meets {2} rows: wte is (V, C)"
        ),
    },
    secrets=("not_transposed", "scaled", "nearest", "unit_words"),
    spots=(
        Spot(
            source="""def unembed(states, wte):
    batch, tokens, channels = states.shape
    flat = states.reshape(batch * tokens, channels)
    logits = flat @ wte.T
    logits = logits / channels**0.5
    return logits.reshape(batch, tokens, -1)
""",
            line=5,
            knob="scaled",
        ),
    ),
)
