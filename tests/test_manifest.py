"""The table of what can be fetched: well-formed, as published, and asked for in the right order."""

import hashlib
import json
import re

import pytest

from weights import cache_folder, locate, model_folder
from weights.manifest import TABLE, entries, find

FILES = [
    (entry, source, file)
    for entry in entries().values()
    for source in entry.sources
    for file in source.files
]
WEIGHTS = re.compile(r"\.(safetensors|bin|pt)$|\.data-00000-of-00001$")


@pytest.fixture(autouse=True)
def no_mirrors(monkeypatch):
    for variable in ("HF_ENDPOINT", "GPT2_SCRATCH_MIRROR", "GPT2_SCRATCH_CACHE"):
        monkeypatch.delenv(variable, raising=False)


def test_the_names():
    gpt2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    assert (*gpt2, "gpt2-vocab", "clip-vit-l-14-336") == tuple(entries())
    for name in gpt2:
        assert [source.name for source in find(name).sources] == ["huggingface", "openai"]
        assert find(name).needs == ("gpt2-vocab",)
    clip = [source.name for source in find("clip-vit-l-14-336").sources]
    assert clip == ["huggingface", "timm", "openai"]


@pytest.mark.parametrize(("entry", "source", "file"), FILES)
def test_every_file_is_described_in_full(entry, source, file):
    raw = json.loads(TABLE.read_text("utf-8"))[entry.name]["sources"]
    (given,) = [
        f for s in raw if s["name"] == source.name for f in s["files"] if f["name"] == file.name
    ]
    # Nothing is left out by oversight: what nobody published is said to be so.
    assert given["bytes"] == "unpublished" or given["bytes"] > 0
    assert given["sha256"] == "unpublished" or re.fullmatch("[0-9a-f]{64}", given["sha256"])
    assert source.provenance and source.layout
    urls = source.urls_of(file)
    assert urls and all(url.startswith("https://") and "{" not in url for url in urls)
    if WEIGHTS.search(file.name):
        assert file.expected > 10**8  # the space that will be needed is known


@pytest.mark.parametrize("name", entries())
def test_needs_can_be_fetched_and_need_nothing(name):
    assert all(not find(needed).needs for needed in find(name).needs)


def test_folders_do_not_meet():
    folders = [source.folder for entry in entries().values() for source in entry.sources]
    assert len({*folders}) == len(folders)
    assert not [a for a in folders for b in folders if a.startswith(f"{b}/")]


def test_as_published(shared):
    """Carried over without a slip: against the collections of published figures themselves."""

    def published(path):
        facts = json.loads((shared / "golden" / path).read_text("utf-8"))["facts"]
        return next(fact["expected"] for fact in facts if fact["id"] == "file_hashes")

    gpt2, clip = published("gpt2_golden.json"), published("clip_golden.json")
    ours = {(e.name, s.name, f.name): f for e, s, f in FILES}
    known = 0
    for size, name in (("124M", "gpt2"), ("355M", "gpt2-medium")):
        for file, held in gpt2[f"openaipublic gpt-2/models/{size}"].items():
            if file not in ("encoder.json", "vocab.bpe"):
                assert ours[name, "openai", file].size == held
                known += 1
    for file in ("config.json", "model.safetensors"):
        key = "huggingface openai-community/gpt2 @607a30d783dfa663caf39e06633721c8d4cfcd7e"
        held = gpt2[key][file]
        mine = ours["gpt2", "huggingface", file]
        assert (mine.size, mine.sha256) == (held["size"], held["sha256"])
    prefix = "hf openai/clip-vit-large-patch14-336 "
    for key, held in clip.items():
        if key.startswith(prefix):
            mine = ours["clip-vit-l-14-336", "huggingface", key.split()[-1]]
            assert (mine.size, mine.sha256) == (held["size"], held["sha256"])
            known += 1
    assert (
        ours["clip-vit-l-14-336", "openai", "ViT-L-14-336px.pt"].sha256
        == (clip["ViT-L-14-336px.pt"]["sha256"])
    )
    for name, file in (("encoder.json", "encoder.json / vocab.json"), ("vocab.bpe", None)):
        held = gpt2["tokenizer"][file or "vocab.bpe / merges.txt"]
        mine = ours["gpt2-vocab", "openai", name]
        assert (mine.size, mine.sha256) == (held["size"], held["sha256"])
    assert known == 5 + 5 + 3


def test_derived_hashes():
    """Two small files of OpenAI's smallest model are so plain that their hash can be made here."""
    ours = {file.name: file for _, source, file in FILES if source.folder == "gpt2/openai"}
    pointer = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    sizes = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    for name, text in (
        ("checkpoint", pointer),
        ("hparams.json", json.dumps(sizes, indent=2) + "\n"),
    ):
        assert ours[name].size == len(text)
        assert ours[name].sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_in_an_address_is_the_hash_of_the_file():
    ((_, source, file),) = [each for each in FILES if each[2].name == "ViT-L-14-336px.pt"]
    assert all(f"/{file.sha256}/{file.name}" in url for url in source.urls_of(file))


def test_openais_sizes_are_four_bytes_a_parameter():
    parameters = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    for entry, source, file in FILES:
        if source.name == "openai" and ".data-" in file.name:
            assert file.size == 4 * parameters[entry.name]


def test_tiktoken_finds_its_own_names():
    from gpt2_scratch.tokenizer import _TIKTOKEN_NAMES

    names = {file.name for file in find("gpt2-vocab").source().files}
    assert names == {"encoder.json", "vocab.bpe", *_TIKTOKEN_NAMES}
    url = find("gpt2-vocab").source().files[0].urls[0]
    assert hashlib.sha1(url.encode()).hexdigest() in names


def test_mirrors_come_first_and_the_endpoint_is_replaced(monkeypatch):
    source = find("gpt2-large").source("huggingface")
    config = source.files[0]
    revision = "32b71b12589c2f8d625668d2335a01cac3249519"
    path = "openai-community/gpt2-large/resolve"
    hub = f"https://huggingface.co/{path}"
    assert source.urls_of(config) == [f"{hub}/{revision}/config.json", f"{hub}/main/config.json"]
    monkeypatch.setenv("HF_ENDPOINT", "https://hf.example/")
    monkeypatch.setenv("GPT2_SCRATCH_MIRROR", "http://10.0.0.7:8000/ https://two.example/weights")
    assert source.urls_of(config) == [
        "http://10.0.0.7:8000/gpt2-large/huggingface/config.json",
        "https://two.example/weights/gpt2-large/huggingface/config.json",
        f"https://hf.example/{path}/{revision}/config.json",
        f"https://hf.example/{path}/main/config.json",
    ]


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "GPT2_SCRATCH_MIRROR"])
@pytest.mark.parametrize("value", ["hf.example", "ftp://x", "http://", "http://[::1", "http://x:y"])
def test_an_address_that_is_none_names_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    source = find("gpt2").source()
    with pytest.raises(ValueError, match=rf"{variable} is {re.escape(repr(value))}, wanted an"):
        source.urls_of(source.files[0])


def test_unknown_names_and_sources():
    with pytest.raises(ValueError, match=r"'gpt2-lrge'.*gpt2-vocab.*Did you mean gpt2-large\?"):
        find("gpt2-lrge")
    with pytest.raises(ValueError, match=r"no source 'tf', wanted one of huggingface, openai"):
        locate("gpt2", "tf")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "gpt2-scratch"
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"
    assert model_folder("gpt2", "openai") == tmp_path / "elsewhere" / "gpt2" / "openai"
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", "~nobody.by.this.name/elsewhere")
    with pytest.raises(FileNotFoundError, match=r"not known here.*GPT2_SCRATCH_CACHE"):
        cache_folder()
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", "~/elsewhere")
    # The tokenizer looks for its two files in this very folder.
    assert model_folder("gpt2-vocab") == tmp_path / "elsewhere" / "gpt2-vocab"


def test_what_is_not_there_is_told_with_the_command_and_what_works_without(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        locate("gpt2-large")
    for words in (str(tmp_path), "python -m weights fetch gpt2-large,", "import", "`scenes`"):
        assert words in str(error.value)
    with pytest.raises(FileNotFoundError, match="fetch gpt2-large --source openai"):
        locate("gpt2-large", "openai")
    folder = model_folder("gpt2-large", "openai")
    folder.mkdir(parents=True)
    (folder / "hparams.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.ckpt\.index, model\.ckpt\.data-"):
        locate("gpt2-large")


def test_whichever_source_is_whole_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("GPT2_SCRATCH_CACHE", str(tmp_path))

    def place(source):
        folder = model_folder("gpt2-large", source)
        folder.mkdir(parents=True)
        for file in find("gpt2-large").source(source).files:
            if not file.optional:
                with (folder / file.name).open("wb") as opened:
                    opened.truncate(file.size or 1)  # sparse: takes no room
        return folder

    theirs = place("openai")
    assert locate("gpt2-large") == locate("gpt2-large", "openai") == theirs
    default = place("huggingface")
    assert locate("gpt2-large") == default
    assert locate("gpt2-large", "openai") == theirs
    (theirs / "model.ckpt.data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.ckpt\.data-"):
        locate("gpt2-large", "openai")
