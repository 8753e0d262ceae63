"""Published figures: each kind holds for the right model, fails for a wrong one, and has a source.

Nobody here has OpenAI's weights, so the figures are made of a tiny model by transformers.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import random_model
from torch.nn import functional as F

from gpt2_scratch.config import PRESETS
from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.model import GPT2
from gpt2_scratch.published import (
    CHECKS,
    TEXTS,
    check_published,
    encoder,
    facts,
    perplexity,
    size_name,
    windows,
)
from weights.figures import read_file

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()

Fact = dict[str, Any]
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]


# ---- what is in the file -------------------------------------------------------------------------


def test_every_fact_says_whose_it_is() -> None:
    known = facts()
    assert len({fact["id"] for fact in known}) == len(known) > 45
    for fact in known:
        assert fact["model"] in PRESETS
        assert fact["kind"] in {*CHECKS, *TEXTS, "training", "elsewhere"}
        assert len(fact["source"]) > 20 and fact["reliability"]


def test_the_facts_are_those_that_were_published(shared: Path) -> None:
    """Against the collection that they were taken from."""
    held = json.loads((shared / "golden" / "gpt2_golden.json").read_text())["facts"]
    theirs = {fact["id"].replace("_", "-"): fact for fact in held}
    ours = {fact["id"]: fact for fact in facts()}
    for size in ("117M", "345M"):
        fact, wanted = ours[f"gluon-{size}-logits"], theirs[f"gluon-{size}-logits"]
        assert fact["tokens"] == wanted["input_ids"]
        for n, place in enumerate(wanted["expected"]["positions"]):
            assert fact["expected"]["top5_ids"][n] == place["top5_ids"]
            assert fact["expected"]["top5"][n] == place["top5_logits"]
            assert fact["expected"]["sampled"][n] == place["sampled_logits"]
    assert ours["rasbt-wte-124M"]["expected"] == theirs["rasbt-wte-124M"]["expected"]["rows"]
    assert ours["llmc-overfit-c"]["expected"] == theirs["llmc-overfit-c"]["expected"]["losses"]
    counts = theirs["param-counts"]["expected"].values()
    assert [ours[f"parameters-{name}"]["expected"] for name in PRESETS] == [
        sizes["params"] for sizes in counts
    ]
    texts = [fact for fact in ours.values() if fact["kind"] == "greedy"]
    assert {fact["model"] for fact in texts} == {"gpt2", "gpt2-medium", "gpt2-large"}
    for fact in texts:
        ids = theirs[fact["id"]]["expected"]["reencoded_full_ids"]
        assert ids is None or fact["tokens"] + fact["expected"] == ids
    # Every fact about these models is there, or is about something else than a model's numbers.
    left = {name for name in theirs if name not in ours}
    assert left == {
        *("param-counts", "tensor-list-large", "file-hashes", "rasbt-untrained-seed123"),
        *("rasbt-verdict-loss-124M", "paper-table3-zero-shot", "nanogpt-owt-losses", "hellaswag"),
        *("build-nanogpt-fineweb-val", "rasbt-topk-seed123-124M"),
    }


def test_a_size_is_known_by_its_numbers() -> None:
    for name, config in PRESETS.items():
        assert size_name(config) == name
    assert size_name(random_model().config) is None


# ---- each kind, on figures that transformers gives -----------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save_gpt2(random_model(dtype=torch.float32, dropout=0.1, n_ctx=40), place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> GPT2:
    return load_gpt2(folder)


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Fact]:
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = theirs(ids).logits[0]
        states = theirs.transformer(ids).last_hidden_state[0]
        options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
        text = theirs.generate(ids, **options)[0, 8:].tolist()
        beam = theirs.generate(ids, num_beams=2, **options)[0, 8:].tolist()
    wte = theirs.transformer.wte.weight
    logs = logits[:-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    rows = {n: {"first3": wte[n, :3].tolist(), "last3": wte[n, -3:].tolist()} for n in (0, 30)}
    top = logits.topk(5)
    parts: dict[str, Fact] = {
        "parameters": {"expected": sum(p.numel() for p in theirs.parameters())},
        "wte": {"expected": {str(n): row for n, row in rows.items()}, "atol": 1e-8},
        "logits": {
            "expected": {
                "top5_ids": top.indices.tolist(),
                "top5": top.values.tolist(),
                "sampled_ids": [2, 29],
                "sampled": logits[:, [2, 29]].tolist(),
            }
        },
        "values": {
            "expected": {
                "site": "ln_f",
                "rows": [1, 4],
                "columns": [1, 4],
                "values": states[1:4, 1:4].tolist(),
            }
        },
        "logprobs": {"expected": {"first": 3, "each": logs[2:].tolist()}},
        "greedy": {"expected": text},
        "beam": {"expected": beam, "beams": 2},
    }
    return {
        kind: {"kind": kind, "tokens": TOKENS, "atol": 1e-4} | part for kind, part in parts.items()
    }


def status(model: GPT2, fact: Fact, **options: Any) -> str:
    about = {"id": "x", "model": "any", "source": "transformers", "reliability": "high"}
    (figure,) = check_published(model, Path(), known=[about | fact], **options)
    assert "transformers" in figure.source and figure.says
    return figure.status


@pytest.mark.parametrize("kind", CHECKS)
def test_each_kind_passes_what_is_right(model: GPT2, figures: dict[str, Fact], kind: str) -> None:
    assert status(model, figures[kind]) == "pass"


@pytest.mark.parametrize("kind", CHECKS)
def test_each_kind_fails_what_is_wrong(figures: dict[str, Fact], kind: str) -> None:
    other = random_model(dtype=torch.float32, seed=1, n_ctx=39)
    assert status(other, figures[kind]) == "fail"


@pytest.mark.parametrize("kind", ["logits", "values", "logprobs"])
def test_the_smallest_mistake_is_seen(model: GPT2, figures: dict[str, Fact], kind: str) -> None:
    (mistake,) = [m for m in MISTAKES if m.name == "gelu-exact"]
    with mistake.planted():
        assert status(model, figures[kind]) == "fail"


def test_sums_and_means(model: GPT2, figures: dict[str, Fact]) -> None:
    each = torch.tensor(figures["logprobs"]["expected"]["each"], dtype=torch.float64)
    for name, value in (("sum", each.sum()), ("mean", each.mean())):
        fact = figures["logprobs"] | {"expected": {"first": 3, name: float(value)}}
        assert status(model, fact) == "pass"
        fact["expected"][name] += 1e-3
        assert status(model, fact) == "fail"


def test_penalties(model: GPT2, folder: Path, figures: dict[str, Fact]) -> None:
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.tensor([TOKENS])
    for ours, name, value in (
        ("no_repeat_ngram", "no_repeat_ngram_size", 2),
        ("repetition_penalty", "repetition_penalty", 1.5),
    ):
        text = theirs.generate(ids, **options, **{name: value})[0, 8:].tolist()
        plain = figures["greedy"] | {"expected": text}
        assert status(model, plain | {"options": {ours: value}}) == "pass"
        assert status(model, plain) == "fail"


def test_training_losses(model: GPT2, folder: Path) -> None:
    """Against plain torch and transformers; the model itself stays as it is."""
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    settings: Fact = {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}
    optimizer = torch.optim.AdamW(theirs.parameters(), **settings)
    tokens = [(7 * n * n + 3) % 31 for n in range(2 * 9 + 1)]
    x, y = torch.tensor(tokens[:-1]).view(2, 9), torch.tensor(tokens[1:]).view(2, 9)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(theirs(x).logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] - losses[-1] > 0.1
    fact = {"kind": "training", "tokens": tokens, "rows": 2, "optimizer": settings, "atol": 1e-4}
    before = {name: p.clone() for name, p in model.state_dict().items()}
    assert status(model, fact | {"expected": losses}) == "not run"
    assert status(model, fact | {"expected": losses}, slow=True) == "pass"
    losses[-1] += 1e-3
    assert status(model, fact | {"expected": losses}, slow=True) == "fail"
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


# ---- texts, and what is not run ------------------------------------------------------------------


def letters(text: str) -> list[int]:
    return [ord(letter) % 31 for letter in text]


@torch.no_grad()
def test_losses_of_windows_and_perplexity() -> None:
    """Written out once more, token by token."""
    model = random_model(n_ctx=300)
    text = "".join(chr(97 + (n * n) % 26) for n in range(7000))

    def losses(ids: list[int], start: int, end: int, first: int) -> torch.Tensor:
        logits = model(torch.tensor([ids[start : end - 1]]))[0, first - 1 - start :]
        return F.cross_entropy(logits, torch.tensor(ids[first:end]), reduction="none")

    parts = letters(text[:6300]), letters(text[6300:])
    wanted = []
    for ids in parts:
        found = [losses(ids, i, i + 257, i + 1) for i in range(0, len(ids) - 256, 256)]
        wanted.append(float(torch.cat(found).mean()))
    fact: Fact = {"expected": {"train": wanted[0], "val": wanted[1]}, "atol": 1e-6}
    assert windows(fact, model, text, letters)[0]
    assert not windows(fact | {"expected": {"train": 0.0, "val": wanted[1]}}, model, text, letters)[
        0
    ]

    ids = letters(text[:700])
    # 0-300 all; then 300-450 with 150 before, 450-600 likewise, 600-700 with 200 before
    some = [(0, 300, 1), (150, 450, 300), (300, 600, 450), (450, 700, 600)]
    mean = torch.cat([losses(ids, *each) for each in some]).mean()
    fact = {"expected": {"150": float(mean.exp())}, "atol": 1e-4}
    assert perplexity(fact, model, text[:700], letters)[0]


def test_a_text_is_the_one_that_was_meant(model: GPT2, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("a text")
    digest = sha256(b"a text").hexdigest()
    fact = {"kind": "windows", "expected": {"train": 1.0}, "atol": 1.0}
    right = fact | {"file": {"what": "that text", "sha256": digest}}
    assert status(model, right) == "not run"  # no file
    assert status(model, right, files={"x": file}) == "not run"  # no tokenizer of 31 tokens
    with pytest.raises(ValueError, match="that of another text"):
        other = {"what": "another text", "sha256": "0" * 64}
        status(model, fact | {"file": other}, files={"x": file})
    with pytest.raises(ValueError, match="no figure 'y' takes a file"):
        status(model, right, files={"y": file})


def test_what_is_not_run_says_why(model: GPT2) -> None:
    figures = check_published(model, Path())
    assert {figure.status for figure in figures} == {"not run"}
    assert all(
        f"is about {fact['model']}" in f.says for f, fact in zip(figures, facts(), strict=True)
    )
    about = {"id": "x", "model": "any", "source": "s", "reliability": "high"}
    fact = about | {"kind": "elsewhere", "because": "needs another machine"}
    (figure,) = check_published(model, Path(), known=[fact])
    assert (figure.status, figure.says) == ("not run", "needs another machine")


def test_the_verdict_is_read_as_its_figure_says(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """18 windows and 2, as the one who published the loss counted them."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken_cache"))
    (fact,) = [fact for fact in facts() if fact["id"] == "rasbt-verdict-loss"]
    text = read_file(fact, shared / "golden" / "the-verdict.txt").decode()
    encode, cut = encoder(Path(), 50257), int(0.9 * len(text))
    counts = [len(range(0, len(encode(part)) - 256, 256)) for part in (text[:cut], text[cut:])]
    assert counts == [18, 2]
