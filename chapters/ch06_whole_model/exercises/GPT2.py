"""GPT2: embeddings, blocks, the last norm, and the word embeddings once more."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from chapters.ch06_whole_model.exercises import Block as block
from chapters.ch06_whole_model.exercises import parts
from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import ids
from gpt2_scratch.model import Block, LayerNorm, hidden_positions

C, P, V = parts.SIZES.n_embd, parts.SIZES.n_ctx, parts.SIZES.n_vocab
WAYS = ("", " of the padded batch", " with a cache", " of the padded batch with a cache")
LOGITS = tuple(f"logits{way}" for way in WAYS)


def shapes(layers):
    found = {"wte.weight": (V, C), "wpe.weight": (P, C)}
    for layer in range(layers):
        found |= {f"h.{layer}.{name}": shape for name, shape in block.SHAPES.items()}
    return found | {"ln_f.g": (C,), "ln_f.b": (C,)}


def padding(ids):
    """Two padded tokens in front of row 0, one behind row 1: (B, T)."""
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[0, :2] = mask[1, -1] = True
    return mask


class Ways(nn.Module):
    """A model's logits in one go and in two with a cache, without padding and with it."""

    def __init__(self, model, layers):
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, ids):
        mask, cut = padding(ids), ids.shape[1] // 2
        found = dict.fromkeys(LOGITS)
        found[LOGITS[0]] = self.model(ids)
        found[LOGITS[1]] = real(self.model(ids, mask), mask)
        for name, padded in ((LOGITS[2], None), (LOGITS[3], mask)):
            cache = parts.Kept(*ids.shape, layers=self.layers)
            pieces = []
            for piece in (slice(0, cut), slice(cut, None)):
                new = None if padded is None else padded[:, piece]
                states = self.model.states(self.model.embed(ids[:, piece]), new, cache)
                pieces.append(self.model.unembed(states))
            if None in pieces:
                return found
            found[name] = real(torch.cat(pieces, 1), padded)
        return found


def real(logits, mask):
    """Padded places say nothing: 0."""
    if logits is None or mask is None or logits.shape[:2] != mask.shape:
        return logits
    return logits.masked_fill(mask[..., None], 0.0)


def use(answer, ids, state, attention="explicit"):
    layers = sum(name.endswith("ln_1.g") for name in state)
    model = answer(replace(parts.SIZES, n_layer=layers, attention=attention)).eval()
    if parts.declared(model) != parts.listed(state):
        return parts.used(model, state) | dict.fromkeys(LOGITS)
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    outputs = parts.used(Ways(model, layers), named, ids)["output"]
    return {"parameters": parts.listed(state), "output": None, **outputs}


# --- the oracle -------------------------------------------------------------------------------


def places(mask, start, stop, knobs):
    """Positions of the tokens start to stop: (1 or B, T)."""
    if mask is None:
        positions = torch.arange(start, stop)[None]
        positions = positions - start if "positions-restart" in knobs else positions
    else:
        if "positions-restart" in knobs:
            mask, start, stop = mask[:, start:stop], 0, stop - start
        count = mask if "positions-of-padding" in knobs else ~mask
        positions = (count.cumsum(-1) - (0 if "padded-from-1" in knobs else 1)).clamp(min=0)
        if "positions-count-padding" in knobs:
            positions = torch.arange(mask.shape[1])[None]
        positions = positions[:, start:stop]
    return positions + 1 if "positions-from-1" in knobs else positions


def unseen(mask, start, stop, knobs):
    """True where a query may not look: (1 or B, 1, T, S)."""
    first = 0 if "queries-first" in knobs else start
    future = torch.ones(stop - start, stop, dtype=torch.bool).triu(first + 1)[None, None]
    if mask is None or "padding-visible" in knobs:
        return future
    padded = mask[:, None, None, :stop]
    if "future-with-padding" in knobs:
        return padded.expand(-1, 1, stop - start, -1)
    return future | padded


def walk(ids, state, mask, cut, way, knobs, steps):
    layers = sum(name.endswith("ln_1.g") for name in state)
    kept: dict = {}
    pieces = []
    for start, stop in [(0, cut), (cut, ids.shape[1])] if cut else [(0, ids.shape[1])]:
        x = state["wte.weight"][ids[:, start:stop]]
        x = x * math.sqrt(C) if "scaled-embedding" in knobs else x
        if "no-positions" not in knobs:
            x = x + state["wpe.weight"][places(mask, start, stop, knobs)]
        steps[f"the embeddings with positions{way}"] = x
        hidden = unseen(mask, start, stop, knobs)
        before = dict(kept)
        for layer in range(layers - ("last-block-missing" in knobs)):
            mine = {n.split(".", 2)[2]: t for n, t in state.items() if n.startswith(f"h.{layer}.")}
            slot = 0 if "layer-forgotten" in knobs else layer
            x, kept[slot] = block.one(x, hidden, mine, before.get(slot), frozenset(), {})
            if "layer-forgotten" in knobs:
                kept[slot] = tuple(each[:, :, start:] for each in kept[slot])
            steps[f"the stream after block {layer}{way}"] = x
        if "no-last-norm" not in knobs:
            x = parts.norm(x, state["ln_f.g"], state["ln_f.b"])
            steps[f"the last norm{way}"] = x
        x = x @ state["wte.weight"].T
        pieces.append(x.softmax(-1) if "softmaxed" in knobs else x)
    return torch.cat(pieces, 1)


def reference(ids, state, attention="explicit", *, knobs, steps):
    names = parts.listed(state)
    if "one-block-for-all" in knobs:
        names = {n: shape for n, shape in names.items() if n.startswith(("w", "h.0.", "ln"))}
    if "head-untied" in knobs:
        names = names | {"lm_head.weight": [V, C]}
    if names != parts.listed(state):
        names = dict(sorted(names.items()))
        return {"parameters": names, "output": None, **dict.fromkeys(LOGITS)}
    mask, cut = padding(ids), ids.shape[1] // 2
    found: dict = {"parameters": names, "output": None}
    for way, padded, at in zip(WAYS, (None, mask, None, mask), (0, 0, cut, cut), strict=True):
        logits = walk(ids, state, padded, at, way, knobs, steps)
        found[f"logits{way}"] = real(logits, padded)
    return found


# --- right in other ways ----------------------------------------------------------------------


class InOneGo(nn.Module):
    """All of it in `forward_embeddings`, a mask in every case."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.n_vocab, config.n_embd)
        self.wpe = nn.Embedding(config.n_ctx, config.n_embd)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd)

    def forward(self, ids, padding_mask=None):
        return self.forward_embeddings(self.embed(ids), padding_mask)

    def embed(self, ids):
        return self.wte(ids)

    def forward_embeddings(self, x, padding_mask=None, cache=None):
        return self.unembed(self.states(x, padding_mask, cache))

    def unembed(self, states):
        return torch.einsum("btc,vc->btv", states, self.wte.weight)

    def states(self, x, padding_mask=None, cache=None):
        new = x.shape[1]
        mask = padding_mask
        if mask is None:
            mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if cache is not None:
            cache.extend(len(x), new, mask)
            mask = cache.padding_mask
        real = (~mask).long()
        positions = torch.relu(torch.cumsum(real, 1) - 1)[:, -new:]
        hidden = hidden_positions(new, mask.shape[1], mask, x.device)
        x = x + self.wpe(positions)
        for number, each in enumerate(self.h):
            x = each(x, hidden=hidden, cache=cache, layer=number)
        return self.ln_f(x)


class ByIndex(InOneGo):
    """Positions looked up by counting, blocks by index."""

    def states(self, x, padding_mask=None, cache=None):
        before = cache.length if cache is not None else 0
        if cache is not None:
            cache.extend(len(x), x.shape[1], padding_mask)
            padding_mask = cache.padding_mask
        total = before + x.shape[1]
        rows = []
        for b in range(len(x)):
            position, row = 0, []
            for t in range(total):
                row.append(position)
                if padding_mask is None or not padding_mask[b, t]:
                    position += 1
            rows.append(row[before:])
        x = x + self.wpe.weight[torch.tensor(rows)]
        hidden = hidden_positions(x.shape[1], total, padding_mask, x.device)
        for i in range(self.config.n_layer):
            x = self.h[i](x, hidden, cache, i)
        return self.ln_f(x)


class WithAHead(InOneGo):
    """A linear head whose weight is wte's."""

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(config.n_embd, config.n_vocab, bias=False)
        self.head.weight = self.wte.weight

    def unembed(self, states):
        return self.head(states)


# --- what holds for every right answer ---------------------------------------------------------


def batches(layers=2, rows=2, tokens=7, seed=1, attention="explicit"):
    return ids(rows, tokens, below=V, seed=seed), parts.state_of(shapes(layers), seed), attention


EXERCISE = Exercise(
    name="GPT2",
    target="gpt2_scratch.model:GPT2",
    minutes=40,
    axes=("batch token word",),
    reference=reference,
    use=use,
    probes=(
        Probe("three blocks", lambda: batches(3)),
        Probe("one block, as many tokens as fit", lambda: batches(1, 3, P, 5)),
        Probe("two blocks, three tokens, fused attention", lambda: batches(2, 2, 3, 9, "sdpa")),
    ),
    keep=("initialise", "forward", "forward_embeddings"),
    knobs={
        "no-last-norm": Diagnosis(
            says="the last norm, ln_f, is left out",
            think="the stream has grown through all blocks: what evens it out for the head?",
            hint="OpenAI's checkpoint holds one norm that belongs to no block.",
            text="ch06#model",
        ),
        "no-positions": Diagnosis(
            says="the position embeddings, wpe, are never added",
            think="how does a token know whether it is the first or the third?",
            hint="Each token gets two vectors before the first block, and their sum goes on.",
            text="ch06#model",
        ),
        "positions-from-1": Diagnosis(
            says="the first token has position 1",
            think="which row of wpe belongs to the first token?",
            hint="Rows are counted from 0.",
            text="ch06#model",
        ),
        "positions-count-padding": Diagnosis(
            says="padding takes positions: a token's position is its column",
            think="how many words has a row said before its first real token?",
            hint="You counted such positions in chapter 2.",
            text="ch06#model-padding",
        ),
        "positions-of-padding": Diagnosis(
            says="positions count the padded tokens so far and not the real ones",
            think="what does True in the mask mean, and which tokens should be counted?",
            hint="A cumulative sum of a mask counts where it is True.",
            text="ch06#model-padding",
        ),
        "padded-from-1": Diagnosis(
            says="with padding the first real token has position 1, without it 0",
            think="what is the cumulative sum at the first token that counts?",
            hint="A token's position is the number of real tokens before it, not with it.",
            text="ch06#model-padding",
        ),
        "padding-visible": Diagnosis(
            says="blocks don't learn of the padding: padded keys are looked at",
            think="where in your model does the mask go, besides the positions?",
            hint="What attention may not see is one mask; chapter 5's function makes it.",
            text="ch06#model-padding",
        ),
        "future-with-padding": Diagnosis(
            says="where there is padding, padding alone is hidden and the future is visible",
            think="what else is hidden, besides padding, whenever attention is given a mask?",
            hint="Attention takes the mask as it comes, and adds nothing of its own.",
            text="ch06#model-padding",
        ),
        "positions-restart": Diagnosis(
            says="tokens that come after a cache begin with position 0 again",
            think="how many tokens of the text does the cache hold already?",
            hint="The cache knows its `length`. Ask before it is extended.",
            text="ch06#cache",
        ),
        "queries-first": Diagnosis(
            says="after a cache new tokens see as little as the first ones of a text",
            think="of S tokens that may be seen, which T are the new ones: the first or the last?",
            hint="The mask is not square then: T rows, S columns, aligned at the lower right.",
            text="ch06#cache",
        ),
        "layer-forgotten": Diagnosis(
            says="all blocks use layer 0's place of the cache",
            think="how does a block say whose keys it wants from the cache?",
            hint="A block takes four things; the last is its number.",
            text="ch06#cache",
        ),
        "scaled-embedding": Diagnosis(
            says="word embeddings are multiplied by sqrt(C), as in the first Transformer",
            think="is anything done to a row of wte before it is added to one of wpe?",
            hint="GPT-2 takes the rows as they are.",
            text="ch06#model",
        ),
        "last-block-missing": Diagnosis(
            says="the last block is never run",
            think="how many blocks does your loop run through?",
            hint="Count from 0: the last one's number is n_layer - 1.",
            text="ch06#model",
        ),
        "one-block-for-all": Diagnosis(
            says="all blocks are one and the same object, with one block's parameters",
            think="what does [thing] * 12 hold: twelve things, or one thing twelve times?",
            hint="Count the parameters of your model, and see the experiment.",
            text="ch06#names",
        ),
        "head-untied": Diagnosis(
            says="the model has a head of its own, `lm_head.weight`",
            think="which table of word vectors does the model have already?",
            hint="A word's score is how well its own embedding fits the last state.",
            text="ch06#head",
        ),
        "softmaxed": Diagnosis(
            says="these are probabilities, and logits are asked for",
            think="who takes the softmax: the model, or who reads its logits?",
            hint="The loss and the sampling take their own.",
            text="ch06#head",
        ),
    },
    exclusive=(
        ("no-positions", "positions-from-1"),
        ("no-positions", "positions-restart"),
        ("no-positions", "positions-count-padding", "positions-of-padding", "padded-from-1"),
        ("padding-visible", "future-with-padding"),
        ("one-block-for-all", "head-untied"),
    ),
    hidden={
        "one-block-for-all+*": "with other parameters nothing is computed",
        "head-untied+*": "with other parameters nothing is computed",
    },
    exceptions={
        **parts.NO_MODULE,
        r"has no attribute '(embed|states|unembed)'": "the rest of this project calls `{0}`: keep"
        " the methods that the stub has",
        "index out of range in self": "a row of wte or wpe was asked for that it doesn't have: is a"
        " position below 0, or counted from 1?",
        r"size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)": (
            "masks and keys don't fit, {0} against {1}: do the blocks get the cache, and does the"
            " mask have a column for every token that may be seen, the cache's included?"
        ),
    },
    needs=("Block", "LayerNorm", "hidden_positions"),
    survivors={
        "not self.wte.weight.is_meta -> self.wte.weight.is_meta": "each probe brings its weights",
        "before + tokens -> before - tokens": "changes the words of a refusal alone",
        "tokens > 1 -> tokens >= 1": "a single new token gets a mask that hides nothing from it",
        "torch.arange(before, before + tokens, device=x.device)"
        " -> torch.arange(before, before + tokens)": "there is one device here",
    },
    hints=(
        "What does a token's vector begin as, what changes it on its way down, and what is it"
        " compared with at the end?",
        "Two tables, n_layer blocks in a ModuleList called h, a last norm. `embed` looks words up;"
        " `states` (B, T, C) adds positions, (1 or B, T) of them, makes the mask where there is"
        " padding or a cache, runs the blocks with the mask, the cache and their number, and norms;"
        " `unembed` multiplies by every row of wte.",
        "states: how many tokens does the cache hold? extend it by the new ones and their padding\n"
        "count positions: columns, or real tokens before, of which the new ones are the last\n"
        "add the rows of the position table\nmake the mask of the new tokens against all\n"
        "each block in turn, with mask, cache and its number\nnorm once more",
    ),
    alternatives=(InOneGo, ByIndex, WithAHead),
)
