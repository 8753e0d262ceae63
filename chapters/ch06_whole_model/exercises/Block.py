"""Block: attention, then MLP, each beside the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chapters.ch06_whole_model.exercises import parts
from chapters.runner.exercise import Diagnosis, Exercise, Probe
from chapters.runner.inputs import numbers
from gpt2_scratch.model import MLP, LayerNorm, MultiHeadAttention

C = parts.SIZES.n_embd
SHAPES = {
    **{f"{norm}.{leaf}": (C,) for norm in ("ln_1", "ln_2") for leaf in "gb"},
    **{"attn.c_attn.w": (C, 3 * C), "attn.c_attn.b": (3 * C,)},
    **{"attn.c_proj.w": (C, C), "attn.c_proj.b": (C,)},
    **{"mlp.c_fc.w": (C, 4 * C), "mlp.c_fc.b": (4 * C,)},
    **{"mlp.c_proj.w": (4 * C, C), "mlp.c_proj.b": (C,)},
}


class Twice(nn.Module):
    """The block as layers 0 and 1, given the first `cut` tokens and then the others."""

    def __init__(self, block, cut):
        super().__init__()
        self.block, self.cut = block, cut

    def forward(self, x):
        cache = parts.Kept(len(x), x.shape[1])
        pieces = []
        for piece in (x[:, : self.cut], x[:, self.cut :]):
            cache.extend(len(x), piece.shape[1], None)
            hidden = torch.ones(piece.shape[1], cache.length, dtype=torch.bool)
            hidden = hidden.triu(cache.length - piece.shape[1] + 1)[None, None]
            for layer in (0, 1):
                piece = self.block(piece, hidden, cache, layer)
            pieces.append(piece)
        return torch.cat(pieces, 1)


def use(answer, x, hidden, state, cut=0):
    block = answer(parts.SIZES)
    if not cut:
        return parts.used(block, state, x, hidden)
    if isinstance(block, nn.Module) and parts.declared(block) == parts.listed(state):
        named = {f"block.{name}": tensor for name, tensor in state.items()}
        output = parts.used(Twice(block, cut), named, x)["output"]
        return {"parameters": parts.listed(state), "output": output}
    return parts.used(block, state, x)


# --- the oracle -------------------------------------------------------------------------------


def one(x, hidden, state, past, knobs, steps):
    """One block: what it gives, and its keys and values for the tokens to come."""
    first, second = ("ln_2", "ln_1") if "swapped_lns" in knobs else ("ln_1", "ln_2")
    second = first if "same_ln" in knobs else second

    def normed(x, name, skipped):
        return x if skipped else parts.norm(x, state[f"{name}.g"], state[f"{name}.b"])

    def attention(u):
        seen = None if "no_hidden" in knobs else hidden
        out, kept = parts.attend(u, state, seen, None if "no_cache" in knobs else past)
        steps["what attention adds"] = out
        return out, kept

    def mlp(u):
        wide = parts.bend(u @ state["mlp.c_fc.w"] + state["mlp.c_fc.b"])
        out = wide @ state["mlp.c_proj.w"] + state["mlp.c_proj.b"]
        steps["what the MLP adds"] = out
        return out

    if "post_norm" in knobs:
        added, kept = attention(x)
        y = normed(added + (0 if "no_res1" in knobs else x), first, "no_ln1" in knobs)
        stream = 0 if "no_res2" in knobs else x if "res2_from_input" in knobs else y
        return normed(stream + mlp(y), second, "no_ln2" in knobs), kept
    u = normed(x, first, "no_ln1" in knobs)
    steps["the normed input (ln_1)"] = u
    added, kept = attention(u)
    stream = u if knobs & {"res_from_norm", "res1_from_norm"} else x
    y = added + (0 if "no_res1" in knobs else stream)
    steps["the residual stream after attention"] = y
    w = normed(x if "parallel" in knobs else y, second, "no_ln2" in knobs)
    steps["the normed stream (ln_2)"] = w
    stream = w if knobs & {"res_from_norm", "res2_from_norm"} else y
    stream = 0 if "no_res2" in knobs else x if "res2_from_input" in knobs else stream
    return stream + mlp(w), kept


def reference(x, hidden, state, cut=0, *, knobs, steps):
    if not cut:
        output, _ = one(x, hidden, state, None, knobs, steps)
        return {"parameters": parts.listed(state), "output": output}
    kept: list[tuple[Tensor, Tensor] | None] = [None, None]
    pieces = []
    for number, piece in enumerate((x[:, :cut], x[:, cut:])):
        for layer in (0, 1):
            past = kept[0 if "no_layer" in knobs else layer]
            if "no_layer" in knobs and layer == 1:
                # Layer 1 finds layer 0's keys of this piece at the end, and writes its own over.
                past = None if number == 0 else tuple(each[:, :, :cut] for each in past)
            mine = steps if (number, layer) == (1, 1) else {}
            piece, new = one(piece, None, state, past, knobs, mine)
            kept[0 if "no_layer" in knobs else layer] = new
        pieces.append(piece)
    return {"parameters": parts.listed(state), "output": torch.cat(pieces, 1)}


# --- the probes -------------------------------------------------------------------------------


def plain():
    return numbers(2, 5, C, seed=1), None, parts.state_of(SHAPES), 0


def padded():
    """Row 1 begins with two padded tokens."""
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)[None, None].repeat(2, 1, 1, 1)
    hidden[1, :, :, :2] = True
    hidden[1, :, 0, 0] = hidden[1, :, 1, 1] = False  # so that no row is empty: chapter 5 has those
    return numbers(2, 7, C, seed=2), hidden, parts.state_of(SHAPES, seed=20), 0


def cached():
    return numbers(2, 5, C, seed=3), None, parts.state_of(SHAPES, seed=40), 2


# --- right in other ways ----------------------------------------------------------------------


class InSteps(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mlp = MLP(config)
        self.attn = MultiHeadAttention(config)
        self.ln_1, self.ln_2 = LayerNorm(config.n_embd), LayerNorm(config.n_embd)

    def forward(self, x, hidden=None, cache=None, layer=0):
        update = self.attn(self.ln_1(x), hidden, cache, layer)
        stream = torch.add(x, update)
        return torch.add(stream, self.mlp(self.ln_2(stream)))


class InPlace(InSteps):
    def forward(self, x, hidden=None, cache=None, layer=0):
        stream = x.clone()
        stream += self.attn(self.ln_1(x), hidden=hidden, cache=cache, layer=layer)
        stream = stream + self.mlp(self.ln_2(stream))
        return stream


class AllAtTheEnd(InSteps):
    def forward(self, x, hidden=None, cache=None, layer=0):
        parts = [x]
        parts.append(self.attn(self.ln_1(sum(parts)), hidden, cache, layer))
        parts.append(self.mlp(self.ln_2(sum(parts))))
        return torch.stack(parts).sum(0)


EXERCISE = Exercise(
    name="Block",
    target="gpt2_scratch.model:Block",
    minutes=15,
    axes=("batch token channel",),
    reference=reference,
    use=use,
    probes=(
        Probe("no padding", plain),
        Probe("row 1 padded in front", padded),
        Probe("as two layers, two tokens first and a cache", cached),
    ),
    knobs={
        "post_norm": Diagnosis(
            says="each norm comes after its sum, as in the first Transformer",
            think="does anything stand between the input and the output of a whole GPT-2 block, on"
            " the path that only adds?",
            hint="GPT-2 norms what a part reads. The stream itself is never normed inside a block.",
            text="ch06#block",
        ),
        "parallel": Diagnosis(
            says="attention and MLP both read the block's input, as in GPT-J",
            think="may the MLP of a GPT-2 block see what attention has just found?",
            hint="What the MLP norms and reads is the stream after attention has added to it.",
            text="ch06#block",
        ),
        "no_res1": Diagnosis(
            says="attention replaces the residual stream instead of adding to it",
            think="where is a token's own vector after your attention step?",
            hint="A block makes two additions to its input. Count yours.",
            text="ch06#block",
        ),
        "no_res2": Diagnosis(
            says="the MLP replaces the residual stream instead of adding to it",
            think="what remains of the stream after your MLP step?",
            hint="A block makes two additions to its input. Count yours.",
            text="ch06#block",
        ),
        "res_from_norm": Diagnosis(
            says="what is added to, both times, is the normed vector and not the stream itself",
            think="does the name on the left of your sum still mean the block's input?",
            hint="A name that was overwritten by its norm no longer holds the stream.",
            text="ch06#block",
        ),
        "res1_from_norm": Diagnosis(
            says="attention's result is added to the normed input and not to the input",
            think="is attention's result added to what ln_1 read, or to what it gave?",
            hint="Only the part itself reads the normed vector.",
            text="ch06#block",
        ),
        "res2_from_norm": Diagnosis(
            says="the MLP's result is added to the normed stream and not to the stream",
            think="is the MLP's result added to what ln_2 read, or to what it gave?",
            hint="Only the part itself reads the normed vector.",
            text="ch06#block",
        ),
        "res2_from_input": Diagnosis(
            says="the MLP's result is added to the block's input, and attention's sum is lost",
            think="which of your sums does the returned value contain?",
            hint="The second sum goes on from the first.",
            text="ch06#block",
        ),
        "swapped_lns": Diagnosis(
            says="ln_2 stands before attention and ln_1 before the MLP",
            think="does training care which norm is called 1, and do somebody else's weights?",
            hint="The names decide which numbers of the file each norm gets.",
            text="ch06#names",
        ),
        "same_ln": Diagnosis(
            says="one norm does both jobs: ln_2's g and b are never used",
            think="how many norms has a block, and how often is each of yours called?",
            hint="Both are made in the constructor. Look for each in `forward`.",
            text="ch06#block",
        ),
        "no_ln1": Diagnosis(
            says="attention reads the stream as it is, without ln_1",
            think="what did GPT-2's attention read when its weights were trained?",
            hint="Each of the two parts has a norm in front.",
            text="ch06#block",
        ),
        "no_ln2": Diagnosis(
            says="the MLP reads the stream as it is, without ln_2",
            think="what did GPT-2's MLP read when its weights were trained?",
            hint="Each of the two parts has a norm in front.",
            text="ch06#block",
        ),
        "no_hidden": Diagnosis(
            says="attention isn't told what is hidden: only the future is, never the padding",
            think="which of the block's arguments reach attention?",
            hint="The block doesn't look at `hidden` itself; attention needs it.",
            text="ch06#block",
        ),
        "no_cache": Diagnosis(
            says="without the cache each piece of a text is attended to alone",
            think="which of the block's arguments reach attention?",
            hint="The block doesn't look at `cache` itself; attention needs it.",
            text="ch06#cache",
        ),
        "no_layer": Diagnosis(
            says="every block keeps its keys and values in layer 0's place of the cache",
            think="how does attention know which block's keys it should find in the cache?",
            hint="The block's number came as an argument.",
            text="ch06#cache",
        ),
    },
    exclusive=(
        ("post_norm", "parallel"),
        ("swapped_lns", "same_ln"),
        ("no_cache", "no_layer"),
        ("no_res1", "res1_from_norm", "res_from_norm", "post_norm"),
        ("no_res2", "res2_from_norm", "res_from_norm", "res2_from_input"),
        ("res1_from_norm", "res2_from_norm", "res_from_norm", "post_norm"),
        ("same_ln", "no_ln2"),
        ("no_ln1", "res1_from_norm"),
        ("no_ln2", "res2_from_norm"),
    ),
    exceptions=parts.NO_MODULE,
    needs=("LayerNorm", "MultiHeadAttention", "MLP"),
    survivors={"0 -> 1": "the default of `layer`: who has a cache says which block it is"},
    hints=(
        "A block adds to its input twice. What does each of the two read, and what does it add?",
        "The residual stream x is (B, T, C) from beginning to end. Attention reads ln_1 of it, and"
        " its output is added to x; the MLP reads ln_2 of that sum, and its output is added to"
        " it. `hidden`, `cache` and `layer` are for attention, as they come.",
        "constructor: norm, attention, norm, MLP, under OpenAI's names\n"
        "norm the stream with the first, attend, add to the stream\n"
        "norm the new stream with the second, run the MLP, add\nhand back the stream",
    ),
    alternatives=(InSteps, InPlace, AllAtTheEnd),
)
