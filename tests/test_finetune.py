"""`python -m gpt2_scratch finetune`: from text to a model, stopped, killed and taken up again."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from helpers import random_ids
from safetensors.torch import load_file
from tiny_run import losses

from gpt2_scratch.__main__ import main
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import load_gpt2, random_gpt2, save_gpt2
from gpt2_scratch.tokenizer import BPETokenizer
from gpt2_scratch.training import checkpoint, finetune
from gpt2_scratch.training.lora import load_lora, merge_lora
from gpt2_scratch.training.plan import GPUS, SHARE, Load, planned

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
TEXT = "".join(f"{a} and {b} make {a} {b}.\n" for a in WORDS for b in WORDS)
NEW = ["--random-init", "2x32x2", "--train-tokenizer", "280", "--length", "16", "--device", "cpu"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny GPT-2 with a tokenizer of its own, as somebody would have trained it."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = BPETokenizer.train([TEXT], 280)
    tokenizer.save(folder)
    config = GPT2Config(n_vocab=280, n_ctx=24, n_embd=32, n_head=2, n_layer=2, dropout=0.1)
    save_gpt2(random_gpt2(config, generator=torch.Generator().manual_seed(1)), folder)
    return folder


def told(capsys):
    """What stderr got, as one line: options that can't be are told in a box."""
    error = capsys.readouterr().err
    assert error.count("\n") == 1 or error.startswith("╭")
    return " ".join(error.replace("│", " ").split())


def go(text, out, *more, start=NEW):
    return main(["finetune", str(text), "--out", str(out), "--batch", "4", *start, *more])


# ---- what comes out ------------------------------------------------------------------------------


def test_from_nothing_to_a_model_that_writes(text, tmp_path, capsys):
    out = tmp_path / "run"
    rate = ["--rate", "1e-2", "--dropout", "0", "--sample", "one and"]
    assert go(text, out, "--steps", "200", *rate) == 0
    said = capsys.readouterr().out
    assert "held out: the last 5% of the text" in said
    assert "Plan: 4 windows of 16 tokens a step; fp32; activations kept; about " in said
    assert " a step, " in said and "step 0 of 200: validation loss 5." in said
    last = said.partition("step 200 of 200: validation loss ")[2].partition(",")[0]
    assert float(last) < 1.5  # from ln 280 = 5.6; which two words come is a matter of luck
    assert f"{out}/model: the best weights, of step " in said
    assert sorted(path.name for path in (out / "model").iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json")
    ]
    rows = (out / "validation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(n) for n in range(0, 201, 20)]
    samples = (out / "samples.txt").read_text()
    assert samples.count("--- step ") == 11 and samples.count("\none and") == 11
    prompt = ["generate", "two and five", "--model", str(out / "model")]
    assert main([*prompt, "--temperature", "0", "--max-new-tokens", "2"]) == 0
    continued = capsys.readouterr().out
    assert continued.startswith(("two and five make", "two and five."))


def test_the_best_weights_are_written_not_the_last(text, tmp_path):
    """With a rate that is too high, behind a good beginning."""
    out = tmp_path / "run"
    settings = [
        "--steps",
        "40",
        "--rate",
        "0.05",
        "--schedule",
        "constant",
        "--validate-every",
        "4",
    ]
    assert go(text, out, *settings) == 0
    rows = [row.split(",") for row in (out / "validation.csv").read_text().splitlines()[2:]]
    loss, step = min((float(loss), int(step)) for step, loss in rows)
    assert step < 40, "the last step must not be the best, or this shows nothing"
    held = torch.load(out / checkpoint.BEST, weights_only=True)
    assert held["best"][1] == step and held["best"][0] == pytest.approx(loss, abs=1e-5)
    written = load_gpt2(out / "model")
    assert torch.equal(written.wte.weight, held["module"]["wte.weight"])
    last = torch.load(out / checkpoint.LAST, weights_only=True)["module"]
    assert not torch.equal(written.wte.weight, last["wte.weight"])


def test_with_nothing_held_out_the_last_weights_are_written(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert go(text, out, "--steps", "3", "--held-out", "0") == 0
    assert "the last weights, since nothing was held out" in capsys.readouterr().out
    assert not (out / "validation.csv").exists() and not (out / checkpoint.BEST).exists()
    last = torch.load(out / checkpoint.LAST, weights_only=True)["module"]
    assert torch.equal(load_gpt2(out / "model").wte.weight, last["wte.weight"])


def test_a_model_goes_on_learning(text, tmp_path, base, capsys):
    out = tmp_path / "run"
    start = ["--model", str(base), "--device", "cpu"]
    assert go(text, out, "--epochs", "0.5", "--rate", "1e-3", start=start) == 0
    said = capsys.readouterr().out
    assert "Plan: 4 windows of 24 tokens" in said  # the model's context
    tokens = len(BPETokenizer.load(base).encode(TEXT)) * 0.95
    steps = round(0.5 * tokens / (4 * 24) + 0.5)  # rounded up
    assert f"step {steps} of {steps}:" in said
    model = load_gpt2(out / "model")
    assert model.config == load_gpt2(base).config
    rows = (out / "validation.csv").read_text().splitlines()[1:]
    assert float(rows[-1].split(",")[1]) < float(rows[0].split(",")[1]) - 0.1


def test_lora_trains_adapters_and_writes_them_merged_and_alone(text, tmp_path, base, capsys):
    out = tmp_path / "run"
    start = ["--model", str(base), "--device", "cpu", "--train", "lora", "--lora.rank", "3"]
    assert go(text, out, "--steps", "12", "--rate", "1e-2", start=start) == 0
    adapters = 2 * 3 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32)
    assert f"trained: {adapters:,}." in capsys.readouterr().out
    held = torch.load(out / checkpoint.LAST, weights_only=True)["module"]
    assert sum(tensor.numel() for tensor in held.values()) == adapters
    model, before = load_gpt2(out / "model"), load_gpt2(base)
    assert torch.equal(model.wte.weight, before.wte.weight)
    assert not torch.equal(model.h[0].attn.c_attn.w, before.h[0].attn.c_attn.w)
    load_lora(before, out / "adapters")
    merge_lora(before)
    before.eval()
    ids = random_ids(2, 9, n_vocab=280)
    torch.testing.assert_close(before(ids), model(ids))
    torch.manual_seed(99)  # whatever came before: --seed draws the adapters
    assert go(text, tmp_path / "again", "--steps", "12", "--rate", "1e-2", start=start) == 0
    assert losses(tmp_path / "again") == losses(out)


def test_the_standard_input_and_folders(text, tmp_path):
    command = [sys.executable, "-m", "gpt2_scratch", "finetune", "-", "--out", str(tmp_path / "a")]
    done = subprocess.run(
        [*command, *NEW, "--batch", "4", "--steps", "3"], input=TEXT.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert go(tmp_path / "text.txt", tmp_path / "b", "--steps", "3") == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


# ---- stopped and taken up again ------------------------------------------------------------------


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_ended_anywhere_the_same_command_goes_on_bit_for_bit(text, tmp_path, capsys, ending):
    number, minutes = (400, "10") if ending == signal.SIGTERM else (120, "0")
    steps = ["--steps", f"{number}", "--checkpoint-minutes", minutes]
    steps += ["--micro-batch", "2", "--validate-every", "35"]
    assert go(text, tmp_path / "whole", *steps) == 0
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "gpt2_scratch", "finetune", str(text), "--out", str(cut)]
    process = subprocess.Popen(
        [*command, "--batch", "4", *NEW, *steps], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (cut / "log.csv").is_file() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(ending)
    said, _ = process.communicate()
    if ending == signal.SIGTERM:
        assert process.returncode == 143
        line = said.splitlines()[-1]
        assert line.startswith("finetune stopped at step ")
        assert line.endswith(
            f" of {number}, which is saved in {cut}. The same command goes on from there."
        )
    done = torch.load(cut / checkpoint.LAST, weights_only=True)["step"]
    assert 0 < done < number
    with (cut / "samples.txt").open("a") as file:  # of a step that its checkpoint had not reached
        file.write(f"--- step {number}\nnever\n")
    (cut / "model").mkdir()
    for half in (".validation.csv.0123abcd", "model/.model.safetensors.0123abcd"):
        (cut / half).write_bytes(b"half")
    capsys.readouterr()
    assert go(text, cut, *steps) == 0
    assert f"Going on at step {done} of {number}." in capsys.readouterr().out
    assert losses(cut) == losses(tmp_path / "whole")
    for name in ("validation.csv", "samples.txt"):
        assert (cut / name).read_text() == (tmp_path / "whole" / name).read_text()
    names = [
        {p.relative_to(tmp_path / r) for p in (tmp_path / r).rglob("*")} for r in ("cut", "whole")
    ]
    assert names[0] == names[1], "something half written was left behind"
    models = [load_file(tmp_path / r / "model" / "model.safetensors") for r in ("cut", "whole")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_a_finished_run_is_not_trained_again(text, tmp_path, capsys):
    assert go(text, tmp_path / "run", "--steps", "3") == 0
    capsys.readouterr()
    assert go(text, tmp_path / "run", "--steps", "3") == 0
    said = capsys.readouterr().out
    assert "All 3 steps are done already." in said and "validation loss" in said.splitlines()[-2]


def test_other_settings_are_refused_by_name(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert go(text, out, "--steps", "3") == 0
    assert go(text, out, "--steps", "3", "--micro-batch", "2", "--checkpointing", "on") == 0
    capsys.readouterr()
    assert go(text, out, "--steps", "4", "--rate", "0.1", "--lora.rank", "2") == 2
    error = capsys.readouterr().err
    assert f"{out} holds a run with other settings: " in error and error.count("\n") == 1
    for change in ("lora.rank was 8, now 2", "rate was not given, now 0.1", "steps was 3, now 4"):
        assert change in error
    text.write_text(TEXT + "one more")
    assert go(text, out, "--steps", "3") == 2
    assert f"text.characters was {len(TEXT) - 1}, now {len(TEXT) + 8}" in capsys.readouterr().err


def test_settings_of_a_run_that_never_trained_bind_nobody(text, tmp_path):
    out = tmp_path / "run"
    assert go(text, out, "--length", "9999") == 2
    assert go(text, out, "--steps", "3") == 0
    (out / checkpoint.LAST).unlink()  # killed before the first checkpoint, but with a best one
    assert go(text, out, "--steps", "2", "--held-out", "0") == 0
    assert not (out / checkpoint.BEST).exists()


def test_a_folder_of_something_else_is_left_alone(text, base, capsys):
    before = (base / "config.json").read_bytes()
    assert go(text, base, "--steps", "3") == 2
    assert "config.json is of something else than a run" in told(capsys)
    assert go(text, text) == 2
    assert "text.txt is a file, wanted a folder for the run" in told(capsys)
    assert (base / "config.json").read_bytes() == before


# ---- how it is computed --------------------------------------------------------------------------


def test_parts_and_recomputed_activations_change_nothing_but_rounding(text, tmp_path):
    options = {
        "whole": [],
        "parts": ["--micro-batch", "1"],
        "again": ["--checkpointing", "on"],
    }
    for name, more in options.items():
        assert go(text, tmp_path / name, "--steps", "6", "--dropout", "0", *more) == 0
    rows = {name: [float(row[1]) for row in losses(tmp_path / name)] for name in options}
    for name in ("parts", "again"):
        assert rows[name] == pytest.approx(rows["whole"], rel=1e-5)  # float32, six steps


def test_what_fits_is_chosen_and_kept(text, tmp_path, monkeypatch, capsys):
    arguments = (text, tmp_path / "run", "--steps", "3")
    config = GPT2Config(n_vocab=280, n_ctx=16, n_embd=32, n_head=2, n_layer=2)
    load = Load(config, 16, 1, "fp32", device="cpu")
    one, two = (planned(replace(load, rows=rows), 4).memory.total for rows in (1, 2))
    assert go(*arguments) == 0
    assert "4 windows of 16 tokens a step; fp32; activations kept" in capsys.readouterr().out
    monkeypatch.setattr(finetune, "free_memory", lambda device: (one + two) / 2 / SHARE)
    assert go(*arguments) == 0  # as before no longer fits
    assert "4 windows of 16 tokens a step, 1 at once" in capsys.readouterr().out
    monkeypatch.setattr(finetune, "free_memory", lambda device: 10**12)
    assert go(*arguments) == 0  # and now again as it was last
    assert "4 windows of 16 tokens a step, 1 at once" in capsys.readouterr().out
    monkeypatch.setattr(finetune, "free_memory", lambda device: 1000)
    assert go(*arguments) == 2
    error = capsys.readouterr().err
    assert "even one window at a time, and 0 MB are free on cpu" in error
    assert go(*arguments, "--micro-batch", "1", "--checkpointing", "on") == 0  # who insists


def test_a_plan_needs_neither_text_nor_weights(capsys):
    tiny = ["--random-init", "2x32x2", "--length", "16"]
    assert main(["finetune", "--plan", *tiny, "--device", "cpu", "--steps", "7"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if " GB  " in line] == [f"{n}" for n in GPUS]
    assert said[-1].startswith("About ") and said[-1].endswith(" in all.")
    monkey = ["finetune", "--plan", "--model", "gpt2-large", "--device", "cpu", "--length", "1"]
    assert main([*monkey, "--train", "lora", "--batch", "1"]) == 0
    assert "gpt2-large: 774,030,080 parameters" in capsys.readouterr().out


def test_stage_one_of_the_scenes_model_comes_out_the_same(tmp_path):
    """The recipe's first stage by the function that the command trains with."""
    from captioning.scenes import recipe
    from captioning.scenes.batches import caption_windows, captions
    from gpt2_scratch.training.language import random_language_model, train_language_model

    stages = recipe.Recipe(out=tmp_path / "recipe", language=recipe.stage(4, 3))
    wanted, _ = recipe.train_language_model(stages)
    config = stages.language
    tokenizer = BPETokenizer.train(captions(config.seed, 0, 5000), recipe.LANGUAGE.n_vocab)
    model = random_language_model(recipe.LANGUAGE, config.seed, table_scale=recipe.TABLE_SCALE)
    train_language_model(
        model,
        lambda n: caption_windows(tokenizer, config, recipe.LANGUAGE.n_ctx, n),
        config,
        tmp_path / "ours",
        title="1/3 language model",
    )
    assert losses(tmp_path / "ours") == losses(stages.folders[0])
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    identities = [
        torch.load(folder / checkpoint.LAST, weights_only=True)["identity"]
        for folder in (stages.folders[0], tmp_path / "ours")
    ]
    assert identities[0] == identities[1]


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--length", "4000"], "wanted at least 4,000: one window"),
        (["--train-tokenizer", "100"], "vocab_size=100"),
        (["--random-init", "2x33x2"], "cannot be shared by n_head=2"),
        (["--random-init", "huge"], "wanted one of gpt2, gpt2-medium"),
        (["--micro-batch", "3"], "wanted a divisor of --batch 4"),
        (["--batch", "0"], "wanted at least 1"),
        (["--held-out", "1"], "wanted 0 or more, less than 1"),
        (["--held-out", "1e-9"], "holds nothing back"),
        (["--epochs", "0"], "wanted more than 0"),
        (["--epochs", "inf"], "at most a million"),
        (["--rate", "0"], "got --rate 0.0, wanted more than 0"),
        (["--matrix-rate", "-1"], "got --matrix-rate -1.0, wanted more than 0"),
        (["--clip", "0"], "got --clip 0.0, wanted more than 0"),
        (["--weight-decay", "nan"], "got --weight-decay nan, wanted 0 or more"),
        (["--warmup", "inf"], "got --warmup inf, wanted 0 to 1"),
        (["--seed", f"{2**64}"], "wanted a whole number below 2 ** 62"),
        (["--train", "lora"], "with --random-init use --train all"),
        (["--device", "cuda:77"], "can't be used"),
    ],
)
def test_mistakes_are_told_in_a_line(text, tmp_path, capsys, more, match):
    assert go(text, tmp_path / "run", *more) == 2
    assert match in told(capsys)
    assert not (tmp_path / "run" / "config.json").exists()


def test_mistakes_about_a_model_are_told_in_a_line(text, tmp_path, base, capsys):
    for start, match in (
        (["--model", str(base), "--length", "25"], "wanted at most the model's context of 24"),
        (["--model", str(tmp_path)], "config.json"),
        (["--model", str(base), "--train-tokenizer", "300"], "add --random-init 3x128x4"),
        (["--model", str(base), "--train", "lora", "--lora.linears", "x"], "is called x"),
    ):
        assert go(text, tmp_path / "run", start=[*start, "--device", "cpu"]) == 2
        assert match in told(capsys)


def test_no_text_and_no_memory_are_told(text, tmp_path, capsys, monkeypatch):
    assert main(["finetune", "--out", str(tmp_path / "run"), *NEW]) == 2
    assert "There is no text in nothing" in capsys.readouterr().err

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB\nand so on")

    def full_cpu(*arguments, **options):
        torch.empty(2**60)

    for training, said in ((full, "tried to allocate 2 GiB"), (full_cpu, r"[^\n]*4\d{18} bytes.*")):
        monkeypatch.setattr(finetune, "train_language_model", training)
        assert go(text, tmp_path / "run") == 2
        error = capsys.readouterr().err
        assert re.search(rf"cpu ran out of memory \({said}\)\. Take fewer windows", error)


def test_numbers_that_are_not_finite_are_told_in_a_line(text, tmp_path, capsys):
    assert go(text, tmp_path / "run", "--rate", "1e30", "--dropout", "0") == 2
    assert "not finite in 10 steps in a row" in capsys.readouterr().err


def test_the_run_says_what_it_was_asked(text, tmp_path):
    assert go(text, tmp_path / "run", "--steps", "3", "--seed", "4") == 0
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert held["asked"]["seed"] == 4 and held["asked"]["text"]["documents"] == 1
    assert held["chosen"] == {"precision": "fp32", "micro_batch": 4, "checkpointing": False}
