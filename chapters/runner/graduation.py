"""Graduation: the learner's own modules run GPT-2, are checked site by site, and write text.

Runs where the learner's code runs. What is judged is the package's loader and `verify`, with the
learner's pieces in the package's places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from chapters.runner import explain, swap
from chapters.runner.catalog import Entry, entries
from chapters.runner.outcome import Outcome
from chapters.runner.where import point
from chapters.runner.workspace import TREE

GOLDEN = TREE / "weights" / "embedded" / "golden" / "tiny-a"
LANGUAGE_MODEL = TREE / "weights" / "embedded" / "scenes" / "language-model"
LAST = {1: 7}  # the chapter that a graduation ends
PROMPT = {"scenes": "In this image", "gpt2": "The meaning of life is"}


def wanted(which: int) -> list[Entry]:
    """The exercises that are the model itself, in order: all of them must be the learner's."""
    return [
        entry
        for entry in entries()
        if entry.number <= LAST[which] and entry.words["target"].startswith("gpt2_scratch.model:")
    ]


def job(request: dict[str, Any], phase: Callable[[str], Any]) -> dict[str, Any]:
    """{"sites", "passed", "weights", "text"}, or {"outcome": ...} where the model doesn't run."""
    from chapters.runner.catalog import find

    outcome = Outcome("graduate", str(request["which"]))
    phase("began")
    with swap.pieces(request):
        try:
            from gpt2_scratch.verify import verify

            report = verify(GOLDEN / "hf-prefixed", GOLDEN / "oracle.npz")
            found: dict[str, Any] = {"sites": str(report), "passed": report.passed}
            if report.passed:
                found |= _real_weights()
            return found
        except Exception as error:
            outcome.verdict = "raised"
            outcome.says = [explain.one_line(error)]
            for key, file in request["passed"].items():
                outcome.file = file
                point(outcome, error)
                if outcome.where:
                    outcome.id, outcome.name = key, find(key).name
                    break
            return {"outcome": outcome.data()}


def _real_weights() -> dict[str, Any]:
    """OpenAI's weights where they were fetched, else the embedded language model."""
    import torch

    from gpt2_scratch import loader
    from gpt2_scratch.generate import generate
    from gpt2_scratch.tokenizer import BPETokenizer
    from gpt2_scratch.verify import verify
    from weights.cache import locate

    found: dict[str, Any] = {"weights": "scenes"}
    folder, tokenizer = LANGUAGE_MODEL, BPETokenizer.load(LANGUAGE_MODEL)
    try:
        folder, tokenizer = Path(locate("gpt2")), BPETokenizer.gpt2()
        found["weights"] = "gpt2"
        report = verify(folder, tokens=[tokenizer.encode(PROMPT["gpt2"])])
        found |= {"sites": str(report), "passed": report.passed}
    except FileNotFoundError:
        pass
    model = loader.load_gpt2(folder).eval()
    prompt = PROMPT[found["weights"]]
    ids = torch.tensor([tokenizer.encode(prompt)])
    new = generate(model, ids, 60, temperature=0.0, end=tokenizer.end)[0].tolist()
    written = new[: new.index(tokenizer.end)] if tokenizer.end in new else new
    return found | {"text": prompt + tokenizer.decode(written)}
