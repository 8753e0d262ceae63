"""to_our_name: what OpenAI and Hugging Face call a parameter, and what we call it."""

from __future__ import annotations

import re

from chapters.runner.exercise import Diagnosis, Exercise, Probe


def use(answer, names):
    return {name: answer(name) for name in names}


# --- the oracle -------------------------------------------------------------------------------

LETTERS = {"weight": "w", "bias": "b"}


def ours(name, knobs):
    openai = name.startswith("model/")
    if openai:
        parts = name.split("/")[1:]
        layer = parts[0][1:]
        if parts[0][0] == "h" and layer.isdigit():
            if "one_digit" in knobs:
                layer = layer[0]
            parts[0:1] = [f"h{layer}"] if "no_dot" in knobs else ["h", layer]
        if "swapped_gb" in knobs and parts[-1] in "gb":
            parts[-1] = {"g": "b", "b": "g"}[parts[-1]]
        if parts in (["wte"], ["wpe"]) and "bare_tables" not in knobs:
            parts.append("weight")
        if "flat" in knobs and "attn" in parts:
            parts.remove("attn")
        return ".".join(parts)
    parts = name.split(".")
    if parts[0] == "transformer" and "prefix_kept" not in knobs:
        parts = parts[1:]
    mask = parts[-2:-1] == ["attn"] and parts[-1] in ("bias", "masked_bias")
    if mask and "mask_kept" not in knobs:
        return None
    if "bias_lost" in knobs and "attn" in parts and parts[-1] == "bias":
        return None
    above = parts[-2]
    if above.startswith("ln_"):
        leaf = LETTERS[parts[-1]]
        parts[-1] = "g" if leaf == "w" and "gain_is_w" not in knobs else leaf
    elif above.startswith("c_"):
        parts[-1] = LETTERS[parts[-1]]
    elif above in ("wte", "wpe") and "table_is_w" in knobs:
        parts[-1] = "w"
    return ".".join(parts)


def reference(names, *, knobs, steps):
    return {name: ours(name, knobs) for name in names}


# --- the probes -------------------------------------------------------------------------------

PARTS = (
    *("ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b"),
    *("ln_2/g", "ln_2/b", "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b"),
)


def openai(*layers):
    blocks = [f"model/h{layer}/{part}" for layer in layers for part in PARTS]
    return ["model/wpe", "model/wte", *blocks, "model/ln_f/g", "model/ln_f/b"]


def hugging_face(prefix, layer):
    """Theirs, the buffers of old files included."""
    leaves = {"g": "weight", "w": "weight", "b": "bias"}
    blocks = [
        f"{prefix}h.{layer}.{'.'.join(part.split('/')[:-1])}.{leaves[part[-1]]}" for part in PARTS
    ]
    buffers = [f"{prefix}h.{layer}.attn.{name}" for name in ("bias", "masked_bias")]
    ends = [f"{prefix}{name}" for name in ("wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias")]
    return [*blocks, *buffers, *ends]


# --- right in other ways ----------------------------------------------------------------------


def by_match(name):
    match re.split(r"[./]", name.removeprefix("transformer.").removeprefix("model/")):
        case [table] | [table, "weight"] if table in ("wte", "wpe"):
            return f"{table}.weight"
        case ["h", _, "attn", "bias" | "masked_bias"]:
            return None
        case [*front, part, leaf]:
            if front and front[0][0] == "h" and len(front[0]) > 1:
                front[0:1] = ["h", front[0][1:]]
            short = {"weight": "g" if part[:2] == "ln" else "w", "bias": "b"}.get(leaf, leaf)
            return ".".join([*front, part, short])
    return name


def by_rules(name):
    rules = (
        (r"^(model/|transformer\.)", ""),
        (r"^h(\d+)/", r"h.\1."),
        (r"/", "."),
        (r"^(w[tp]e)$", r"\1.weight"),
        (r"(ln_[12f])\.weight$", r"\1.g"),
        (r"(ln_[12f])\.bias$", r"\1.b"),
        (r"(c_\w+)\.weight$", r"\1.w"),
        (r"(c_\w+)\.bias$", r"\1.b"),
    )
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return None if re.search(r"attn\.(masked_)?bias$", name) else name


def by_table(name):
    table = {"model/wte": "wte.weight", "model/wpe": "wpe.weight"}
    for letter, word in (("g", "weight"), ("b", "bias")):
        for spelt in (f"model/ln_f/{letter}", f"ln_f.{word}", f"transformer.ln_f.{word}"):
            table[spelt] = f"ln_f.{letter}"
    for layer in range(48):
        for part in PARTS:
            mine = f"h.{layer}.{part.replace('/', '.')}"
            table[f"model/h{layer}/{part}"] = mine
            theirs = mine[:-1] + ("bias" if mine[-1] == "b" else "weight")
            table[theirs] = table[f"transformer.{theirs}"] = mine
        for buffer in (f"h.{layer}.attn.bias", f"h.{layer}.attn.masked_bias"):
            table[buffer] = table[f"transformer.{buffer}"] = None
    return table.get(name, name.removeprefix("transformer."))


EXERCISE = Exercise(
    name="to_our_name",
    target="gpt2_scratch.loader:to_our_name",
    minutes=20,
    axes="",
    reference=reference,
    use=use,
    probes=(
        Probe("OpenAI's names", lambda: (openai(0, 2),)),
        Probe("OpenAI's names of later blocks", lambda: (openai(10, 47),)),
        Probe("Hugging Face's names", lambda: (hugging_face("transformer.", 3),)),
        Probe("Hugging Face's names without prefix", lambda: (hugging_face("", 11),)),
    ),
    knobs={
        "no_dot": Diagnosis(
            says="blocks are called h0, h1, and not h.0, h.1",
            think="how does a ModuleList called h name its third module?",
            hint="Print the keys of your model's state_dict.",
            text="ch07#names",
        ),
        "one_digit": Diagnosis(
            says="only the first digit of a block's number was read: h10 became block 1",
            think="how many digits has the number of the last of 12 blocks?",
            hint="One digit, or one and more?",
            text="ch07#names",
        ),
        "swapped_gb": Diagnosis(
            says="g and b are taken for each other",
            think="which of the two is the gain?",
            hint="OpenAI's own letters are already ours.",
            text="ch07#names",
        ),
        "bare_tables": Diagnosis(
            says="wte and wpe lack the `.weight` that they have in your model",
            think="what does an nn.Embedding call its table?",
            hint="Print the keys of your model's state_dict.",
            text="ch07#names",
        ),
        "flat": Diagnosis(
            says="the `attn` between block and map is gone",
            think="how would you tell attention's c_proj from the MLP's?",
            hint="Every step of the path stays; only what is between them changes.",
            text="ch07#names",
        ),
        "prefix_kept": Diagnosis(
            says="names still begin with `transformer.`",
            think="which of Hugging Face's classes has a `transformer` inside, and has yours?",
            hint="Some files have that prefix, others don't: both should come out alike.",
            text="ch07#names",
        ),
        "gain_is_w": Diagnosis(
            says="the weight of a norm is called w, like a linear map's",
            think="what do you call what LayerNorm multiplies by?",
            hint="Hugging Face calls two different things `weight`. Look at what stands before it.",
            text="ch07#names",
        ),
        "table_is_w": Diagnosis(
            says="the `weight` of wte and wpe became w",
            think="what does an nn.Embedding call its table?",
            hint="Three kinds of things are called `weight` there; one of them keeps the name.",
            text="ch07#names",
        ),
        "mask_kept": Diagnosis(
            says="`attn.bias` and `attn.masked_bias`, the causal masks of old files, were kept",
            think="is attn.bias a parameter, and of which map would it be the bias?",
            hint="Attention has no bias of its own: its two maps have.",
            text="ch07#buffers",
        ),
        "bias_lost": Diagnosis(
            says="the biases of attention's two maps were thrown out with the masks",
            think="in what do h.0.attn.bias and h.0.attn.c_attn.bias differ?",
            hint="The mask stands directly below attn.",
            text="ch07#buffers",
        ),
    },
    exclusive=(("no_dot", "one_digit"), ("mask_kept", "bias_lost"), ("prefix_kept", "flat")),
    hints=(
        "What are the parts of such a name, and which of them are called differently by you?",
        "OpenAI: model/h10/attn/c_attn/w; a slash for your dot, h10 for your h.10, wte without a"
        " last part. Hugging Face: your dots, perhaps a prefix, but weight and bias where you have"
        " w, g and b; what stands before says which. Their masks are no parameters: None.",
        "OpenAI's: cut the first word off; the block's number gets a dot before it; slashes to"
        " dots; the two tables get their last word\n"
        "Hugging Face's: cut the prefix off if there is one; nothing for a mask\n"
        "below a norm: g and b; below a linear map: w and b; all else stays",
    ),
    alternatives=(by_match, by_rules, by_table),
)
