"""lm_loss: how surprised a language model is by the next token."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property
from chapters.runner.inputs import ids, numbers


def lm_loss(logits: Tensor, ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Mean loss in nats of every token but the first, each predicted from the token before it.

    logits (B, T, V), ids (B, T) -> one number. `padding_mask` (B, T), True = padding: a prediction
    counts where both its token and the one before it are real. All that count weigh the same.
    """
    logits, targets = logits[:, :-1], ids[:, 1:]  # (B, T - 1, V), (B, T - 1)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    if padding_mask is None:
        return losses.mean()
    counts = ~(padding_mask[:, :-1] | padding_mask[:, 1:]).flatten()
    return losses[counts].mean()


# --- the oracle -------------------------------------------------------------------------------


def reference(logits, ids, padding_mask=None, *, knobs, steps):
    if "double_softmax" in knobs:
        logits = logits.softmax(-1)
    largest = 0.0 if "no_max" in knobs else logits.amax(-1, keepdim=True)
    spread = (logits - largest).exp().sum(-1, keepdim=True).log()
    logs = logits - largest - spread
    if "log2" in knobs:
        logs = logs / math.log(2)
    steps["the log-probabilities"] = logs
    pad = torch.zeros(ids.shape, dtype=torch.bool) if padding_mask is None else padding_mask
    if "mask_inverted" in knobs and padding_mask is not None:
        pad = ~pad
    # Of each prediction: the place that it is made at, and the place of its token.
    length, step = ids.shape[1], 1
    if "no_shift" in knobs:
        step = 0
    if "shift_wrong_way" in knobs:
        step = -1
    if "shift_two" in knobs:
        step = 2
    made = torch.arange(max(0, -step), length - max(0, step))
    told = made + step
    steps["the log-probabilities without the last token's"] = logs[:, made]
    found = logs[:, made].gather(-1, ids[:, told, None])[..., 0]
    steps["those of the tokens that came"] = found
    counts = ~pad[:, made] & ~pad[:, told]
    if "mask_of_inputs" in knobs:
        counts = ~pad[:, made]
    if "mask_of_targets" in knobs:
        counts = ~pad[:, told]
    if "no_pad_mask" in knobs:
        counts = torch.ones_like(counts)
    losses = torch.where(counts, found if "no_minus" in knobs else -found, 0.0)
    if "mean_of_means" in knobs:
        return (losses.sum(1) / counts.sum(1)).mean()
    if "sum" in knobs:
        return losses.sum()
    if "mean_over_all" in knobs:
        return losses.mean()
    return losses.sum() / counts.sum()


# --- the probes -------------------------------------------------------------------------------


def inputs(rows=2, tokens=5, padded=(), seed=1):
    """logits (B, T, 7), ids (B, T), and a mask with the `padded` (row, token) pairs."""
    mask = None
    if padded:
        mask = torch.zeros(rows, tokens, dtype=torch.bool)
        for row, token in padded:
            mask[row, token] = True
    return numbers(rows, tokens, 7, seed=seed, scale=2.0), ids(rows, tokens, below=7, seed=2), mask


def high():
    logits, tokens, mask = inputs(rows=3, seed=4)
    return logits + 800.0, tokens, mask


# --- right in other ways ----------------------------------------------------------------------


def by_ignore_index(logits, ids, padding_mask=None):
    targets = torch.cat([ids[:, 1:], ids.new_full((len(ids), 1), -100)], 1)
    if padding_mask is not None:
        behind = torch.cat([padding_mask[:, 1:], padding_mask[:, :1]], 1)
        targets = targets.masked_fill(padding_mask | behind, -100)
    return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100)


def by_weights(logits, ids, padding_mask=None):
    logs = torch.log_softmax(logits, -1)[:, :-1]
    picked = torch.einsum("btv,btv->bt", logs, F.one_hot(ids[:, 1:], logits.shape[-1]).to(logs))
    real = torch.ones_like(ids) if padding_mask is None else 1 - padding_mask.long()
    weights = (real[:, 1:] * real[:, :-1]).to(logs)
    return -(picked * weights).sum() / weights.sum()


def by_probabilities(logits, ids, padding_mask=None):
    shares = logits.softmax(-1)[:, :-1]
    losses = -shares.gather(-1, ids[:, 1:, None]).squeeze(-1).log()
    if padding_mask is not None:
        losses = losses[~padding_mask[:, 1:] & ~padding_mask[:, :-1]]
    return losses.mean()


def by_loops(logits, ids, padding_mask=None):
    losses = []
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1] - 1):
            if padding_mask is None or not padding_mask[b, t : t + 2].any():
                scores = logits[b, t]
                losses.append(torch.logsumexp(scores, 0) - scores[ids[b, t + 1]])
    return torch.stack(losses).mean()


# --- what holds for every right answer ---------------------------------------------------------


def last_logits_change_nothing(answer):
    logits, tokens, _ = inputs()
    before = answer(logits.clone(), tokens, None)
    logits[:, -1] = 9.0
    if torch.equal(answer(logits, tokens, None), before):
        return None
    return "the loss changed with the last token's logits, whose next token nobody knows"


EXERCISE = Exercise(
    name="lm_loss",
    target="chapters.ch06_whole_model.exercises.lm_loss:lm_loss",
    minutes=20,
    axes="",
    reference=reference,
    probes=(
        Probe("no padding", inputs),
        Probe("row 1 padded behind", lambda: inputs(padded=((1, 3), (1, 4)), seed=2)),
        Probe("row 0 padded in front", lambda: inputs(3, padded=((0, 0), (0, 1), (2, 0)), seed=3)),
        Probe("logits near 800", high),
    ),
    knobs={
        "no_shift": Diagnosis(
            says="each token is asked to predict itself",
            think="which token should the logits at position t give a high score?",
            hint="Write down, for ids a b c, who predicts whom.",
            text="ch06#loss",
        ),
        "shift_wrong_way": Diagnosis(
            says="each token is asked to predict the one before it",
            think="which token should the logits at position t give a high score?",
            hint="Of logits and ids, which one loses its first place and which its last?",
            text="ch06#loss",
        ),
        "shift_two": Diagnosis(
            says="each token is asked to predict the one after the next",
            think="has somebody already shifted the ids by one before your shift?",
            hint="Write down, for ids a b c, who predicts whom.",
            text="ch06#loss",
        ),
        "mask_of_inputs": Diagnosis(
            says="the first padded token behind a row is scored, as if somebody had written it",
            think="what is the token that the last real one predicts, in a row padded behind?",
            hint="The mask has to be looked at in the place of the token that is predicted, too.",
            text="ch06#padding",
        ),
        "mask_of_targets": Diagnosis(
            says="the first real token of a row padded in front is scored, as foretold by padding",
            think="from what is the first real token predicted, in a row padded in front?",
            hint="The mask has to be looked at in the place that the prediction is made at, too.",
            text="ch06#padding",
        ),
        "no_pad_mask": Diagnosis(
            says="padding is scored like words",
            think="what does your function do with its third argument?",
            hint="A padded place has an id as well, but nobody wrote it.",
            text="ch06#padding",
        ),
        "mask_inverted": Diagnosis(
            says="padding alone is scored",
            think="does True in the mask mean a real token or padding?",
            hint="True = padding, everywhere in this course.",
            text="ch06#padding",
        ),
        "mean_over_all": Diagnosis(
            says="the losses that count are summed up, but divided by all places, padded ones too",
            think="how many predictions stand above your fraction bar, and how many below?",
            hint="Make every real token cost 1 nat: what should the mean be?",
            text="ch06#padding",
        ),
        "mean_of_means": Diagnosis(
            says="each row is averaged first, so a short row's tokens weigh more than a long one's",
            think="does a token weigh the same whatever the length of its row?",
            hint="One sum over everything, one count over everything.",
            text="ch06#padding",
        ),
        "double_softmax": Diagnosis(
            says="softmax was taken twice",
            think="does the loss function that you call want probabilities or logits?",
            hint="torch's cross_entropy takes a log_softmax itself.",
            text="ch06#loss",
        ),
        "log2": Diagnosis(
            says="the loss is in bits, the logarithm to the base 2",
            think="to which base is the logarithm of a loss in nats?",
            hint="The natural one; they differ by a factor of 0.693.",
            text="ch06#loss",
        ),
        "sum": Diagnosis(
            says="this is the sum of the losses and not their mean",
            think="should twice as many tokens give twice the loss?",
            hint="The docstring says mean.",
            text="ch06#loss",
        ),
        "no_minus": Diagnosis(
            says="the sign is missing: these are log-probabilities, below 0",
            think="can a loss be below 0, if a probability can't be above 1?",
            hint="The surer the model was, the smaller its loss has to be.",
            text="ch06#loss",
        ),
        "no_max": Diagnosis(
            says="exp of the logits overflows where they are near 800",
            think="what did you do about it in chapter 0?",
            hint="The logarithm of softmax has a safe form: log_softmax, logsumexp.",
            text="ch06#loss",
        ),
    },
    exclusive=(
        ("no_shift", "shift_wrong_way", "shift_two"),
        ("mask_of_inputs", "mask_of_targets", "no_pad_mask"),
        ("no_pad_mask", "mask_inverted", "mean_over_all"),
        ("sum", "mean_over_all", "mean_of_means"),
        ("double_softmax", "no_max"),
    ),
    hidden={
        "no_shift+mask_of_inputs": "where a token predicts itself, both places are one",
        "no_shift+mask_of_targets": "where a token predicts itself, both places are one",
        "no_pad_mask+mean_of_means": "where padding counts, all rows are of one length",
    },
    hints=(
        "Which token should the logits at position t foretell, and which position has nothing to"
        " be compared with?",
        "The logits without the last position, (B, T - 1, V), meet the ids without the first,"
        " (B, T - 1). The loss of one prediction is minus the log-probability of the token that"
        " came. Take the mean over those that count.",
        "drop the last place of one and the first of the other\n"
        "log-probabilities, by a way that can't overflow\npick that of each token that came\n"
        "throw out what touches padding on either side\naverage what is left, sign turned",
    ),
    properties=(Property("the last logits change nothing", last_logits_change_nothing),),
    alternatives=(by_ignore_index, by_weights, by_probabilities, by_loops),
)
