"""From files to a GPT-2: names, what is refused, and that nothing is made twice."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import gap, random_ids, random_model, tiny_config
from safetensors.torch import load_file

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import (
    build,
    config_from,
    load_gpt2,
    random_gpt2,
    save_gpt2,
    to_our_name,
    to_their_name,
)
from gpt2_scratch.model import GPT2
from weights.store import read_config, write_folder

# float64. Not 0: in a file's map numbers lie at other addresses, and sums are taken otherwise.
EXACT = 1e-12


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("transformer.wte.weight", "wte.weight"),
        ("wpe.weight", "wpe.weight"),
        ("h.0.ln_1.weight", "h.0.ln_1.g"),
        ("transformer.h.11.ln_2.bias", "h.11.ln_2.b"),
        ("h.2.attn.c_attn.weight", "h.2.attn.c_attn.w"),
        ("h.2.attn.c_attn.bias", "h.2.attn.c_attn.b"),  # ends in "attn.bias", as the mask does
        ("transformer.h.10.attn.c_proj.bias", "h.10.attn.c_proj.b"),
        ("h.2.mlp.c_fc.weight", "h.2.mlp.c_fc.w"),
        ("transformer.ln_f.bias", "ln_f.b"),
        ("h.2.attn.bias", None),  # the causal mask of old files
        ("transformer.h.10.attn.masked_bias", None),
        ("h.0.attn.c_attn.w", "h.0.attn.c_attn.w"),  # ours already
    ],
)
def test_names(theirs: str, ours: str | None) -> None:
    assert to_our_name(theirs) == ours


def test_every_name_goes_there_and_back() -> None:
    names = list(random_model(n_layer=12).state_dict())
    assert [to_our_name(to_their_name(name)) for name in names] == names
    assert len({to_their_name(name) for name in names}) == len(names)


def test_a_readers_own_model_keeps_what_no_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal mask in a buffer, and the table of words under a second name, as a tied head."""

    class Theirs(GPT2):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            mask = torch.ones(config.n_ctx, config.n_ctx).triu(1)
            self.register_buffer("mask", mask, persistent=False)
            self.lm_head = torch.nn.Linear(config.n_embd, config.n_vocab, bias=False)
            self.lm_head.weight = self.wte.weight

    save_gpt2(random_model(), tmp_path)
    monkeypatch.setattr("gpt2_scratch.loader.GPT2", Theirs)
    loaded = load_gpt2(tmp_path)
    assert isinstance(loaded, Theirs)
    side = loaded.config.n_ctx
    assert torch.equal(loaded.get_buffer("mask"), torch.ones(side, side).triu(1))
    assert loaded.lm_head.weight is loaded.wte.weight


@torch.no_grad()
def test_saved_and_loaded_is_the_same_model(tmp_path: Path) -> None:
    model = random_model(n_layer=11, dropout=0.3)
    save_gpt2(model, tmp_path)
    again = load_gpt2(tmp_path)
    assert again.config == model.config and not again.training
    for (name, one), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other) and other.requires_grad, name
    assert gap(again(random_ids(2, 7)), model(random_ids(2, 7))) < EXACT


def test_a_folder_with_our_own_names_loads(tmp_path: Path) -> None:
    model = random_model()
    write_folder(tmp_path, read_config_of(model, tmp_path), model.state_dict())
    assert gap(load_gpt2(tmp_path)(random_ids(2, 7)), model(random_ids(2, 7))) < EXACT


def read_config_of(model: GPT2, tmp_path: Path) -> dict:
    save_gpt2(model, tmp_path / "config")
    return read_config(tmp_path / "config")


def test_dtype_and_config_can_be_changed(tmp_path: Path) -> None:
    save_gpt2(random_model(), tmp_path)
    assert load_gpt2(tmp_path).wte.weight.dtype == torch.float64
    changed = load_gpt2(tmp_path, dtype=torch.bfloat16, attention="explicit", dropout=0.5)
    assert {p.dtype for p in changed.parameters()} == {torch.bfloat16}
    assert changed.config == tiny_config(attention="explicit", dropout=0.5)
    assert changed(random_ids(2, 7)).dtype == torch.bfloat16


def test_other_sizes_in_the_config_are_refused_with_every_name(golden: Path) -> None:
    with pytest.raises(ValueError, match=r"hf-legacy does not fit this GPT2") as caught:
        load_gpt2(golden / "tiny-a" / "hf-legacy", n_layer=2, n_ctx=31)
    says = str(caught.value)
    assert "mis-shaped: wpe.weight (32, 48), wanted (31, 48)" in says
    assert says.count("h.2.") == 12  # the third block's tensors, all unexpected


def test_a_head_in_the_file_is_taken_if_it_is_the_embedding(tmp_path: Path) -> None:
    """With either prefix; another one is refused, since this model has no place for it."""
    model = random_model()
    config = read_config_of(model, tmp_path)
    for prefix in ("", "transformer."):
        tensors = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
        write_folder(tmp_path, config, tensors | {"lm_head.weight": model.wte.weight.clone()})
        assert torch.equal(load_gpt2(tmp_path).wte.weight, model.wte.weight)
        write_folder(tmp_path, config, tensors | {"lm_head.weight": model.wte.weight + 1e-3})
        with pytest.raises(ValueError, match=r"lm_head of its own.*Tie the two"):
            load_gpt2(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-12),
        ("scale_attn_by_inverse_layer_idx", True),
    ],
)
def test_a_gpt2_that_computes_something_else_is_refused(entry: str, value: object) -> None:
    held = {"n_ctx": 13, "n_embd": 21, "n_head": 3, "n_layer": 2, "vocab_size": 31}
    assert config_from(held, source="it") == tiny_config(dropout=0.1)
    with pytest.raises(ValueError, match=rf"config of it says {entry}={value!r}; GPT-2 has"):
        config_from(held | {entry: value}, source="it")


def test_a_config_that_lacks_sizes_names_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_positions": 13, "n_embd": 21}))
    with pytest.raises(ValueError, match=r"lacks n_vocab, n_head, n_layer.*Is it a GPT-2's\?"):
        load_gpt2(tmp_path)


def test_openais_hparams_are_a_config_too(golden: Path) -> None:
    hparams = json.loads((golden / "tiny-a" / "openai" / "hparams.json").read_text())
    config = config_from(hparams, source="tiny-a")
    assert (config.n_vocab, config.n_ctx, config.n_embd) == (257, 32, 48)
    assert (config.n_head, config.n_layer) == (4, 3)


def test_a_folder_that_is_not_there_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"needed: config.json and model.safetensors"):
        load_gpt2(tmp_path)


def test_both_layouts_hold_the_same_numbers(golden: Path) -> None:
    one, other = (load_gpt2(golden / "tiny-a" / f"hf-{name}") for name in ("prefixed", "legacy"))
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_loading_is_the_file_and_no_copy(golden: Path) -> None:
    """Each parameter lies in the map of the file, at the offset that its header gives."""
    file = golden / "tiny-a" / "hf-prefixed" / "model.safetensors"
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    model = load_gpt2(file.parent)
    bases = {
        parameter.data_ptr() - header[to_their_name(name)]["data_offsets"][0]
        for name, parameter in model.named_parameters()
    }
    assert len(bases) == 1


def test_loading_imports_no_compiler(root: Path, golden: Path) -> None:
    """Drawing a number on the meta device would: 5 seconds and 150 MB in every process."""
    code = (
        "import sys; from gpt2_scratch.loader import load_gpt2; load_gpt2(sys.argv[1]);"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(golden / "tiny-a" / "hf-prefixed")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_build_takes_the_tensors_themselves() -> None:
    tensors = random_model().state_dict()
    model = build(tiny_config(), source="here", tensors=tensors)
    assert not model.training
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == tensors[name].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_drawn_and_repeat(dtype: torch.dtype) -> None:
    one, other = (
        random_gpt2(tiny_config(), dtype=dtype, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert not one.training
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and a.dtype == dtype and a.requires_grad, name
        assert name.endswith(".b") != bool(a.any()), name
    assert one(random_ids(2, 7)).isfinite().all()


def test_what_is_saved_is_what_transformers_expects(tmp_path: Path) -> None:
    save_gpt2(random_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == 2 + 12 * 2 + 2
    assert all(name.startswith("transformer.") for name in tensors)
    config = read_config(tmp_path)
    assert config["model_type"] == "gpt2" and config["activation_function"] == "gelu_new"
    assert replace(config_from(config, source="it"), dropout=0.0) == tiny_config()
