"""Features of a frozen encoder on the disk: what they are worth, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_sets import narratives, picture_bytes, put
from PIL import Image

import captioning.data.features as features
from captioning.data.batches import Batches
from captioning.data.build import open_index
from captioning.data.features import Encoder, FeatureCache
from captioning.data.rows import Bad
from captioning.data.transforms import Augmentation, Transform
from connector.config import ConnectorConfig, ReducerConfig, VisionConfig
from connector.connector import Connector
from connector.preprocess import normalise, preprocess
from connector.vision import ClipVision
from gpt2_scratch.tokenizer import BPETokenizer

VISION = VisionConfig(
    image_size=16, patch_size=4, width=12, layers=4, heads=2, quick_gelu=True, projection=0
)
REDUCERS = {
    "article": ReducerConfig(kind="article", strides=(2, 2)),
    "read": ReducerConfig(kind="article", strides=(3, 2), kernels=(2, 1)),
    "conv": ReducerConfig(kind="conv", strides=(2, 2)),
    "pool": ReducerConfig(kind="pool"),
    "none": ReducerConfig(kind="none"),
}


def encoder(variant="article", reducer="article", seed=0, mode="clip") -> Encoder:
    torch.manual_seed(seed)
    sizes = ConnectorConfig(
        vision_width=12,
        depth=4,
        patches=16,
        out=7,
        variant=variant,
        dropout=0.0,
        reducer=REDUCERS[reducer],
    )
    return Encoder(ClipVision(VISION).eval(), Connector(sizes).eval(), Transform(16, mode))


@pytest.fixture
def index(tmp_path):
    narratives(tmp_path / "set", 23)
    with open_index(tmp_path / "set", tmp_path / "index.sqlite") as index:
        yield index


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(features, "PICTURES", 8)


def counting(encode: Encoder) -> tuple[Encoder, list[int]]:
    """The same encoder, and how many pictures go through it each time."""
    seen: list[int] = []
    encode.vision.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    return encode, seen


def live(encode: Encoder, path: str) -> torch.Tensor:
    with Image.open(path) as image, torch.no_grad():
        square = torch.from_numpy(encode.transform(image.convert("RGB")))
        return encode(normalise(square.permute(2, 0, 1)[None]))[0]


# ---- what is kept --------------------------------------------------------------------------------


def test_the_article_s_picture_takes_356_kb():
    with torch.device("meta"):
        large = VisionConfig(336, 14, 1024, 24, 16, quick_gelu=True, projection=768)
        sizes = ConnectorConfig(vision_width=1024, depth=24, patches=large.patches, out=1280)
        encode = Encoder(ClipVision(large), Connector(sizes), Transform(336))
    assert encode.shape == (58, 3072)
    assert 2 * np.prod(encode.shape) == 356_352  # all 577 tokens: 3,545,088


VARIANTS = [("article", name) for name in REDUCERS]
VARIANTS += [("last", "article"), ("dci", "pool"), ("sci", "conv"), ("dci", "article")]
VARIANTS += [("sti", "none"), ("sti", "conv")]


@pytest.mark.parametrize(("variant", "reducer"), VARIANTS)
def test_a_hit_is_what_the_encoder_says(index, tmp_path, variant, reducer):
    encode = encoder(variant, reducer)
    cache = FeatureCache(tmp_path / "cache", encode)
    assert cache.fill(index.pictures(), encode) == 0 and len(cache) == 23
    assert cache.shape == encode.shape
    for picture in index.pictures():
        wanted = live(encode, picture.place.path)
        held = torch.from_numpy(np.array(cache[picture.image])).float()
        # float16 keeps 11 bits; values are near 1, so half a unit is 2^-11 of the largest.
        bound = wanted.abs().max().item() * 2**-11
        torch.testing.assert_close(held, wanted, rtol=2**-11, atol=bound)
        with Image.open(picture.place.path) as image, torch.no_grad():
            states = encode.vision.hidden_states(preprocess([image.convert("RGB")], 16))
            tokens = encode.connector(states)[0]
            got = encode.connector.tokens_from_features(held[None])[0]
        # bf16 keeps 8 bits: what training in it would round away anyway. Another picture's
        # tokens are 100 times as far off.
        torch.testing.assert_close(got, tokens, rtol=2**-8, atol=2**-8)
    cache.close()


def test_another_picture_is_another_hit(index, tmp_path):
    encode = encoder()
    cache = FeatureCache(tmp_path / "cache", encode)
    cache.fill(index.pictures(), encode)
    held = np.stack([cache[picture.image] for picture in index.pictures()]).astype(np.float32)
    apart = np.abs(held[:, None] - held[None]).max((2, 3))
    assert (apart + np.eye(23) > 0.05).all()
    cache.close()


def test_only_as_much_is_written_as_is_kept(index, tmp_path):
    encode = encoder()
    cache = FeatureCache(tmp_path / "cache", encode)
    cache.fill(index.pictures(), encode)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "cache").glob("*.f16"))
    assert sizes == [8 * 2 * 5 * 36] * 3  # 17 tokens with strides 2 and 2 are 5
    cache.close()


# ---- a kill, a change ----------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import captioning.data.features as features
from captioning.data.index import Index
from test_data_features import encoder
from pathlib import Path
features.PICTURES = 8
real = features._make_room if sys.argv[2] == "room" else features.FeatureCache._file
calls = [0]
def dies(*arguments, **options):
    calls[0] += 1
    if calls[0] == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
if sys.argv[2] == "room": features._make_room = dies
else: features.FeatureCache._file = dies
folder = Path(sys.argv[1])
encode = encoder()
cache = features.FeatureCache(folder / "cache", encode)
cache.fill(Index(folder / "index.sqlite").pictures(), encode, batch=3)
"""


@pytest.mark.parametrize(("where", "call"), [("room", 2), ("write", 14)])
def test_killed_it_goes_on(index, tmp_path, root, where, call):
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), where, str(call)],
        cwd=root,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    encode, seen = counting(encoder())
    cache = FeatureCache(tmp_path / "cache", encode)
    done = len(cache)
    assert 0 < done < 23
    cache.fill(index.pictures(), encode)
    assert sum(seen) == 23 - done and len(cache) == 23
    for picture in index.pictures():
        wanted = live(encode, picture.place.path).numpy()
        np.testing.assert_allclose(cache[picture.image], wanted, rtol=1e-3, atol=1e-3)
    assert len(list((tmp_path / "cache").glob("*.f16"))) == 3  # no slot was lost
    cache.close()


def test_a_full_cache_asks_the_encoder_nothing(index, tmp_path):
    encode, seen = counting(encoder())
    for _ in range(2):
        cache = FeatureCache(tmp_path / "cache", encode)
        cache.fill(index.pictures(), encode, batch=10)
        cache.close()
    assert seen == [10, 10, 3]


def test_a_file_that_is_gone_or_short_is_made_again(index, tmp_path):
    encode = encoder()
    with closing(FeatureCache(tmp_path / "cache", encode)) as cache:
        cache.fill(index.pictures(), encode)
        wanted = {picture.image: np.array(cache[picture.image]) for picture in index.pictures()}
    (tmp_path / "cache" / "00000.f16").unlink()
    os.truncate(tmp_path / "cache" / "00002.f16", 10)
    encode, seen = counting(encoder())
    with closing(FeatureCache(tmp_path / "cache", encode)) as cache:
        assert len(cache) == 8
        cache.fill(index.pictures(), encode)
        assert sum(seen) == 15 and len(cache) == 23
        for image, held in wanted.items():
            np.testing.assert_array_equal(cache[image], held)


def test_few_files_are_open_at_a_time(index, tmp_path, monkeypatch):
    """Half a million pictures lie in 1,000 files; a process may open 1,024."""
    monkeypatch.setattr(features, "PICTURES", 1)
    monkeypatch.setattr(features, "MAPS", 3)
    encode = encoder()
    with closing(FeatureCache(tmp_path / "cache", encode)) as cache:
        cache.fill(index.pictures(), encode, batch=5)
        for picture in index.pictures():
            wanted = live(encode, picture.place.path)
            np.testing.assert_allclose(cache[picture.image], wanted, rtol=1e-3, atol=1e-3)
            assert len(cache._files) <= 3
    assert len(list((tmp_path / "cache").glob("*.f16"))) == 23


def test_a_picture_that_changed_is_encoded_again(index, tmp_path):
    encode, seen = counting(encoder())
    cache = FeatureCache(tmp_path / "cache", encode)
    cache.fill(index.pictures(), encode)
    picture = list(index.pictures())[5]
    before = np.array(cache[picture.image])
    put(Path(picture.place.path), picture_bytes(999, size=(9, 9)))
    seen.clear()
    cache.fill(index.pictures(), encode)
    assert seen == [1] and len(cache) == 23
    wanted = live(encode, picture.place.path).numpy()
    np.testing.assert_allclose(cache[picture.image], wanted, rtol=1e-3, atol=1e-3)
    assert np.abs(before - cache[picture.image]).max() > 0.1
    cache.close()


def test_two_processes_fill_one_folder(index, tmp_path):
    encode = encoder()

    def fill(rank: int) -> None:
        cache = FeatureCache(tmp_path / "cache", encode)
        with open_index(tmp_path / "set", tmp_path / "index.sqlite") as mine:
            cache.fill(islice(mine.pictures(), rank, None, 2), encode, batch=2)
        cache.close()

    FeatureCache(tmp_path / "cache", encode).close()
    threads = [Thread(target=fill, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = FeatureCache(tmp_path / "cache", encode)
    for picture in index.pictures():
        wanted = live(encode, picture.place.path).numpy()
        np.testing.assert_allclose(cache[picture.image], wanted, rtol=1e-3, atol=1e-3)
    cache.close()


# ---- the key -------------------------------------------------------------------------------------


def nudged() -> Encoder:
    encode = encoder()
    with torch.no_grad():
        encode.vision.ln_pre.bias[3] += 1e-6
    return encode


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: encoder(seed=1), "encoder: got"),
        (nudged, "encoder: got"),
        (lambda: encoder(mode="squash"), "transform: got .*clip.*wanted .*squash"),
        (lambda: encoder(variant="dci"), "states: got article, wanted dci"),
        (lambda: encoder(reducer="none"), "tokens: got each 4th of 17, wanted all"),
    ],
)
def test_features_of_something_else_are_refused_by_name_or_rebuilt(index, tmp_path, other, named):
    encode = encoder()
    cache = FeatureCache(tmp_path / "cache", encode)
    cache.fill(index.pictures(), encode)
    cache.close()
    different = other()
    with pytest.raises(ValueError, match=rf"something else: .*{named}.*another folder"):
        FeatureCache(tmp_path / "cache", different)
    rebuilt = FeatureCache(tmp_path / "cache", different, rebuild=True)
    assert len(rebuilt) == 0
    rebuilt.fill(index.pictures(), different)
    image = next(index.pictures())
    wanted = live(different, image.place.path).numpy()
    np.testing.assert_allclose(rebuilt[image.image], wanted, rtol=1e-3, atol=1e-3)
    rebuilt.close()


def test_what_is_trained_is_not_in_the_key(index, tmp_path):
    encode = encoder()
    cache = FeatureCache(tmp_path / "cache", encode)
    cache.close()
    with torch.no_grad():
        for parameter in encode.connector.parameters():
            parameter.add_(1)
    FeatureCache(tmp_path / "cache", encode).close()
    key = json.loads((tmp_path / "cache" / "key.json").read_text())
    assert key["encoder config"]["quick_gelu"] is True and key["states"] == "article"


# ---- what fails ----------------------------------------------------------------------------------


def test_pictures_that_fail_are_told_and_left_out_of_batches(index, tmp_path):
    encode, told = encoder(), []
    bad = [picture for picture in index.pictures() if picture.side == "train"][:3]
    for picture, content in zip(bad, (b"", b"broken", picture_bytes(1)[:40]), strict=True):
        put(Path(picture.place.path), content)
    cache = FeatureCache(tmp_path / "cache", encode)
    assert cache.fill(index.pictures(), encode, tell=told.append) == 3 and len(cache) == 20
    assert [fault.kind for fault in told] == ["empty picture", "corrupt", "truncated"]
    with pytest.raises(Bad, match="no features of"):
        cache[bad[0].image]
    tokenizer = BPETokenizer.train(["In this image"], 265)
    batches = Batches(index, "train", tokenizer, encode.transform, batch=4, cache=cache)
    found = list(batches.once())
    assert {fault.kind for batch in found for fault in batch.skipped} == {"missing"}
    assert sum(len(batch.skipped) for batch in found) == 3
    for batch in found:
        assert batch.inputs.dtype == torch.float32
        for image, row in zip(batch.images, batch.inputs, strict=True):
            assert torch.equal(row, torch.from_numpy(np.array(cache[image])).float())
    cache.close()


def test_numbers_that_float16_cannot_hold_are_refused(index, tmp_path):
    for value in (1e6, float("nan")):
        encode = encoder()
        with torch.no_grad():
            encode.vision.ln_pre.bias[0] = value
        cache = FeatureCache(tmp_path / str(value), encode)
        with pytest.raises(ValueError, match="do not fit into float16"):
            cache.fill(index.pictures(), encode)
        assert len(cache) == 0
        cache.close()


def test_a_full_disk_is_told_before_anything_is_written(index, tmp_path, monkeypatch):
    encode = encoder()
    cache = FeatureCache(tmp_path / "cache", encode)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="0 MB free, wanted 0 MB for the next 8 pictures"):
        cache.fill(index.pictures(), encode)
    cache.close()


def test_augmented_features_make_no_sense(index, tmp_path):
    encode = encoder()
    with pytest.raises(ValueError, match="augment"):
        Encoder(encode.vision, encode.connector, Transform(16, augment=Augmentation()))
    cache = FeatureCache(tmp_path / "cache", encode)
    tokenizer = BPETokenizer.train(["In this image"], 265)
    changing = Transform(16, augment=Augmentation())
    with pytest.raises(ValueError, match="augment"):
        Batches(index, "train", tokenizer, changing, batch=4, cache=cache)
    cache.close()
