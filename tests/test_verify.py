"""`verify` and `verify_module`: what is right passes, what is wrong is found where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_model
from torch import nn

import gpt2_scratch.loader
import gpt2_scratch.model as model_file
from gpt2_scratch.loader import load_gpt2, save_gpt2
from gpt2_scratch.mistakes import MISTAKES
from gpt2_scratch.model import GPT2
from gpt2_scratch.raw import open_raw
from gpt2_scratch.reference import Reference, site_names
from gpt2_scratch.sites import TRANSFORMERS, default_ids, record_ours
from gpt2_scratch.verify import Dtype, record, verify, verify_module
from weights.compare import compare
from weights.planting import rebound

transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")
transformers.utils.logging.disable_progress_bar()

LAYOUTS = ("hf-prefixed", "hf-legacy", "openai", "openai-2shard")
PLANTED = {mistake.name: mistake for mistake in MISTAKES}


@pytest.fixture(scope="module")
def tiny_a(golden: Path) -> Path:
    return golden / "tiny-a"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model's, of another width, vocabulary and context than the golden ones."""
    save_gpt2(random_model(dtype=torch.float32), tmp_path / "model")
    return tmp_path / "model"


def twin(folder: Path, **changes: object) -> nn.Module:
    """transformers' model of a folder, which is somebody else's implementation here."""
    options = {"attn_implementation": "eager"} | changes
    return transformers.GPT2LMHeadModel.from_pretrained(folder, **options).eval()


# ---- the reference -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["full", "short"])
def test_the_reference_gives_openais_numbers(tiny_a: Path, batch: str) -> None:
    with np.load(tiny_a / "oracle.npz") as oracle:
        ids = oracle[f"{batch}.tokens"]
        walk = dict(Reference(open_raw(tiny_a / "openai"), ids).walk())
        wanted = {
            site: oracle[f"{batch}.{site}"] for site in walk if f"{batch}.{site}" in oracle.files
        }
    assert len(wanted) == 3 + 3 * 6
    assert list(walk) == site_names(3)[:-3]
    assert compare(walk, wanted, 5e-6).passed  # float32 on their side: at most 1.3e-6 was seen


def test_every_layout_reads_the_same(tiny_a: Path) -> None:
    names = ("wte", "wpe", "h2/attn/c_attn/w", "h1/attn/c_proj/b", "h0/ln_1/g", "ln_f/b")
    raws = [open_raw(tiny_a / layout) for layout in LAYOUTS]
    assert raws[0].read("h2/attn/c_attn/w").shape == (48, 144)
    for name in names:
        assert all(np.array_equal(raw.read(name), raws[0].read(name)) for raw in raws)


# ---- what is right -------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["reference", "transformers"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_right_passes(tiny_a: Path, layout: str, against: str) -> None:
    report = verify(tiny_a / layout, against)
    assert report.comparison is not None
    assert report.passed and report.code == 0, str(report)
    assert report.diagnosis is None and report.first_jump is None
    sites = [d.site for d in report.comparison.differences]
    scores = {site for site in site_names(3) if site.endswith("scores")}
    assert set(site_names(3)) - set(sites) == (scores if against == "transformers" else set())
    # In order, and with a margin: rounding differs from machine to machine.
    assert sites == [site for site in site_names(3) if site in sites]
    assert all(d.relative < d.allowed / 4 for d in report.comparison.differences)


def test_openais_own_file_can_be_the_reference(tiny_a: Path) -> None:
    """Two batches under prefixes, and `present` for the keys and values."""
    report = verify(tiny_a / "openai-2shard", tiny_a / "oracle.npz")
    assert report.comparison is not None and report.passed, str(report)
    sites = {d.site for d in report.comparison.differences}
    assert {"full.logits", "short.layer02.k", "full.layer00.v", "short.embed"} <= sites
    assert "full.layer00.q" not in sites
    text = str(report)
    assert "greedy.tokens" in text and "not in the file: q, scores, weights" in text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fewer_bits_pass_with_a_warning(tiny_a: Path, dtype: Dtype) -> None:
    report = verify(tiny_a / "openai", dtype=dtype)
    assert report.passed, str(report)
    assert "hides small mistakes" in str(report)


@pytest.mark.parametrize("deep", [{"n_layer": 12}, {"n_ctx": 1}, {"n_ctx": 3}, {"n_head": 1}])
def test_other_sizes(tmp_path: Path, deep: dict[str, int]) -> None:
    save_gpt2(random_model(dtype=torch.float32, **deep), tmp_path)
    assert verify(tmp_path).passed
    assert verify(tmp_path, "transformers").passed


def test_nothing_is_left_behind(folder: Path) -> None:
    model, softmax = load_gpt2(folder), torch.softmax
    ids = default_ids(model.config.n_vocab, model.config.n_ctx)
    with torch.no_grad():
        before = model(ids)
        first = record_ours(model, ids)
        assert torch.equal(model(ids), before)
    assert torch.softmax is softmax
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert {part.config for part in model.modules() if hasattr(part, "config")} == {model.config}
    assert all(
        np.array_equal(array, first[site]) for site, array in record_ours(model, ids).items()
    )


# ---- what is wrong -------------------------------------------------------------------------------


def test_a_loader_that_transposes_is_seen(tiny_a: Path) -> None:
    """Both references read the files on their own: a mistake of the loader is not made twice."""
    right = gpt2_scratch.loader.build

    def wrong(*args: object, tensors: dict[str, torch.Tensor], **rest: object) -> GPT2:
        turned = {
            name: t.T.contiguous() if name == "h.1.attn.c_proj.w" and not t.is_meta else t
            for name, t in tensors.items()
        }
        return right(*args, tensors=turned, **rest)  # type: ignore[arg-type]

    with rebound(gpt2_scratch.loader, "build", wrong):
        for layout in ("openai", "hf-legacy"):
            for against in ("reference", "transformers", tiny_a / "oracle.npz"):
                report = verify(tiny_a / layout, against)
                assert report.code == 1 and report.diagnosis is not None
                assert (report.first_jump or "").endswith("layer01.attn")
                assert report.diagnosis.whose == "this model"
                assert report.diagnosis.steps == (("c_proj-transposed@1",),)
                assert len(report.faults) == 1 and "h.1.attn.c_proj.w" in report.faults[0]


def test_whose_mistake_it_is(folder: Path, tmp_path: Path) -> None:
    """Against a file of another implementation a third opinion says which of the two is wrong."""
    file = tmp_path / "theirs.npz"
    with PLANTED["gelu-exact"].planted():
        record(folder, file)
        assert verify(folder, file).passed  # wrong on both sides
    report = verify(folder, file)
    assert report.first_failed == report.first_jump == "layer00.mlp"
    assert [(d.whose, d.names) for d in report.diagnoses] == [("theirs.npz", ("gelu-exact",))]
    record(folder, file)
    with PLANTED["eps-1e-6"].planted():
        report = verify(folder, file)
    assert [(d.whose, d.names) for d in report.diagnoses] == [("this model", ("eps-1e-6",))]
    with PLANTED["gelu-quick"].planted():
        record(folder, file)
    with PLANTED["eps-1e-6"].planted():
        report = verify(folder, file)
    told = {d.whose: d.names for d in report.diagnoses}
    assert told == {"this model": ("eps-1e-6",), "theirs.npz": ("gelu-quick",)}


def test_blocks_that_were_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    model = random_model(dtype=torch.float32, n_layer=12)
    save_gpt2(model, tmp_path / "right")
    model.h = nn.ModuleList(model.h[i] for i in sorted(range(12), key=str))
    report = verify_module(model, tmp_path / "right", {"layer{}.resid": "h.{}", "ln_f": "ln_f"})
    assert report.first_failed == "layer02.resid"
    assert report.diagnosis is not None
    assert report.diagnosis.names == ("blocks-sorted-as-strings",)


def test_the_fused_path_is_walked_too(tiny_a: Path) -> None:
    def wrong(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: object) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v)  # sees the future

    with rebound(model_file, "fused_attention", wrong):
        report = verify(tiny_a / "openai")
    assert report.code == 1 and report.first_failed == report.first_jump == "fused.logits"
    assert "look at fused_attention" in str(report)


def test_several_mistakes_are_named_one_after_the_other(tiny_a: Path) -> None:
    with PLANTED["eps-1e-6"].planted(), PLANTED["gelu-exact"].planted():
        report = verify(tiny_a / "openai")
    assert report.diagnosis is not None
    assert report.diagnosis.steps == (("eps-1e-6",), ("gelu-exact",))
    assert report.diagnosis.until is None
    assert "made on purpose" in str(report)


def test_what_is_unknown_is_not_given_a_name(folder: Path) -> None:
    model = random_model(dtype=torch.float32, seed=1)  # another checkpoint
    report = verify_module(model, folder)
    assert report.code == 1 and report.diagnosis is not None
    assert report.diagnosis.steps == ()
    assert "Is it the same checkpoint" in str(report)


# ---- anybody's module ----------------------------------------------------------------------------


def test_anybodys_module_passes_with_and_without_sites(tiny_a: Path) -> None:
    theirs = twin(tiny_a / "hf-prefixed")
    assert verify_module(theirs, tiny_a / "openai").passed
    report = verify_module(theirs, tiny_a / "openai", TRANSFORMERS)
    assert report.passed and report.comparison is not None
    assert len(report.comparison.differences) == 3 + 3 * 10
    assert theirs.training is False


@pytest.mark.parametrize(
    ("change", "name", "site"),
    [
        ({"activation_function": "gelu"}, "gelu-exact", "layer00.mlp"),
        ({"layer_norm_epsilon": 1e-6}, "eps-1e-6", "layer00.ln_1"),
        ({"scale_attn_weights": False}, "no-scale", "layer00.weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale-by-block", "layer01.weights"),
    ],
)
def test_somebody_elses_mistake(
    tiny_a: Path, change: dict[str, object], name: str, site: str
) -> None:
    """Made in code that shares no line with ours; with the logits alone it has a name, too."""
    theirs = twin(tiny_a / "hf-prefixed", **change)
    report = verify_module(theirs, tiny_a / "openai", TRANSFORMERS)
    assert report.first_jump == site
    assert report.diagnosis is not None and report.diagnosis.steps == ((name,),)
    alone = verify_module(theirs, tiny_a / "openai")
    assert alone.diagnosis is not None and alone.diagnosis.names == (name,)


def test_autocast_is_named(tiny_a: Path) -> None:
    class Autocast(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(ids).logits

    report = verify_module(Autocast(twin(tiny_a / "hf-prefixed")), tiny_a / "openai")
    assert report.diagnosis is not None and report.diagnosis.names == ("bfloat16",)


def test_a_site_is_a_path_an_input_a_pair_or_a_function(folder: Path) -> None:
    model = load_gpt2(folder)

    def embed(module: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        assert isinstance(module, GPT2)
        return module.wte(ids) + module.wpe(torch.arange(ids.shape[1]))

    report = verify_module(
        model,
        folder,
        {
            "embed": embed,
            "layer{}.resid_attn": "h.{}.ln_2.input",
            "layer{}.v": ("h.{}.attn.c_attn", lambda y: y[..., 2 * (y.shape[-1] // 3) :]),
            "layer00.k": (  # heads first, as attention has them
                "h.0.attn.c_attn",
                lambda y: y.chunk(3, -1)[1].unflatten(-1, (3, -1)).transpose(1, 2),
            ),
            "layer01.mlp": "h.1.mlp",
        },
        tokens=[[3, 1, 4, 1, 5]],
    )
    assert report.comparison is not None and report.passed, str(report)
    assert [d.site for d in report.comparison.differences] == [
        *("embed", "layer00.k", "layer00.v", "layer00.resid_attn"),
        *("layer01.v", "layer01.resid_attn", "layer01.mlp", "logits"),
    ]
    assert "1 x 5 tokens" in str(report)


def test_dropout_that_eval_does_not_stop(folder: Path) -> None:
    class Dropping(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.dropout(self.inner(ids), 0.1, True)

    report = verify_module(Dropping(load_gpt2(folder)), folder)
    assert not report.passed and "Two runs differ" in str(report)
    # Dropout that does obey is off, and back in its mode afterwards.
    model = GPT2(replace(load_gpt2(folder).config, dropout=0.5))
    model.load_state_dict(load_gpt2(folder).state_dict())
    model.train()
    assert verify_module(model, folder).passed and model.training


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"layer{}.ln_1": "h.{}.ln1"}, "no submodule 'h.0.ln1'"),
        ({"embed": ("h.0", lambda y: None)}, "embed gave a NoneType"),
        ({"ln_f": "h.0.attn.c_attn"}, r"ln_f is \(2, 10, 63\), wanted \(2, 10, 21\)"),
        ({"layer0.ln_1": "ln_f"}, "did you mean layer00.ln_1"),
    ],
)
def test_wrong_places_are_told(folder: Path, sites: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_module(load_gpt2(folder), folder, sites)
