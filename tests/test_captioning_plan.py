"""The captioner's planner against what steps take, and the loss against the model's own."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from caption_memory import load_from, sizes_from

from captioning.__main__ import main
from captioning.data.batches import Batch
from captioning.presets import find_preset
from captioning.trained import prepare
from captioning.training.forward import computing_loss
from captioning.training.plan import make_load
from captioning.training.speed import random_captioner, seconds_per_step
from gpt2_scratch.training.plan import estimate
from gpt2_scratch.training.settings import LoRAConfig, TrainingConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc. Run on Linux: make test")

BASE = {"rows": 4, "longest": 64}
LARGE = BASE | {"image": 224, "width": 384, "layers": 8}
FEW = {
    "connector": BASE | {"train": "connector"},
    "gpt2, bf16": BASE | {"train": "connector+gpt2", "precision": "bf16"},
    "all, again": BASE | {"train": "all", "recompute": True},
}
MORE = {
    "lora": BASE | {"train": "connector+lora"},
    "gpt2": BASE | {"train": "connector+gpt2"},
    "gpt2, again": BASE | {"train": "connector+gpt2", "recompute": True},
    "features": BASE | {"train": "connector+gpt2", "features": True},
    "dci": BASE | {"train": "connector+gpt2", "variant": "dci", "reducer": "none"},
    "all": BASE | {"train": "all"},
    "all, bf16": BASE | {"train": "all", "precision": "bf16"},
    "large, connector": LARGE | {"train": "connector"},
    "large, all": LARGE | {"train": "all"},
    "large, all, bf16": LARGE | {"train": "all", "precision": "bf16"},
    "large, all, bf16, again": LARGE | {"train": "all", "precision": "bf16", "recompute": True},
    "large, dci, all": LARGE | {"train": "all", "variant": "dci", "reducer": "none"},
}


@linux
@pytest.mark.parametrize("cases", [FEW, pytest.param(MORE, marks=pytest.mark.slow)])
def test_estimates_are_within_15_percent_of_what_two_steps_take(root, cases):
    done = subprocess.run(
        [sys.executable, str(root / "tests" / "caption_memory.py")],
        input=json.dumps(list(cases.values())),
        cwd=root,
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ratios = {
        name: estimate(load_from(case)).total / peak
        for (name, case), peak in zip(cases.items(), json.loads(done.stdout), strict=True)
    }
    sys.stdout.write("".join(f"{ratio:.3f}  {name}\n" for name, ratio in ratios.items()))
    assert {name: r for name, r in ratios.items() if not 0.85 < r < 1.15} == {}


def test_what_an_estimate_counts_is_what_learns():
    """Against modules: parameters, and AdamW's two numbers for each that learns."""
    sizes = sizes_from({})
    for what in ("connector", "connector+lora", "connector+gpt2", "all"):
        captioner = random_captioner(sizes, "cpu")
        prepare(captioner, what)
        memory = estimate(make_load(sizes, what, "fp32", "cpu", rows=2, longest=9))
        learned = sum(p.nbytes for p in captioner.parameters() if p.requires_grad)
        assert memory.optimizer == 2 * learned, what
        held = sum(p.nbytes for p in captioner.parameters())
        held += captioner.familiarity.whiten.nbytes
        assert memory.parameters == held, what


def test_more_takes_more():
    sizes = find_preset("article").sizes

    def total(what, **more):
        options = {"rows": 4, "longest": 64} | more
        return estimate(make_load(sizes, what, "bf16", "cuda", **options)).total

    assert total("connector") < total("connector+lora") < total("connector+gpt2") < total("all")
    assert total("all", recompute=True) < total("all")
    assert total("all", rows=5) > total("all") and total("all", longest=99) > total("all")
    assert total("connector", features=True) <= total("connector")


def test_plan_says_what_fits_and_what_does_not(capsys):
    assert main(["plan", "--preset", "article", "--gpu", "24"]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if " 24 GB " in line]
    assert [row[0] for row in rows] == ["connector", "connector+lora", "connector+gpt2", "all"]
    for row in rows:
        at_once, parts = int(row[3]), int(row[4])
        assert at_once * parts == 32 and float(row[6]) < 24
    assert "optimizer 6.25" in said  # 2 x 4 bytes x 781 million
    assert main(["plan", "--preset", "article", "--train", "all"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[1] for line in said.splitlines() if line.startswith("all")] == [
        *("8", "12", "16", "24", "40", "80")
    ]
    assert "does not fit: one caption takes" in said


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--preset", "huge"], "There is no preset 'huge'"),
        (["--gpu", "0"], "got --gpu 0, wanted gigabytes above 0"),
        (["--longest", "1000"], "wanted at most 967"),
        (["--batch", "0"], "got --batch 0"),
    ],
)
def test_a_plan_of_nothing_is_told_in_a_line(capsys, more, match):
    assert main(["plan", *more]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert match in error


def test_seconds_grow_with_what_is_done():
    sizes = sizes_from({"image": 56, "width": 64, "layers": 24, "n_embd": 64, "n_layer": 24})
    config = TrainingConfig(1, 4, precision="fp32")

    def seconds(rows_a_step):
        load = make_load(sizes, "connector+gpt2", "fp32", "cpu", rows=1, longest=16)
        again = replace(config, batch=rows_a_step)
        return seconds_per_step(sizes, "connector+gpt2", load, again, lora=LoRAConfig())

    before = torch.get_rng_state()
    assert 0 < seconds(1) < seconds(40)
    assert torch.equal(before, torch.get_rng_state())


# ---- the loss ------------------------------------------------------------------------------------


def test_the_loss_is_the_captioners_own_however_it_is_computed():
    """Recomputed, its logits in chunks, from features; gradients too."""
    sizes = sizes_from({"dropout": 0.0})
    sizes = replace(sizes, connector=replace(sizes.connector, dropout=0.0))
    captioner = random_captioner(sizes, "cpu")
    prepare(captioner, "connector+gpt2")
    captioner.train()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 112, 112, generator=generator)
    ids = torch.randint(2000, (3, 700), generator=generator)
    lengths = torch.tensor([700, 1, 330])
    whole, count = captioner.loss_sum(pixels, ids, lengths)
    whole.backward()
    wanted = {n: p.grad.clone() for n, p in captioner.named_parameters() if p.grad is not None}
    with torch.no_grad():
        features = captioner.connector.features(captioner.hidden_states(pixels))
    for recompute, inputs in ((False, pixels), (True, pixels), (True, features)):
        captioner.zero_grad()
        ids[1, 1:] = 77  # padding may be anything
        with computing_loss(captioner, recompute=recompute) as loss_of:
            loss, number = loss_of(Batch(inputs, ids, lengths, [""] * 3, []))
            loss.backward()
        assert int(number) == int(count) == 1031
        torch.testing.assert_close(loss, whole, rtol=1e-5, atol=0)  # float32, a thousand tokens
        for name, value in wanted.items():
            got = captioner.get_parameter(name).grad
            assert got is not None
            torch.testing.assert_close(got, value, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.slow
# torch's own compiler looks at it, and where warnings are errors gives up.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_give_the_same_loss():
    captioner = random_captioner(sizes_from({"n_layer": 2, "layers": 3, "dropout": 0.0}), "cpu")
    prepare(captioner, "connector+gpt2")
    batch = Batch(
        torch.randn(2, 3, 112, 112),
        torch.randint(2000, (2, 9)),
        torch.tensor([9, 4]),
        ["", ""],
        [],
    )
    captioner.eval()
    with computing_loss(captioner) as loss_of:
        plain, _ = loss_of(batch)
    with computing_loss(captioner, compile=True) as loss_of:
        compiled, _ = loss_of(batch)
        compiled.backward()
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=0)
    assert not any(part._compiled_call_impl for part in captioner.gpt2.h)
