"""`python -m gpt2_scratch convert` and `generate`: any layout in, Hugging Face's or text out."""

import io
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gap, random_ids, random_model
from layouts import LAYOUTS, write_layout, write_tensorflow
from safetensors.torch import load_file

from gpt2_scratch import loader
from gpt2_scratch.__main__ import main
from gpt2_scratch.layouts import load_tokenizer
from gpt2_scratch.loader import load_gpt2
from gpt2_scratch.model import GPT2
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import read_config

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="Run: pip install -e '.[test]'")


def theirs(folder: Path, **options: Any) -> Any:
    """transformers' model of a folder, which must hold every weight and no other."""
    model, report = transformers.GPT2LMHeadModel.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return model.eval()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """OpenAI's layout of a tiny model."""
    write_tensorflow(random_model(dtype=torch.float32, n_layer=11), tmp_path / "small")
    return tmp_path / "small"


# --- convert ----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformers_reads_what_came_from_any_layout(tmp_path: Path, layout: str) -> None:
    twin = random_model(dtype=torch.float32, n_layer=11)
    source = write_layout(layout, twin, tmp_path / "source")
    assert main(["convert", str(source), str(tmp_path / "deep" / "new")]) == 0
    model, wanted = theirs(tmp_path / "deep" / "new"), twin.state_dict()
    state = model.transformer.state_dict()
    assert torch.equal(state["h.10.attn.c_proj.weight"], wanted["h.10.attn.c_proj.w"])
    ids = random_ids(2, 13)
    # Two programs' roundings; the same numbers in another order would be 1e-6 as well.
    assert gap(model(ids).logits, twin(ids)) < 1e-4


@torch.no_grad()
def test_transformers_and_openai_agree_about_tiny_b(shared: Path, tmp_path: Path) -> None:
    """The published vocabulary comes along under both names, and transformers finds it."""
    source, target = shared / "oracle" / "tiny-b" / "openai", tmp_path / "new"
    assert main(["convert", str(source), str(target)]) == 0
    names = {"config.json", "model.safetensors", "encoder.json", "vocab.bpe"}
    assert {path.name for path in target.iterdir()} == names | {"vocab.json", "merges.txt"}
    text = "In this image, naïve 日本 don't  stop"
    ids = BPETokenizer.gpt2(target).encode(text)
    assert transformers.GPT2Tokenizer.from_pretrained(target)(text)["input_ids"] == ids
    tokens = torch.tensor([ids])
    assert gap(theirs(target)(tokens).logits, load_gpt2(source)(tokens)) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(small: Path, tmp_path: Path, dtype: str, capsys: Any) -> None:
    target = tmp_path / "new"
    assert main(["convert", str(small), str(target), "--dtype", dtype]) == 0
    kind, wanted = getattr(torch, dtype), load_gpt2(small).state_dict()
    held = load_file(target / "model.safetensors")
    assert torch.equal(held["transformer.wte.weight"], wanted["wte.weight"].to(kind))
    assert {tensor.dtype for tensor in held.values()} == {kind}
    count = sum(tensor.numel() for tensor in wanted.values())
    assert capsys.readouterr().out.startswith(f"{target}: {count:,} parameters, {dtype}, 0.")
    assert theirs(target, dtype="auto").dtype == kind


def test_scenes_keeps_its_tokenizer(tmp_path: Path) -> None:
    assert main(["convert", "scenes", str(tmp_path / "new")]) == 0
    model = load_gpt2(tmp_path / "new")
    tokenizer = load_tokenizer(tmp_path / "new", model.config.n_vocab)
    assert tokenizer.decode(tokenizer.encode("In this image")) == "In this image"
    assert len(tokenizer) == model.config.n_vocab == load_gpt2("scenes").config.n_vocab


def test_a_folder_with_something_in_it_is_left_alone(
    small: Path, tmp_path: Path, capsys: Any
) -> None:
    target = tmp_path / "new"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    (target / "config.json").write_text("{}")
    assert main(["convert", str(small), str(target)]) == 2
    assert "is there already, wanted a new or an empty folder" in capsys.readouterr().err
    assert (target / "config.json").read_text() == "{}"
    assert main(["convert", str(small), str(target), "--force"]) == 0
    assert (target / "notes.txt").read_text() == "mine"
    assert theirs(target).config.n_layer == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "small"]


@pytest.mark.parametrize("force", [True, False])
def test_a_file_is_no_folder(small: Path, tmp_path: Path, capsys: Any, force: bool) -> None:
    (tmp_path / "new").write_text("mine")
    words = ["convert", str(small), str(tmp_path / "new"), *["--force"] * force]
    assert main(words) == 2
    says = capsys.readouterr().err
    assert "new is there already" in says and "--force" not in says
    assert (tmp_path / "new").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_one_are_filled(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert main(["convert", str(small), str(tmp_path / "link")]) == 0
    assert load_gpt2(tmp_path / "empty").config.n_layer == 11


def test_a_folder_can_be_converted_in_its_own_place(small: Path) -> None:
    wanted = load_gpt2(small).wte.weight.bfloat16()
    assert main(["convert", str(small), str(small), "--force", "--dtype", "bfloat16"]) == 0
    assert torch.equal(load_gpt2(small).wte.weight, wanted)
    assert main(["convert", str(small), str(small), "--force"]) == 0
    assert torch.equal(load_gpt2(small).wte.weight, wanted)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_break_leaves_nothing_behind(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write = loader.save_gpt2

    def fails(model: GPT2, folder: Path) -> None:
        write(model, folder)
        raise error

    monkeypatch.setattr(loader, "save_gpt2", fails)
    code = main(["convert", str(small), str(tmp_path / "new")])
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.skipif(os.name == "nt", reason="rights are others there. Run on POSIX: make test")
def test_others_can_read_what_was_written(small: Path, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert main(["convert", str(small), str(tmp_path / "new")]) == 0
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755


def test_a_source_that_is_not_there(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    assert main(["convert", "gpt2-xl", str(tmp_path / "new")]) == 2
    assert "Run: python -m weights fetch gpt2-xl" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "new")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "nowhere is not a folder" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()


# --- what is saved ----------------------------------------------------------------------------


def test_the_end_token_is_told(tmp_path: Path) -> None:
    loader.save_gpt2(random_model(), tmp_path)
    config = read_config(tmp_path)
    assert config["bos_token_id"] == config["eos_token_id"] == 30
    model = theirs(tmp_path, dtype=torch.float64)
    ids = model.generate(random_ids(1, 2), max_new_tokens=3, do_sample=False)
    assert ids.shape[1] <= 5 and ids.max() < 31


# --- generate ---------------------------------------------------------------------------------


def test_generate_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is on its way before the next is computed."""
    held = io.BytesIO()
    seen = []
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(held), "utf-8"))
    states = GPT2.states

    def watched(*args: Any) -> torch.Tensor:
        seen.append(held.getvalue().decode())
        return states(*args)

    monkeypatch.setattr(GPT2, "states", watched)
    assert main(["generate", "In this image", "--seed", "1", "--max-new-tokens", "9"]) == 0
    text = held.getvalue().decode()
    assert text.startswith("In this image") and text.endswith("\n")
    assert seen[0] == "In this image"
    assert len(seen) == 9 and all(len(a) < len(b) and text.startswith(b) for a, b in pairwise(seen))


def test_greedy_text_is_what_the_tokens_say(shared: Path, capsys: Any) -> None:
    """tiny-b knows GPT-2's vocabulary, and a prompt of OpenAI's gets no end token in front."""
    folder = shared / "oracle" / "tiny-b" / "openai"
    words = ["generate", "Once upon", "--model", str(folder), "--temperature", "0"]
    assert main([*words, "--max-new-tokens", "7"]) == 0
    model, tokenizer = load_gpt2(folder), BPETokenizer.gpt2(folder)
    ids = tokenizer.encode("Once upon")
    with torch.no_grad():
        for _ in range(7):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert capsys.readouterr().out == tokenizer.decode(ids) + "\n"


def test_generate_without_weights_says_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    assert main(["generate", "Hello", "--model", "gpt2-large"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert "Run: python -m weights fetch gpt2-large" in err and "scenes" in err


def test_generate_takes_a_fetched_model_by_its_name(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import gpt2_scratch.layouts

    folder = shared / "oracle" / "tiny-b" / "openai"
    monkeypatch.setattr(gpt2_scratch.layouts, "locate", {"gpt2": folder}.__getitem__)
    assert main(["generate", "Hello", "--model", "gpt2", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("Hello")


# --- tokenizers -------------------------------------------------------------------------------


def test_the_tokenizer_beside_the_model_comes_first(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path / "cache"))
    vocabulary = shared / "oracle" / "tiny-b" / "openai"
    assert len(load_tokenizer(vocabulary, 50257)) == 50257
    # Else the one that was fetched, before tiktoken asks the network.
    (tmp_path / "cache" / "gpt2-vocab").mkdir(parents=True)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(vocabulary / name, tmp_path / "cache" / "gpt2-vocab")
    assert isinstance(load_tokenizer(tmp_path, 50257), BPETokenizer)
    # Hugging Face's tokenizer.json is none of ours.
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    assert len(load_tokenizer(tmp_path, 50257)) == 50257


def test_no_tokenizer_for_a_vocabulary_of_its_own(small: Path, capsys: Any) -> None:
    assert main(["generate", "Hello", "--model", str(small)]) == 2
    assert "holds no tokenizer, and GPT-2's has 50257 tokens where" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(small: Path, capsys: Any) -> None:
    BPETokenizer([]).save(small)
    assert main(["generate", "Hello", "--model", str(small)]) == 2
    assert "has 257 tokens, its model 31" in capsys.readouterr().err


def test_tokens_that_pad_a_vocabulary_are_no_text(tmp_path: Path, capsys: Any) -> None:
    loader.save_gpt2(random_model(dtype=torch.float32, n_vocab=1000), tmp_path)
    BPETokenizer([]).save(tmp_path)
    assert main(["generate", "Hi", "--model", str(tmp_path), "--seed", "0"]) == 0
    assert capsys.readouterr().out.startswith("Hi")
