"""MultiHeadAttention: one linear map in, H heads side by side, one linear map out."""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch.func import functional_call

from chapters.ch05_many_heads.exercises.heads import ByEinsum, ByFusedKernel, ByLoops
from chapters.runner.exercise import Diagnosis, Exercise, Probe, Property, Spot
from chapters.runner.inputs import numbers
from gpt2_scratch.cache import KVCache
from gpt2_scratch.config import GPT2Config

HEADS, SIZE, LAYER = 3, 4, 1
WIDTH = HEADS * SIZE
PARAMETERS = {
    "c_attn.w": [WIDTH, 3 * WIDTH],
    "c_attn.b": [3 * WIDTH],
    "c_proj.w": [WIDTH, WIDTH],
    "c_proj.b": [WIDTH],
}


def config(attention="explicit"):
    sizes = {"n_vocab": 7, "n_ctx": 11, "n_embd": WIDTH, "n_head": HEADS, "n_layer": 2}
    return GPT2Config(**sizes, attention=attention)


def use(answer, x, hidden, past, attention, weights):
    """Build it, put the weights in, call it as block 1 of a model would."""
    module = answer(config(attention)).eval()
    # A buffer that is saved with them counts: OpenAI's files have nothing to fill it.
    parameters = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    cache = None
    if past is not None:
        cache = KVCache(config(), len(x), dtype=x.dtype)
        cache.keys.zero_()
        cache.values.zero_()
        cache.extend(len(x), past[0].shape[2], None)
        cache.store(LAYER, *past)
        cache.extend(len(x), x.shape[1], None)
    if parameters != PARAMETERS:
        with suppress(Exception):
            if module(x, hidden, cache, LAYER) is None:
                return None
        return {"parameters": parameters, "output": None}
    output = functional_call(module, weights, (x, hidden, cache, LAYER))
    return None if output is None else {"parameters": parameters, "output": output}


# --- the oracle -------------------------------------------------------------------------------


def three(x, w, b, knobs):
    """q, k, v (B, T, C), and for each the C columns of c_attn's output that it is."""
    if "w_transposed" in knobs:
        w = w.reshape(3 * WIDTH, WIDTH).mT
    joined = x @ w
    if "no_qkv_bias" not in knobs:
        joined = joined + b
    column = torch.arange(3 * WIDTH)
    which = column // WIDTH
    if "interleaved_split" in knobs:
        which = column % 3
    if "per_head_split" in knobs:
        which = column // SIZE % 3
    parts = [joined[..., which == i] for i in range(3)]
    order = {"order_kqv": (1, 0, 2), "order_vkq": (2, 1, 0)}
    return joined, [parts[i] for i in order.get(next(iter(knobs & {*order}), ""), (0, 1, 2))]


def split(part, knobs):
    batch, tokens, _ = part.shape
    if "view_no_transpose" in knobs:
        return part.reshape(batch, HEADS, tokens, SIZE)
    if "head_dim_first" in knobs:
        return torch.stack([part[..., h::HEADS] for h in range(HEADS)], 1)
    return torch.stack(part.split(SIZE, -1), 1)


def merge(mixed, knobs):
    batch, _, tokens, _ = mixed.shape
    if "merge_no_transpose" in knobs:
        return mixed.reshape(batch, tokens, WIDTH)
    if "merge_head_last" in knobs:
        return torch.stack(mixed.unbind(1), -1).reshape(batch, tokens, WIDTH)
    return torch.cat(mixed.unbind(1), -1)


def reference(x, hidden, past, attention, weights, *, knobs, steps):
    joined, parts = three(x, weights["c_attn.w"], weights["c_attn.b"], knobs)
    w_out, b_out = weights["c_proj.w"], weights["c_proj.b"]
    steps["what c_attn makes of x"] = joined
    q, k, v = (split(part, knobs) for part in parts)
    steps["the queries of the heads"] = q
    if past is not None and "cache_ignored" not in knobs:
        before = [torch.zeros_like(each) for each in past] if "layer_ignored" in knobs else past
        k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        if "cache_swapped" in knobs:
            k, v = v, k
    tokens, keys = q.shape[2], k.shape[2]
    future = torch.arange(keys) > torch.arange(keys - tokens, keys)[:, None]
    if "square_only" in knobs:
        future = torch.arange(keys) > torch.arange(tokens)[:, None]
    if hidden is None or "no_pad" in knobs:
        hidden = (future & ("no_causal" not in knobs))[None, None]
    scale = {"no_scale": 1.0, "scale_d_model": math.sqrt(WIDTH), "scale_twice": SIZE}
    divisor = next((scale[name] for name in scale if name in knobs), math.sqrt(SIZE))
    steps["the scores divided by sqrt(D)"] = scores = (
        torch.einsum("bhtd,bhsd->bhts", q, k) / divisor
    )
    grown = torch.exp(scores - scores.amax(-1, keepdim=True)).masked_fill(hidden, 0.0)
    total = grown.sum(-1, keepdim=True)
    steps["the weights"] = shares = grown / total.masked_fill(total == 0, 1.0)
    steps["the mixed values of the heads"] = mixed = shares @ v
    steps["the heads of each token joined"] = merged = merge(mixed, knobs)
    output = merged
    if "no_out_proj" not in knobs:
        output = merged @ (w_out.mT if "out_transposed" in knobs else w_out)
        output = output if "no_out_bias" in knobs else output + b_out
    if "residual" in knobs:
        output = x + output
    return {"parameters": PARAMETERS, "output": output}


# --- the probes -------------------------------------------------------------------------------


def inputs(tokens=5, before=0, padded=None, attention="explicit"):
    """x (2, T, 12), hidden or None, past keys and values or None, the switch, the weights."""
    past = None
    if before:
        past = tuple(numbers(2, HEADS, before, SIZE, seed=seed) for seed in (6, 7))
    hidden = None
    if padded is not None:
        keys = before + tokens
        mask = torch.zeros(2, keys, dtype=torch.bool)
        mask[1, list(padded)] = True
        future = torch.ones(tokens, keys, dtype=torch.bool).triu(before + 1)
        hidden = future | mask[:, None, None, :]
    weights = {
        "c_attn.w": numbers(WIDTH, 3 * WIDTH, seed=2, scale=0.5),
        "c_attn.b": numbers(3 * WIDTH, seed=3),
        "c_proj.w": numbers(WIDTH, WIDTH, seed=4, scale=0.5),  # always square
        "c_proj.b": numbers(WIDTH, seed=5),
    }
    return numbers(2, tokens, WIDTH, seed=1), hidden, past, attention, weights


# --- what holds for every right answer ---------------------------------------------------------


def future_changes_nothing(answer):
    given = inputs()
    before = answer(*given)["output"]
    given[0][:, 3:] = 7.0
    after = answer(*given)["output"]
    if torch.equal(before[:, :3], after[:, :3]):
        return None
    return "the outputs of tokens 0 to 2 changed when tokens 3 and 4 did"


EXERCISE = Exercise(
    name="MultiHeadAttention",
    target="gpt2_scratch.model:MultiHeadAttention",
    minutes=35,
    axes=("", "batch token channel"),
    needs=("explicit_attention", "hidden_positions", "split_heads", "merge_heads"),
    reference=reference,
    use=use,
    probes=(
        Probe("row 1 padded in front", lambda: inputs(padded=(0, 1))),
        Probe("no mask given: the future alone", inputs),
        Probe("the same by the fused kernel", lambda: inputs(attention="sdpa", padded=(3, 4))),
        Probe("2 new tokens after 5 in the cache", lambda: inputs(2, before=5)),
        Probe("1 new token by the fused kernel", lambda: inputs(1, before=6, attention="sdpa")),
        Probe("2 new tokens, padding in the cache", lambda: inputs(2, before=5, padded=(0,))),
    ),
    knobs={
        "w_transposed": Diagnosis(
            says="the numbers of c_attn.w are read as (out, in), row by row",
            think="which axis of w has the length of the input?",
            hint="OpenAI stores (in, out): x @ w, without a transpose.",
            text="ch05#projections",
        ),
        "no_qkv_bias": Diagnosis(
            says="c_attn's bias is not added",
            think="which of your parameters does nothing?",
            hint="A linear map of GPT-2 has a w and a b; your Conv1D uses both.",
            text="ch05#projections",
        ),
        "no_out_bias": Diagnosis(
            says="c_proj's bias is not added",
            think="which of your parameters does nothing?",
            hint="A linear map of GPT-2 has a w and a b; your Conv1D uses both.",
            text="ch05#projections",
        ),
        "no_out_proj": Diagnosis(
            says="the joined heads are returned as they are: c_proj is not there",
            think="where do the heads learn of each other?",
            hint="There is one more linear map after the heads are joined.",
            text="ch05#projections",
        ),
        "out_transposed": Diagnosis(
            says="c_proj.w is used transposed",
            think="c_proj is square: would a shape tell you which way round it goes?",
            hint="(in, out), as c_attn.",
            text="ch05#projections",
        ),
        "order_kqv": Diagnosis(
            says="the first third is taken for the keys and the second for the queries",
            think="in which order do queries, keys and values lie in the 3C columns?",
            hint="The name c_attn doesn't say it; the text does.",
            text="ch05#thirds",
        ),
        "order_vkq": Diagnosis(
            says="the first third is taken for the values and the last for the queries",
            think="in which order do queries, keys and values lie in the 3C columns?",
            hint="The name c_attn doesn't say it; the text does.",
            text="ch05#thirds",
        ),
        "per_head_split": Diagnosis(
            says="the 3C columns were cut head by head, each with its own q, k and v, as GPT-NeoX"
            " stores them",
            think="which cut comes first: into three, or into heads?",
            hint="All queries of all heads lie before the first key.",
            text="ch05#thirds",
        ),
        "interleaved_split": Diagnosis(
            says="every third column went to the queries",
            think="do the queries lie side by side, or two columns apart?",
            hint="Cut 3C into (3, C), not into (C, 3).",
            text="ch05#thirds",
        ),
        "head_dim_first": Diagnosis(
            says="each head has every H-th channel, not D that lie side by side",
            think="when C channels become two axes, which of them is the outer one?",
            hint="That is exercise 5.1.",
            text="ch05#heads",
        ),
        "view_no_transpose": Diagnosis(
            says="(B, T, C) was read as (B, H, T, D) as it lies: tokens are mixed between heads",
            think="in what order do the numbers of two tokens lie in memory?",
            hint="That is exercise 5.1.",
            text="ch05#heads",
        ),
        "merge_no_transpose": Diagnosis(
            says="(B, H, T, D) was read as (B, T, C) as it lies: the right numbers in the wrong"
            " places",
            think="in what order do the numbers of two heads lie in memory?",
            hint="That is exercise 5.2.",
            text="ch05#merge",
        ),
        "merge_head_last": Diagnosis(
            says="the heads were shuffled like cards on the way back: the right numbers in the"
            " wrong places",
            think="which of the two axes that become one must be the outer one?",
            hint="That is exercise 5.2.",
            text="ch05#merge",
        ),
        "scale_d_model": Diagnosis(
            says="the scores are divided by sqrt(C), the width of all heads together",
            think="how many numbers does one head multiply and add for one score?",
            hint="Your attention of chapter 4 takes the width from its queries.",
            text="ch05#heads",
        ),
        "no_scale": Diagnosis(
            says="the scores are not divided by sqrt(D)",
            think="how does the spread of q·k grow with D, the length of both?",
            hint="Your attention of chapter 4 does it already.",
            text="ch05#heads",
        ),
        "scale_twice": Diagnosis(
            says="the scores are divided by D, which is sqrt(D) twice",
            think="which of your functions divides already?",
            hint="Your attention of chapter 4 does it.",
            text="ch05#heads",
        ),
        "no_causal": Diagnosis(
            says="where no mask is given every token sees the future",
            think="what does hidden=None stand for?",
            hint="None is not `nothing is hidden`: only padding is absent.",
            text="ch05#arguments",
        ),
        "no_pad": Diagnosis(
            says="the mask that is given is not used, only one of the future",
            think="what is in `hidden` besides the future?",
            hint="Make a mask of your own only where None came.",
            text="ch05#arguments",
        ),
        "square_only": Diagnosis(
            says="with a cache and no mask, the first new token is taken for the first of all",
            think="how many keys are there once the cache has given its own?",
            hint="The mask of the future needs both numbers, queries and keys; ask k, not x.",
            text="ch05#arguments",
        ),
        "cache_ignored": Diagnosis(
            says="the new tokens see each other and nothing of what is in the cache",
            think="what does cache.store give back?",
            hint="Give it the new k and v; it returns those of all tokens so far.",
            text="ch05#arguments",
        ),
        "layer_ignored": Diagnosis(
            says="the new keys and values went into another block's place of the cache, and came"
            " back with that block's past",
            think="how does the cache know which block is asking?",
            hint="`layer` is a parameter of forward, and of store.",
            text="ch05#arguments",
        ),
        "cache_swapped": Diagnosis(
            says="with a cache, keys and values have changed places",
            think="in which order does cache.store take them, and in which give them back?",
            hint="Keys first, both times.",
            text="ch05#arguments",
        ),
        "residual": Diagnosis(
            says="x is added to the result",
            think="who adds what attention finds to the stream: attention, or the block?",
            hint="The block does, in chapter 6.",
            text="ch05#projections",
        ),
    },
    exclusive=(
        ("order_kqv", "order_vkq"),
        ("per_head_split", "interleaved_split"),
        ("head_dim_first", "view_no_transpose"),
        ("merge_no_transpose", "merge_head_last"),
        ("scale_d_model", "no_scale", "scale_twice"),
        ("no_out_proj", "no_out_bias", "out_transposed"),
        ("no_causal", "square_only", "cache_ignored"),
        ("cache_ignored", "layer_ignored", "cache_swapped"),
    ),
    survivors={"0 -> 1": "a block always says which one it is, so the default is never used"},
    hints=(
        "One linear map makes queries, keys and values of all heads at once, 3C numbers a token."
        " What has to be cut, and in which order, until each head has its own three?",
        "c_attn makes (B, T, 3C). Its thirds are q, k and v, (B, T, C) each, and each third splits"
        " into heads, (B, H, T, D). A cache, if there is one, turns the new k and v into those of"
        " all S tokens. Attention gives (B, H, T, D), which merges to (B, T, C) and goes through"
        " c_proj. hidden=None means the future alone, T queries against S keys.",
        "in init: two linear maps, C to 3C and C to C, and keep the config\n"
        "in forward: apply the first\ncut its output in three along the channels\n"
        "split each third into heads\nwith a cache: let it store the new keys and values, and go on"
        " with what it returns\nwithout a mask: make that of the future\n"
        "attention of chapter 4\nmerge the heads\napply the second map",
    ),
    alternatives=(ByFusedKernel, ByEinsum, ByLoops),
    properties=(Property("the future changes nothing", future_changes_nothing),),
    exceptions={
        r"mat1 and mat2 shapes cannot be multiplied \((\d+)x12 and 36x12\)": (
            "OpenAI stores c_attn.w as (in, out), here (12, 36); F.linear and nn.Linear want"
            " (out, in)"
        ),
        r"size of tensor a \((?:2|7)\) must match the size of tensor b \((?:2|7)\)": (
            "with a cache there are 2 queries and 7 keys: was the mask made for both numbers?"
        ),
        r"takes \d+ positional argument": (
            "it is called as a block calls it: forward(x, hidden, cache, layer)"
        ),
        r"'NoneType' object has no attribute 'store'": "without a cache, `cache` is None",
        r"masked_fill\(\): argument 'mask'.*NoneType|'NoneType' object has no attribute 'all'": (
            "`hidden` is None where no token is padding: make the mask of the future then"
        ),
    },
    spots=(
        Spot(
            source=(
                "def forward(self, x, hidden=None, cache=None, layer=0):\n"
                "    heads = self.config.n_head\n"
                "    joined = self.c_attn(x)\n"
                "    each = joined.unflatten(-1, (heads, 3, -1))\n"
                "    q, k, v = (part.transpose(1, 2) for part in each.unbind(-2))\n"
                "    mixed = explicit_attention(q, k, v, hidden)\n"
                "    return self.c_proj(mixed.transpose(1, 2).flatten(2))\n"
            ),
            line=4,
            knob="per_head_split",
        ),
    ),
)
