"""Somebody else's GPT-2 with a mistake in one place, judged by few sites or by its logits alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_model
from torch import nn

from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.raw import open_raw
from gpt2_scratch.recording import read_recording
from gpt2_scratch.sites import TRANSFORMERS
from gpt2_scratch.verify import record, verify, verify_module
from weights import diagnose
from weights.hooks import Sites

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()

# Where a mistake of one block shows only in the next, or, without sites, only at the end.
NORMS: Sites = {"layer{}.ln_1": "transformer.h.{}.ln_1"}


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "tiny-a" / "hf-prefixed"


def twin(folder: Path, **changes: Any) -> Any:
    options = {"attn_implementation": "eager"} | changes
    return transformers.GPT2LMHeadModel.from_pretrained(folder, **options).eval()


class SampleVariance(nn.Module):
    """A LayerNorm with the mistake that torch.std's default makes."""

    def __init__(self, right: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = right.weight, right.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = x - x.mean(-1, keepdim=True)
        return far / x.std(-1, keepdim=True) * self.weight + self.bias


class Returning(nn.Module):
    """A model whose logits are changed before they are returned."""

    def __init__(self, inner: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.transformer, self.inner, self.change = inner.transformer, inner, change

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.change(self.inner(ids).logits)


def in_block_1(model: Any) -> None:
    model.transformer.h[1].mlp.act = nn.GELU()


def in_the_last_norm(model: Any) -> None:
    model.transformer.ln_f = SampleVariance(model.transformer.ln_f)


def in_the_norms_of_blocks(model: Any) -> None:
    for block in model.transformer.h:
        block.ln_1.eps = block.ln_2.eps = 1e-3


def without_bias_of_c_attn(model: Any) -> None:
    for block in model.transformer.h:
        nn.init.zeros_(block.attn.c_attn.bias)


def without_bias_of_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.zeros_(module.bias)


def by_way_of(dtype: torch.dtype) -> Callable[[Any], Any]:
    return lambda model: model.to(dtype).float()


@torch.no_grad()
def table_too_late(model: Any) -> None:
    table = model.transformer.wpe.weight
    table.copy_(table.roll(1, 0))


WRONG: dict[str, Callable[[Any], Any]] = {
    "gelu-exact@1": in_block_1,
    "sample-variance@ln_f": in_the_last_norm,
    "eps-1e-3@blocks": in_the_norms_of_blocks,
    "no-qkv-bias": without_bias_of_c_attn,
    "no-norm-bias": without_bias_of_norms,
    "weights-in-bfloat16": by_way_of(torch.bfloat16),
    "weights-in-float16": by_way_of(torch.float16),
    "positions-late": table_too_late,
    "log-probabilities": lambda model: Returning(model, lambda y: y.log_softmax(-1)),
    "probabilities": lambda model: Returning(model, lambda y: y.softmax(-1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_one_place_has_a_name(folder: Path, name: str) -> None:
    model = twin(folder)
    model = WRONG[name](model) or model
    for sites in (NORMS, None):
        report = verify_module(model, folder, sites)
        assert report.code == 1 and report.diagnosis is not None
        assert report.diagnosis.steps == ((name,),), str(report)
        assert report.diagnosis.until is None and "the same numbers" in str(report)


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_another_number_of_heads_is_a_mistake_and_no_misfit(folder: Path, heads: int) -> None:
    """The weights are (B, H, T, T): their shape differs, which says less than what is wrong."""
    model = twin(folder, n_head=heads)
    report = verify_module(model, folder, TRANSFORMERS)
    assert report.first_jump == "layer00.weights" and report.code == 1
    assert report.diagnosis is not None and report.diagnosis.steps == ((f"{heads}-heads",),)


def test_a_search_that_takes_too_long_is_not_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = twin(folder)
    in_block_1(model)
    monkeypatch.setattr(diagnose, "MOST", 0.0)
    report = verify_module(model, folder)
    assert report.diagnosis is not None and report.diagnosis.steps == ()
    assert "a single block was not looked for" in str(report)
    sites = {"layer{}.resid": "transformer.h.{}"}  # it is known which block
    found = verify_module(model, folder, sites).diagnosis
    assert found is not None and found.steps == (("gelu-exact@1",),)


def test_a_size_is_no_proof(folder: Path) -> None:
    """As large as bfloat16's rounding, and none: it is not said that the numbers are the same."""
    model = twin(folder)
    block = model.transformer.h[1]
    block.ln_2 = SampleVariance(block.ln_2)
    text = str(verify_module(model, folder))
    assert "bfloat16" in text and "as far off" in text and "another mistake may be" in text
    assert "the same numbers" not in text


@torch.no_grad()
def test_nan_is_told_and_where_it_is_from(folder: Path) -> None:
    model = twin(folder)
    model.transformer.h[1].mlp.c_fc.weight[3, 3] = torch.nan
    report = verify_module(model, folder, TRANSFORMERS)
    assert report.code == 1 and report.first_jump == "layer01.mlp"
    assert report.faults == ("Parameter transformer.h.1.mlp.c_fc.weight holds NaN or infinity.",)
    assert "layer01.mlp holds NaN" in str(report) and "known mistakes" not in str(report)


@torch.no_grad()
def test_a_checkpoint_that_overflows_does_not_pass(folder: Path, tmp_path: Path) -> None:
    """Ours, transformers and the reference in float32 all give NaN, and agree."""
    model: Any = load_gpt2(folder)
    model.h[1].mlp.c_fc.w[2, 3] = 3e38
    save_gpt2(model, tmp_path / "large")
    model.h[1].mlp.c_fc.w[2, 3] = torch.nan
    save_gpt2(model, tmp_path / "nan")
    for name in ("large", "nan"):
        report = verify(tmp_path / name)
        assert report.code == 1 and report.first_jump == "layer01.mlp"
        assert "layer01.mlp holds NaN" in str(report)
    assert report.faults == ("Parameter h.1.mlp.c_fc.w holds NaN or infinity.",)


@torch.no_grad()
def test_a_head_is_found_by_leaving_out_all_else(folder: Path) -> None:
    model = twin(folder)
    for block in model.transformer.h:
        block.mlp.act = nn.GELU()
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    report = verify_module(model, folder, TRANSFORMERS)
    assert report.diagnosis is not None
    assert report.diagnosis.steps == (("gelu-exact",), ("head-untied",))
    assert "nothing else is left" in str(report) and "the same numbers" not in str(report)


def test_where_logits_are_may_be_told(folder: Path) -> None:
    """As of nanoGPT, which gives the last token's alone; a wrong one is not called random."""
    model = twin(folder)
    last = Returning(model, lambda y: y[:, -1:])
    with pytest.raises(ValueError, match=r"logits is \(2, 1, 257\), wanted \(2, 13, 257\)"):
        verify_module(last, folder)
    sites: Sites = {"logits": lambda module, ids: {"logits": model(ids).logits}}
    assert verify_module(last, folder, sites).passed
    in_block_1(model)
    report = verify_module(last, folder, sites)
    assert report.diagnosis is not None and report.diagnosis.steps == (("gelu-exact@1",),)


def test_a_module_that_never_runs_is_told(folder: Path) -> None:
    model = twin(folder)
    model.spare = nn.Identity()
    report = verify_module(model, folder, {"embed": "spare"})
    assert report.passed and "nothing came of embed" in str(report)


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture
def arrays(folder: Path, tmp_path: Path) -> dict[str, Any]:
    record(folder, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as held:
        return {name: held[name] for name in held.files}


@pytest.mark.parametrize(
    ("fill", "name"),
    [
        (-1e9, "mask-with-1e9"),
        (-1e10, "mask-with-1e10"),  # OpenAI's own
        (float(np.finfo(np.float32).min), "mask-with-lowest"),  # transformers'
    ],
)
def test_a_number_for_infinity_is_told(
    folder: Path, tmp_path: Path, arrays: dict[str, Any], fill: float, name: str
) -> None:
    scores = {s: np.where(np.isinf(a), fill, a) for s, a in arrays.items() if s.endswith("scores")}
    np.savez(tmp_path / "theirs.npz", **{**arrays, **scores})
    report = verify(folder, tmp_path / "theirs.npz")
    assert [(d.whose, d.steps) for d in report.diagnoses] == [("theirs.npz", ((name,),))]
    assert report.first_failed == "layer00.scores"


def test_a_checkpoint_whose_blocks_were_sorted_as_strings(tmp_path: Path) -> None:
    """The file was recorded with the right one, so that here the right order looks wrong."""
    model = random_model(dtype=torch.float32, n_layer=12)
    save_gpt2(model, tmp_path / "right")
    record(tmp_path / "right", tmp_path / "right.npz")
    model.h = nn.ModuleList(model.h[n] for n in sorted(range(12), key=str))
    save_gpt2(model, tmp_path / "copy")
    report = verify(tmp_path / "copy", tmp_path / "right.npz")
    assert report.code == 1 and report.first_jump == "layer02.ln_1"
    assert [d.names for d in report.diagnoses] == [("blocks-sorted-as-strings",)]


def test_a_checkpoint_that_was_rounded_or_is_broken(folder: Path, tmp_path: Path) -> None:
    """The file was recorded with the right one: what it has can't be had from this one."""
    record(folder, tmp_path / "right.npz")
    model: Any = load_gpt2(folder)
    save_gpt2(model.bfloat16().float(), tmp_path / "coarse")
    report = verify(tmp_path / "coarse", tmp_path / "right.npz")
    assert report.code == 1
    assert "Why, in right.npz: This checkpoint's weights are in bfloat16" in str(report)
    with torch.no_grad():
        model.h[1].mlp.c_fc.w[2, 3] = torch.nan
    save_gpt2(model, tmp_path / "nan")
    report = verify(tmp_path / "nan", tmp_path / "right.npz", logits_only=True)
    assert [d.whose for d in report.diagnoses] == ["this model", "right.npz"]
    assert [d.steps for d in report.diagnoses] == [(), ()]
    assert "The checkpoint here gives NaN" in str(report)


def test_heads_may_lie_before_or_behind_tokens(
    folder: Path, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    rows, tokens, width = arrays["layer00.q"].shape
    cut = arrays["layer00.q"].reshape(rows, tokens, 4, width // 4)
    half = arrays["layer02.mlp"].astype(np.float16)
    for q in (cut, cut.swapaxes(1, 2)):
        np.savez(tmp_path / "theirs.npz", **{**arrays, "layer00.q": q, "layer02.mlp": half})
        report = verify(folder, tmp_path / "theirs.npz")
        assert report.passed and "in float16, whose rounding hides small mistakes" in str(report)


@pytest.mark.parametrize(
    ("dtype", "told"), [("complex64", "complex64"), ("U1", "<U1"), ("M8[s]", "datetime")]
)
def test_what_is_no_number_is_told(
    folder: Path, tmp_path: Path, arrays: dict[str, Any], dtype: str, told: str
) -> None:
    strange = np.zeros(arrays["layer01.q"].shape, dtype)
    np.savez(tmp_path / "theirs.npz", **{**arrays, "layer01.q": strange})
    with pytest.raises(ValueError, match=f"layer01.q is .* of {told}.*wanted real numbers"):
        verify(folder, tmp_path / "theirs.npz")


def test_one_array_is_no_archive(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="one array, not an archive"):
        read_recording(tmp_path / "one.npz", open_raw(folder))
