"""A captioner from a preset: drawn or from files, what is missing, what is held how often."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_captioners import LANGUAGE, VISION, batch, small_captioner, small_preset

import captioning.build as build
import gpt2_scratch.layouts as layouts
from captioning.build import Count, build_captioner, count_parts, describe_parts
from captioning.model import load_captioner
from captioning.presets import PRESETS
from captioning.scenes.draw import draw
from captioning.trained import prepare
from connector.config import ReducerConfig
from connector.loader import save_vision
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.loader import load_gpt2, random_gpt2, save_gpt2
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import embedded

LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="reads /proc. Run on Linux: make test-all"
)


def parameters(captioner):
    return dict(captioner.named_parameters())


@pytest.fixture
def folders(tmp_path):
    """A tower and a language model with its tokenizer, as somebody saved them."""
    made = small_captioner(seed=5)
    save_vision(made.vision, tmp_path / "clip")
    save_gpt2(made.gpt2, tmp_path / "gpt2")
    made.tokenizer.save(tmp_path / "gpt2")
    return made, tmp_path / "clip", tmp_path / "gpt2"


# ---- from random numbers -------------------------------------------------------------------------


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    one, same, other = (
        parameters(build_captioner(small_preset(), random_init=True, seed=seed))
        for seed in (1, 1, 2)
    )
    for name, parameter in one.items():
        assert torch.equal(parameter, same[name]), name
        constant = parameter.ndim == 1 and parameter.unique().numel() == 1
        assert constant or not torch.equal(parameter, other[name]), name


def test_the_seed_is_the_build_s_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_captioner(small_preset(), random_init=True, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_built_is_ready_to_be_used_and_to_be_trained():
    captioner = build_captioner("scenes", random_init=True)
    assert not any(module.training for module in captioner.modules())
    assert all(p.requires_grad and not p.is_meta for p in captioner.parameters())
    assert not any(buffer.is_meta for buffer in captioner.buffers())
    assert captioner.config == PRESETS["scenes"].sizes
    assert captioner.config.vision == captioner.vision.config
    said = captioner.describe([draw(0).image], max_new_tokens=3)
    assert said[0].familiar and said[0].logprob < 0


CONNECTORS = [("article", ReducerConfig(strides=(2, 2))), ("last", ReducerConfig(kind="pool"))]
CONNECTORS += [("dci", ReducerConfig(kind="pool")), ("sti", ReducerConfig(kind="none"))]


@pytest.mark.parametrize(("variant", "reducer"), CONNECTORS)
def test_image_tokens_begin_at_the_scale_of_words_and_differ_by_picture(variant, reducer):
    wide = replace(VISION, width=128)
    preset = small_preset(variant, reducer, vision=wide, gpt2=replace(LANGUAGE, n_embd=96))
    captioner = build_captioner(preset, random_init=True)
    tokens = captioner.image_tokens(captioner.pixels([draw(seed).image for seed in range(4)]))
    scale = captioner.gpt2.wte.weight.std()
    assert 0.5 < tokens.std() / scale < 2
    apart = (tokens[:, None] - tokens[None]).std((2, 3))
    assert (apart + torch.eye(4) > 0.2 * scale).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, None])
def test_all_parts_have_the_one_type(dtype):
    captioner = build_captioner(small_preset(), random_init=True, dtype=dtype)
    assert {p.dtype for p in captioner.parameters()} == {dtype or torch.float32}
    assert len(captioner.caption([draw(0).image], max_new_tokens=2)) == 1


# ---- from files ----------------------------------------------------------------------------------


def test_parts_of_folders_are_taken_as_they_are(folders):
    made, clip, gpt2 = folders
    captioner = build_captioner(small_preset(), clip=clip, gpt2=str(gpt2))
    for part in ("vision", "gpt2"):
        wanted = dict(getattr(made, part).named_parameters())
        for name, parameter in getattr(captioner, part).named_parameters():
            assert torch.equal(parameter, wanted[name]), name
    fresh = parameters(build_captioner(small_preset(), random_init=True))
    projection = "connector.dense.projection.0.weight"
    assert torch.equal(parameters(captioner)[projection], fresh[projection])


def test_the_folders_sizes_replace_the_preset_s(folders):
    """The large preset's connector, between parts of other sizes."""
    _, clip, gpt2 = folders
    small = replace(PRESETS["article"], sizes=replace(PRESETS["article"].sizes, max_new_tokens=30))
    captioner = build_captioner(small, clip=clip, gpt2=gpt2)
    assert captioner.config.vision == VISION
    assert captioner.config.gpt2.n_embd == LANGUAGE.n_embd
    assert captioner.config.connector.tokens == 2  # 17 tokens by strides 5 and 2
    assert captioner.config.tokenizer == "bpe" and captioner.config.resize == "squash"
    assert len(captioner.loss_sum(*batch(captioner))) == 2


def test_only_one_part_may_be_named(folders):
    made, clip, gpt2 = folders
    for given in ({"clip": clip}, {"gpt2": gpt2}):
        captioner = build_captioner(small_preset(), random_init=True, **given)
        part = "vision" if "clip" in given else "gpt2"
        wanted = dict(getattr(made, part).named_parameters())
        got = dict(getattr(captioner, part).named_parameters())
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_what_is_built_can_be_saved_and_comes_back(folders, tmp_path):
    _, clip, gpt2 = folders
    captioner = build_captioner(small_preset(), clip=clip, gpt2=gpt2)
    captioner.save(tmp_path / "saved")
    back = load_captioner(tmp_path / "saved")
    pictures = [draw(seed).image for seed in range(3)]
    assert back.caption(pictures) == captioner.caption(pictures)
    assert back.config == captioner.config


def test_the_type_of_gpt2_s_file_is_that_of_all_parts(folders):
    made, clip, gpt2 = folders
    save_gpt2(made.gpt2.to(torch.bfloat16), gpt2)
    captioner = build_captioner(small_preset(), clip=clip, gpt2=gpt2)
    assert {p.dtype for p in captioner.parameters()} == {torch.bfloat16}


def test_scenes_takes_the_embedded_parts_and_a_new_connector():
    captioner, whole = build_captioner("scenes"), load_captioner("scenes")
    language = load_gpt2(embedded("scenes") / "language-model")
    pairs = ((captioner.vision, whole.vision), (captioner.gpt2, language))
    for got, wanted in pairs:
        named = dict(wanted.named_parameters())
        assert all(torch.equal(p, named[name]) for name, p in got.named_parameters())
    assert not torch.equal(
        captioner.connector.dense.projection[0].weight, whole.connector.dense.projection[0].weight
    )


def test_a_name_of_the_cache_is_looked_up(folders, monkeypatch):
    made, clip, gpt2 = folders
    monkeypatch.setattr(build, "locate", lambda name: {"clip-vit-l-14-336": clip}[name])
    monkeypatch.setattr(build, "is_whole", lambda source: True)
    preset = replace(small_preset(), clip="clip-vit-l-14-336")
    captioner = build_captioner(preset, gpt2=gpt2)
    assert torch.equal(captioner.vision.conv1.weight, made.vision.conv1.weight)


# ---- what is missing -----------------------------------------------------------------------------


def test_missing_weights_say_what_to_fetch_and_what_works_without(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as told:
        build_captioner("article")
    words = ("'article' needs clip-vit-l-14-336 and gpt2-large", str(tmp_path), "--random-init")
    words += ("python -m weights fetch clip-vit-l-14-336", "python -m weights fetch gpt2-large")
    assert all(word in str(told.value) for word in words), told.value


def test_random_numbers_need_the_vocabulary_and_say_so(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))

    def offline():
        raise FileNotFoundError("tiktoken could not find it")

    monkeypatch.setattr(layouts, "gpt2_tokenizer", offline)
    monkeypatch.setattr(build, "random_gpt2", lambda *args, **options: pytest.fail("was drawn"))
    with pytest.raises(FileNotFoundError, match="Run: python -m weights fetch gpt2-vocab"):
        build_captioner("article", random_init=True)


def test_only_what_is_missing_is_named(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    _, clip, gpt2 = folders
    with pytest.raises(FileNotFoundError, match="needs gpt2,") as told:
        build_captioner("article-small", clip=clip)
    assert "clip-vit" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="needs clip-vit-l-14-336,"):
        build_captioner("article", gpt2=gpt2)


@pytest.mark.parametrize("part", ["clip", "gpt2"])
def test_a_folder_that_is_not_there_is_told(folders, tmp_path, part):
    _, clip, gpt2 = folders
    given = {"clip": clip, "gpt2": gpt2} | {part: tmp_path / "nowhere"}
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_captioner(small_preset(), **given)


def test_parts_that_do_not_go_together_are_told(folders, tmp_path):
    _, clip, _ = folders
    save_gpt2(random_gpt2(replace(LANGUAGE, n_ctx=20)), tmp_path / "short")
    BPETokenizer([]).save(tmp_path / "short")
    with pytest.raises(ValueError, match="do not fit into n_ctx=20"):
        build_captioner(small_preset(), clip=clip, gpt2=tmp_path / "short")


def test_a_preset_by_a_wrong_name_is_told():
    with pytest.raises(ValueError, match="no preset 'artikel'"):
        build_captioner("artikel", random_init=True)


# ---- counts --------------------------------------------------------------------------------------


def test_the_counts_are_the_table_s():
    preset = small_preset()
    captioner = build_captioner(preset, random_init=True)
    wanted = {name: Count(number, 0) for name, number in preset.parameters().items()}
    assert count_parts(captioner) == wanted
    prepare(captioner, "connector+gpt2")
    parts = preset.parameters()
    assert count_parts(captioner) == {
        "vision": Count(0, parts["vision"]),
        "connector": Count(parts["connector"], 0),
        "gpt2": Count(parts["gpt2"], 0),
    }


def test_the_printed_counts_add_up():
    captioner = build_captioner("scenes", random_init=True, dtype=torch.bfloat16)
    prepare(captioner, "connector")
    head, *rows = (line.split() for line in describe_parts(captioner).splitlines())
    assert head[:3] == ["part", "trainable", "frozen"]
    table = {name: (trainable, frozen, size) for name, trainable, frozen, size, *_ in rows}
    assert table["vision"][:2] == ("0", "1,040,768") and table["connector"][0] == "49,536"
    assert table["all"] == ("49,536", "1,701,376", "3.6")
    assert rows[0][4:] == ["bfloat16"] and rows[1][4:] == ["float32"]


# ---- memory --------------------------------------------------------------------------------------

# In a process of its own: memory that other tests took, and gave back, is not counted.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from captioning.build import build_captioner
from captioning.presets import PRESETS
from connector.config import VisionConfig
from gpt2_scratch.config import GPT2Config

def resident(entry):
    status = Path("/proc/self/status").read_text()
    return int(status.split(entry + ":")[1].split()[0]) * 1024

how = json.loads(sys.argv[1])
build_captioner("scenes", random_init=True)  # what is imported and taken at first use
scenes = PRESETS["scenes"].sizes
vision, gpt2 = VisionConfig(**how["vision"]), GPT2Config(**how["gpt2"])
connector = replace(scenes.connector, out=gpt2.n_embd, vision_width=vision.width,
                    depth=vision.layers, patches=vision.patches)
sizes = replace(scenes, vision=vision, gpt2=gpt2, connector=connector)
before = resident("VmRSS")
made = build_captioner(replace(PRESETS["scenes"], sizes=sizes),
                       dtype=getattr(torch, how["dtype"]), **how["given"])
size = sum(t.nbytes for t in [*made.parameters(), *made.buffers()])
print(json.dumps({"bytes": size, "peak": (resident("VmHWM") - before) / size}))
"""
WIDE = replace(PRESETS["scenes"].sizes.vision, width=512, layers=10, heads=8)
DEEP = GPT2Config(n_vocab=1000, n_ctx=128, n_embd=512, n_head=8, n_layer=10)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["random", "folders"])
def test_no_part_is_held_twice(root, tmp_path, source, dtype):
    """65 million numbers; each once more would be 2, or from files to bfloat16 3."""
    given = {"random_init": True}
    if source == "folders":
        sizes = replace(PRESETS["scenes"].sizes.connector, depth=10, vision_width=512, out=512)
        sizes = replace(PRESETS["scenes"].sizes, vision=WIDE, gpt2=DEEP, connector=sizes)
        made = build_captioner(replace(PRESETS["scenes"], sizes=sizes), random_init=True)
        save_vision(made.vision, tmp_path / "clip")
        save_gpt2(made.gpt2, tmp_path / "gpt2")
        made.tokenizer.save(tmp_path / "gpt2")
        given = {"clip": str(tmp_path / "clip"), "gpt2": str(tmp_path / "gpt2")}
    how = {"vision": vars(WIDE), "gpt2": vars(DEEP), "dtype": dtype, "given": given}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, json.dumps(how)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    sys.stdout.write(f"{source} {dtype}: {seen}\n")
    # float32 stays in the mapped files, unread; bfloat16 leaves pages of the tower's file resident,
    # which the system may take back.
    most = {("folders", "float32"): 0.3, ("folders", "bfloat16"): 2.0}.get((source, dtype), 1.2)
    assert seen["peak"] < most
    assert seen["peak"] > 0.8 or (source, dtype) == ("folders", "float32")


def test_a_part_that_is_named_and_not_there_is_found_before_anything_is_drawn(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "load_gpt2", lambda *args, **options: pytest.fail("was read"))
    with pytest.raises(FileNotFoundError, match="needs clip-vit-l-14-336"):
        build_captioner("article", gpt2=Path(embedded("scenes")) / "language-model")
