"""Which of CLIP's layers does a captioner need? Five connectors on drawn scenes, some seeds each.

    python benchmarks/ablation.py                    # all of it; killed, it goes on where it was
    python benchmarks/ablation.py --seeds 1 --steps 300 --pictures 3000

    common    a GPT-2 that has read captions, a CLIP that has seen close-ups: the first two stages
              of `train-scenes`, made once (or taken from --stages), the same for every connector
    pictures  drawn once; of the tower, which is frozen, each connector's features are kept
    runs      a new connector and that GPT-2 learn to caption, --steps each, by the code that
              trains every captioner here
    table     facts of pictures that were never trained on, with intervals; OUT/table.md

Each connector gives 15 image tokens, by the article's own reducer: kernel 1, strides 5 and 2 (of
sti's 180 tokens 6 and 2), which of 145 leave as many as of 144.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from connector.config import ConnectorConfig, ReducerConfig, Variant
from weights.console import run_command
from weights.store import read_json, replacing, write_json

if TYPE_CHECKING:
    from captioning.data.index import Index
    from captioning.metrics.measure import Measure
    from captioning.model import Captioner

VARIANTS: tuple[Variant, ...] = ("article", "dci", "sci", "sti", "last")
STRIDES = {"sti": (6, 2)}
BASE = "last"  # what the others are compared with
ABLATION = 7  # first number of these pictures' seeds, as in captioning.scenes
BATCH = 50  # pictures that are captioned at once
FIGURES = ("facts F1", "exact", "CIDEr-D", "BLEU-4")


@dataclass(frozen=True)
class Ablation:
    """The table of connectors, resumable: what is done lies in --out and is not done again."""

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/ablation")
    """Where pictures, features, runs and the table go."""
    stages: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/scenes")
    """A folder of `train-scenes`: its first two stages are taken, or made there."""
    seeds: int = 3
    """Runs of each connector: other random numbers to begin with, another order of the pictures."""
    steps: int = 3000
    """Of each run."""
    batch: int = 32
    """Captions a step."""
    pictures: int = 20_000
    """Scenes drawn: four fifths to train on, a tenth to be measured on."""
    variants: tuple[Variant, ...] = VARIANTS
    """Which connectors; "last" is what the others are compared with."""
    jobs: int = 2
    """Processes at once, each on a core of its own."""

    def run(self) -> int:
        began = time.monotonic()
        prepare_common(self)
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            # In the order of the seeds, so that a run that is cut short has a table of fewer.
            for name in pool.map(fill_cache, [(self, variant) for variant in self.variants]):
                say(f"features of {name} are there", began)
            cells = [(self, v, seed) for seed in range(self.seeds) for v in self.variants]
            for number, cell in enumerate(pool.map(run_cell, cells), 1):
                say(f"{cell['variant']}, seed {cell['seed']}: F1 {cell['facts F1']:.4f}", began)
                if number % len(self.variants) == 0:
                    table = as_table(replace(self, seeds=cell["seed"] + 1))
                    with replacing(self.out / "table.md") as temporary:
                        temporary.write_text(table, "utf-8")
        sys.stdout.write(table)
        return 0


def say(what: str, began: float) -> None:
    sys.stderr.write(f"{(time.monotonic() - began) / 60:6.1f} min  {what}\n")


def connector_config(variant: Variant) -> ConnectorConfig:
    """The embedded captioner's sizes with this connector: 15 tokens, whichever it is."""
    from captioning.scenes.recipe import LANGUAGE, VISION

    return ConnectorConfig(
        variant=variant,
        vision_width=VISION.width,
        depth=VISION.layers,
        patches=VISION.patches,
        out=LANGUAGE.n_embd,
        dropout=0.0,
        reducer=ReducerConfig(kind="article", strides=STRIDES.get(variant, (5, 2))),
    )


# ---- what all runs share -------------------------------------------------------------------------


def prepare_common(ablation: Ablation) -> None:
    """The two stages and the pictures, where they are not there already."""
    import torch

    from captioning.scenes.recipe import Recipe, train_clip, train_language_model

    torch.set_num_threads(1)
    recipe = Recipe(out=ablation.stages)
    common = ablation.out / "common"
    if not (common / "vision.pt").is_file():
        language, tokenizer = train_language_model(recipe)
        vision = train_clip(recipe, tokenizer)
        common.mkdir(parents=True, exist_ok=True)
        tokenizer.save(common)
        for name, module in (("gpt2", language), ("vision", vision)):
            with replacing(common / f"{name}.pt") as temporary:
                torch.save(module.state_dict(), temporary)
    draw_pictures(ablation)
    open_set(ablation).close()


def draw_pictures(ablation: Ablation) -> None:
    """Scenes, as small as the tower takes them, and their captions beside them."""
    from PIL import Image
    from tqdm import trange

    from captioning.scenes.draw import draw
    from captioning.scenes.recipe import VISION
    from connector.preprocess import resize_and_crop

    folder = ablation.out / "pictures"
    captions = folder / "captions.jsonl"
    if captions.is_file():
        with captions.open(encoding="utf-8") as file:
            if sum(1 for _ in file) == ablation.pictures:
                return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(captions) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number in trange(ablation.pictures, desc="drawing", unit="scene", disable=None):
            name = f"{number:06d}.png"
            scene = draw((ABLATION, number))
            if not (folder / name).is_file():
                with replacing(folder / name) as picture:
                    small = resize_and_crop(scene.image, VISION.image_size)
                    Image.fromarray(small).save(picture, "PNG")
            file.write(json.dumps({"file_name": name, "caption": scene.caption}) + "\n")


def open_set(ablation: Ablation) -> Index:
    from captioning.data.build import open_index
    from gpt2_scratch.tokenizer import BPETokenizer

    return open_index(
        ablation.out / "pictures",
        ablation.out / "index.sqlite",
        tokenizer=BPETokenizer.load(ablation.out / "common"),
    )


def build(ablation: Ablation, variant: Variant, seed: int) -> Captioner:
    """The common tower and GPT-2 with a new connector between; only the tower is frozen."""
    import torch

    from captioning.build import new_connector
    from captioning.model import Captioner
    from captioning.scenes.recipe import LANGUAGE, REDUCERS, VISION, captioner_config
    from captioning.trained import prepare
    from connector.vision import ClipVision
    from gpt2_scratch.model import GPT2
    from gpt2_scratch.tokenizer import BPETokenizer

    torch.set_num_threads(1)
    common = ablation.out / "common"
    config = replace(captioner_config(REDUCERS["pool"]), connector=connector_config(variant))
    vision, language = ClipVision(VISION), GPT2(LANGUAGE)
    vision.load_state_dict(torch.load(common / "vision.pt", weights_only=True))
    language.load_state_dict(torch.load(common / "gpt2.pt", weights_only=True))
    connector = new_connector(config.connector, language.wte.weight.std().item(), seed)
    captioner = Captioner(vision, connector, language, BPETokenizer.load(common), config)
    prepare(captioner, "connector+gpt2")
    return captioner


def features(ablation: Ablation, captioner: Captioner) -> Any:
    """The cache of a connector's features, and what fills it."""
    from captioning.data.features import Encoder, FeatureCache
    from captioning.data.transforms import Transform

    config = captioner.config
    encoder = Encoder(captioner.vision, captioner.connector, Transform(config.vision.image_size))
    folder = ablation.out / "features" / config.connector.variant
    folder.mkdir(parents=True, exist_ok=True)
    return FeatureCache(folder, encoder), encoder


def fill_cache(task: tuple[Ablation, Variant]) -> str:
    ablation, variant = task
    captioner = build(ablation, variant, 0).eval()
    cache, encoder = features(ablation, captioner)
    with open_set(ablation) as index:
        cache.fill(index.pictures(), encoder, batch=BATCH, workers=1)
    cache.close()
    return variant


# ---- one run -------------------------------------------------------------------------------------


def run_cell(task: tuple[Ablation, Variant, int]) -> dict[str, Any]:
    """Trains and measures one connector with one seed, or reads what that gave."""
    ablation, variant, seed = task
    folder = ablation.out / f"{variant}-{seed}"
    result = folder / "result.json"
    settings = {"steps": ablation.steps, "batch": ablation.batch, "pictures": ablation.pictures}
    if result.is_file() and (held := read_json(result))["settings"] == settings:
        return held
    from captioning.data.batches import Batches
    from captioning.data.transforms import Transform
    from captioning.scenes.recipe import stage
    from gpt2_scratch.training.loop import train

    config = replace(stage(ablation.steps, ablation.batch, matrix_rate=0.006), seed=seed)
    captioner = build(ablation, variant, seed)
    cache, _ = features(ablation, captioner)
    size = captioner.config.vision.image_size
    with open_set(ablation) as index:
        batches = Batches(
            *(index, "train", captioner.tokenizer, Transform(size), config.batch),
            seed=seed,
            cache=cache,
        )
        train(
            captioner,
            lambda batch: captioner.loss_sum_of_features(batch.inputs, batch.ids, batch.lengths),
            batches,
            config,
            folder,
            title=f"{variant}, seed {seed}",
        )
        said = list(caption(captioner.eval(), cache, index))
    cache.close()
    with replacing(folder / "predictions.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in said), "utf-8")
    found = measures(said)
    held = {
        "variant": variant,
        "seed": seed,
        "settings": settings,
        "tokens": captioner.connector.tokens,
        "connector parameters": sum(p.numel() for p in captioner.connector.parameters()),
        **{name: measure.value for name, measure in found.items()},
    }
    write_json(result, held)
    return held


def caption(captioner: Captioner, cache: Any, index: Index) -> Iterator[dict[str, Any]]:
    """Greedy captions of the test side, from the kept features."""
    import torch

    pictures = index.pictures("test")
    while chunk := list(islice(pictures, BATCH)):
        kept = torch.from_numpy(np.stack([cache[picture.image] for picture in chunk])).float()
        said = captioner.say(captioner.tokens_from_features(kept))
        for picture, (text, _) in zip(chunk, said, strict=True):
            yield {"image_id": picture.image, "caption": text, "references": picture.captions}


# ---- what it came to -----------------------------------------------------------------------------


def measures(said: list[dict[str, Any]]) -> dict[str, Measure]:
    """Facts and words, each as numbers a picture that add up."""
    from captioning.metrics.measure import Measure, mean
    from captioning.metrics.scoring import measures as of_words
    from captioning.scenes.facts import read_facts, score_facts

    candidates = [row["caption"] for row in said]
    references = [list(row["references"]) for row in said]
    scores = [
        score_facts(read_facts(text), read_facts(several[0]))
        for text, several in zip(candidates, references, strict=True)
    ]
    words = of_words(candidates, references)
    parts = np.array([(2 * one.right, one.said + one.drawn) for one in scores], float)
    return {
        "facts F1": Measure(parts),
        "exact": mean([one.exact for one in scores]),
        "CIDEr-D": words["CIDEr-D"],
        "BLEU-4": words["BLEU-4"],
    }


def of_variant(ablation: Ablation, variant: Variant) -> tuple[list[dict[str, Any]], Any]:
    """Each seed's result, and each metric of all seeds' captions: a picture's rows added up."""
    from captioning.metrics.measure import Measure

    results, found = [], []
    for seed in range(ablation.seeds):
        folder = ablation.out / f"{variant}-{seed}"
        if (folder / "result.json").is_file():
            results.append(read_json(folder / "result.json"))
            lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
            found.append(measures([json.loads(line) for line in lines]))
    together = {
        name: Measure(np.sum([one[name].parts for one in found], 0), found[0][name].formula)
        for name in FIGURES
    }
    return results, together


def as_table(ablation: Ablation) -> str:
    """The table, in Markdown."""
    from captioning.metrics.intervals import bootstrap, compare

    every = {variant: of_variant(ablation, variant) for variant in ablation.variants}
    head = [
        "connector",
        "parameters",
        *(f"{name}, 95 %" for name in FIGURES),
        "F1 of each seed",
        f"F1 less {BASE}'s, 95 %, p",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant, (results, found) in every.items():
        row = [variant, f"{results[0]['connector parameters']:,}"]
        for name in FIGURES:
            low, high = bootstrap(found[name])
            row.append(f"{found[name].value:.4f} ({low:.4f} to {high:.4f})")
        row.append(", ".join(f"{one['facts F1']:.4f}" for one in results))
        if BASE in every and variant != BASE:
            one = compare(found["facts F1"], every[BASE][1]["facts F1"])
            low, high = one.interval
            row.append(f"{one.difference:+.4f} ({low:+.4f} to {high:+.4f}), {one.p:.4f}")
        else:
            row.append("")
        lines.append("| " + " | ".join(row) + " |")
    results = [one for results, _ in every.values() for one in results]
    pictures = len(next(iter(every.values()))[1]["facts F1"].parts)
    tokens = ", ".join(map(str, sorted({one["tokens"] for one in results})))
    asked = {key: value for key, value in asdict(ablation).items() if key not in ("out", "stages")}
    return "\n".join(
        [
            *lines,
            "",
            f"{pictures:,} pictures that were never trained on, {tokens} image tokens;"
            f" the steps of all runs took {minutes(ablation, results):.0f} minutes of one core.",
            "article and last project features by one linear layer and a norm, the paper's dci, sci"
            " and sti by two linear layers.",
            "Intervals are over pictures, with the captions of all seeds of a picture together:"
            " how far seeds differ is in their own column.",
            f"Settings: {asked}",
            "",
        ]
    )


def minutes(ablation: Ablation, results: list[dict[str, Any]]) -> float:
    """What the steps took by their logs, which a run that was killed goes on with."""
    from captioning.training.curves import columns

    folders = (ablation.out / f"{one['variant']}-{one['seed']}" for one in results)
    return sum(sum(columns(folder / "log.csv")["seconds"]) for folder in folders) / 60


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(run_command(lambda: tyro.cli(Ablation, description=__doc__).run()))
