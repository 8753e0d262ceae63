"""The planner: its estimates against what steps take, and the plans it makes of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from step_memory import load_from

from gpt2_scratch.config import GPT2Config
from gpt2_scratch.training import device
from gpt2_scratch.training.plan import GPUS, Load, Memory, estimate, plan, planned, within
from gpt2_scratch.training.settings import LoRAConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc. Run on Linux: make test")


def measured(root, *loads):
    """Peak bytes of each load, in one process that gives freed memory back at once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(root / "tests" / "step_memory.py")],
        input=json.dumps(loads),
        cwd=root,
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def sizes(n_embd, n_layer, n_vocab, **more):
    return {
        "n_embd": n_embd,
        "n_head": n_embd // 64,
        "n_layer": n_layer,
        "n_vocab": n_vocab,
        **more,
    }


SMALL = {"config": sizes(256, 4, 2000), "length": 256, "rows": 2}
WIDE = {"config": sizes(512, 2, 10_000), "length": 128, "rows": 2}
TABLE = {"config": sizes(768, 1, 20_000), "length": 64, "rows": 1}
LOADS = {
    "fp32": SMALL | {"precision": "fp32"},
    "bf16": SMALL | {"precision": "bf16"},
    "activations computed again": SMALL | {"precision": "fp32", "recompute": True},
    "LoRA": SMALL | {"precision": "bf16", "lora": {"rank": 8, "dropout": 0.1}},
    "mostly table": TABLE | {"precision": "fp32"},
    "mostly logits": {"config": sizes(64, 1, 20_000), "length": 256, "rows": 2},
}
MORE_LOADS = {
    "bf16, computed again": SMALL | {"precision": "bf16", "recompute": True, "rows": 4},
    "written-out attention": SMALL
    | {"precision": "bf16", "config": sizes(256, 4, 2000, attention="explicit")},
    "no dropout": SMALL | {"precision": "bf16", "config": sizes(256, 4, 2000, dropout=0.0)},
    "LoRA on one": SMALL | {"precision": "bf16", "lora": {"rank": 8, "linears": ["attn.c_attn"]}},
    "LoRA, computed again": SMALL | {"precision": "fp32", "lora": {"rank": 8}, "recompute": True},
    "Muon": SMALL | {"precision": "fp32", "config": sizes(512, 4, 500), "rows": 1, "muon": True},
    "parts": WIDE | {"precision": "bf16", "rows": 1, "accumulate": 2},
    "wide": WIDE | {"precision": "fp32"},
}
REAL = {"config": sizes(768, 12, 50257), "length": 256}
REAL_LOADS = {
    "gpt2, fp32": REAL | {"precision": "fp32", "rows": 1},
    "gpt2, bf16": REAL | {"precision": "bf16", "rows": 4},
    "gpt2, computed again": REAL | {"precision": "bf16", "rows": 4, "recompute": True},
    "gpt2, LoRA": REAL | {"precision": "bf16", "rows": 2, "lora": {"rank": 8}},
    "gpt2, no dropout": REAL | {"rows": 4, "config": sizes(768, 12, 50257, dropout=0.0)},
}


@linux
@pytest.mark.parametrize(
    "loads",
    [
        LOADS,
        pytest.param(MORE_LOADS, marks=pytest.mark.slow),
        pytest.param(REAL_LOADS, marks=pytest.mark.slow),
    ],
    ids=["small", "more", "size of gpt2"],
)
def test_estimates_are_within_15_percent_of_what_two_steps_take(root, loads):
    peaks = measured(root, *loads.values())
    ratios = {
        name: estimate(load_from(load)).total / peak
        for (name, load), peak in zip(loads.items(), peaks, strict=True)
    }
    sys.stdout.write("".join(f"{ratio:.3f}  {name}\n" for name, ratio in ratios.items()))
    assert {name: r for name, r in ratios.items() if not 0.85 < r < 1.15} == {}


# ---- what is made of it --------------------------------------------------------------------------

LARGE = Load(GPT2Config.preset("gpt2-large"), length=1024, rows=1)


def test_the_parts_are_what_they_must_be():
    memory = estimate(LARGE)
    assert memory.parameters == 4 * 774_030_080
    assert memory.optimizer == 2 * memory.parameters
    assert memory.total == pytest.approx(
        memory.parameters
        + memory.optimizer
        + memory.gradients
        + memory.activations
        + memory.logits
        + memory.workspace
    )
    adapted = estimate(replace(LARGE, lora=LoRAConfig(rank=8)))
    adapters = adapted.parameters / 4 - 774_030_080
    c = 1280
    assert adapters == 36 * 8 * ((c + 3 * c) + (c + c) + (c + 4 * c) + (4 * c + c))
    assert adapted.optimizer == 8 * adapters


def test_more_takes_more():
    base = estimate(LARGE).total
    assert estimate(replace(LARGE, rows=2)).total > base
    assert estimate(replace(LARGE, length=512)).total < base
    assert estimate(replace(LARGE, precision="fp32")).total > base
    assert estimate(replace(LARGE, recompute=True)).total < base
    assert estimate(replace(LARGE, lora=LoRAConfig())).total < base


def test_the_most_rows_that_fit_and_activations_kept_where_they_can_be():
    chosen = plan(LARGE, 8, 1e12)
    assert chosen == planned(replace(LARGE, rows=8), 8)
    assert (chosen.rows, chosen.accumulate, chosen.recompute) == (8, 1, False)
    for budget in (15e9, 20e9, 30e9, 45e9):
        chosen = plan(LARGE, 8, budget)
        assert chosen is not None and chosen.memory.total <= budget
        assert chosen.rows * chosen.accumulate == 8
        if chosen.rows < 8:
            more = planned(replace(LARGE, rows=2 * chosen.rows, recompute=chosen.recompute), 8)
            assert more.memory.total > budget
        if chosen.recompute:
            assert planned(replace(LARGE, rows=1), 8).memory.total > budget


def test_choices_can_be_taken_away():
    chosen = plan(LARGE, 8, 1e12, rows=2, recompute=True)
    assert (chosen.rows, chosen.accumulate, chosen.recompute) == (2, 4, True)
    assert plan(LARGE, 8, 1e12, rows=3) is None  # no divisor
    assert plan(LARGE, 8, 13e9, recompute=False) is None


def test_where_nothing_fits_there_is_no_plan():
    assert plan(LARGE, 8, 5e9) is None
    table = dict(within(LARGE, 8))
    assert list(table) == list(GPUS)
    assert table[8] is None and table[12] is None and table[80] is not None
    with_adapters = dict(within(replace(LARGE, lora=LoRAConfig()), 8))
    assert with_adapters[12] is not None


def test_the_worst_moment_is_the_sum_of_its_parts():
    assert Memory(1, 2, 4, 8, 16, 32).total == 63


def test_what_is_kept_of_files_is_free_in_a_container(tmp_path, monkeypatch):
    """Pictures read once fill a container's memory to its limit, and give way to whoever asks."""
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("8999000\n")
    assert device.free_memory("cpu") == 1000
    (tmp_path / "memory.stat").write_text("anon 99\nactive_file 5000\ninactive_file 20000\n")
    assert device.free_memory("cpu") == 26000
    (tmp_path / "memory.max").write_text("max\n")
    assert device.free_memory("cpu") != 26000
