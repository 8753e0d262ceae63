"""Numbered batches: the same whoever asks, each caption once an epoch, padded little."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import narratives, put
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captioning.data.batches import Batch, Batches
from captioning.data.build import open_index
from captioning.data.index import Index
from captioning.data.order import Order, Permutation, Turn
from captioning.data.transforms import Augmentation, Transform
from connector.preprocess import MEAN, pad, preprocess, resize_and_crop
from gpt2_scratch.tokenizer import BPETokenizer

SIZE = 8
TOKENIZER = BPETokenizer.train(["In this image we see and more and more"], 272)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("batches")
    narratives(folder, 70, captions=2)
    return folder


@pytest.fixture
def index(folder, tmp_path):
    with open_index(folder, tmp_path / "index.sqlite", tokenizer=TOKENIZER) as index:
        yield index


def made(index: Index, batch: int = 6, **options) -> Batches:
    transform = options.pop("transform", Transform(SIZE))
    return Batches(index, "train", TOKENIZER, transform, batch=batch, **options)


def equal(one: Batch, other: Batch) -> bool:
    return one.images == other.images and all(map(torch.equal, one[:3], other[:3]))


def rows(batches: list[Batch]) -> Counter[tuple[str, tuple[int, ...]]]:
    """(image, ids) of every caption."""
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for batch in batches:
        for image, ids, length in zip(batch.images, batch.ids, batch.lengths, strict=True):
            found[image, tuple(ids[:length].tolist())] += 1
    return found


# ---- the order -----------------------------------------------------------------------------------


@given(st.integers(1, 700), st.integers(0, 99))
def test_a_permutation_holds_each_number_once(n, seed):
    found = Permutation(n, (seed, 0))(range(n))
    assert sorted(found.tolist()) == list(range(n))
    some = list(range(0, n, 7))
    assert Permutation(n, (seed, 0))(some).tolist() == found[some].tolist()


def test_permutations_differ_and_leave_nothing_where_it_was():
    n = 1000
    orders = [Permutation(n, (seed, epoch))(range(n)) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        # A random order leaves 1 of n in place, and moves by a third of n on average.
        assert (one == np.arange(n)).sum() < 8
        moved = np.abs(one.astype(int) - np.arange(n)).mean()
        assert n / 3.5 < moved < n / 2.7
        assert np.corrcoef(one.astype(int), np.arange(n))[0, 1] < 0.1
        assert all((one == other).sum() < 8 for other in orders[:i])


def test_a_permutation_of_many_needs_no_memory_for_them():
    found = Permutation(10**12, (0, 0))([0, 1, 10**12 - 1]).tolist()
    assert len(set(found)) == 3 and max(found) < 10**12


LENGTHS = np.random.default_rng(0).integers(5, 90, 1000)


def order(n=1000, batch=8, seed=3, window=16) -> Order:
    return Order(n, batch, seed, lambda positions: [int(LENGTHS[i]) for i in positions], window)


def test_an_epoch_has_each_caption_once():
    for epoch in range(3):
        steps = range(epoch * 125, (epoch + 1) * 125)
        turns = [turn for step in steps for turn in order()(step)]
        assert sorted(turn.position for turn in turns) == list(range(1000))
        assert {turn.epoch for turn in turns} == {epoch}


def test_what_an_epoch_leaves_over_is_other_captions_each_time():
    left = []
    for epoch in range(4):
        steps = range(epoch * 76, (epoch + 1) * 76)
        seen = [turn.position for step in steps for turn in order(batch=13)(step)]
        assert len(set(seen)) == len(seen) == 76 * 13
        left.append(frozenset(range(1000)) - frozenset(seen))
    assert len(set(left)) == 4 and all(len(some) == 12 for some in left)


def test_batches_have_captions_of_like_length():
    spread = [np.ptp([LENGTHS[turn.position] for turn in order()(step)]) for step in range(125)]
    # 8 of 85 lengths drawn at random are 66 apart on average.
    assert np.mean(spread) < 10
    # And within a window are not seen from the shortest to the longest.
    one = order(window=125)
    means = [np.mean([LENGTHS[turn.position] for turn in one(step)]) for step in range(125)]
    assert abs(np.corrcoef(means, range(125))[0, 1]) < 0.3


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 9), st.integers(0, 300))
def test_a_step_s_captions_depend_on_its_number_alone(n, batch, window, step):
    found = list(islice(order(n, batch, window=window).from_step(0), step, step + 3))
    assert found == [order(n, batch, window=window)(step + i) for i in range(3)]
    assert all(len(turns) == batch for turns in found)
    assert all(0 <= turn.position < n for turns in found for turn in turns)


def test_a_batch_larger_than_all_there_is_repeats():
    turns = order(n=3, batch=8)(5)
    assert Counter(turn.position for turn in turns).most_common()[0][1] == 3
    assert {turn.epoch for turn in turns} == {5}
    with pytest.raises(ValueError, match="wanted 1 or more"):
        order(n=0)


# ---- batches -------------------------------------------------------------------------------------


def test_a_batch_is_what_the_model_takes(index):
    batch = next(made(index)(0))
    assert batch.inputs.shape == (6, 3, SIZE, SIZE) and batch.inputs.dtype == torch.float32
    texts = {picture.image: picture for picture in index.pictures()}
    for row, image in enumerate(batch.images):
        ids = batch.ids[row, : batch.lengths[row]].tolist()
        assert ids.pop() == TOKENIZER.end and TOKENIZER.decode(ids) in texts[image].captions
        assert batch.ids[row, batch.lengths[row] :].eq(TOKENIZER.end).all()
        with Image.open(texts[image].place.path) as opened:
            assert torch.equal(batch.inputs[row], preprocess([opened.convert("RGB")], SIZE)[0])


def test_a_run_that_goes_on_gets_the_very_same(index):
    whole = list(islice(made(index)(0), 40))  # two epochs and a piece
    for step in (0, 1, 17, 18, 33):
        again = list(islice(made(index)(step), 7))
        assert all(map(equal, whole[step : step + 7], again))
    other = list(islice(made(index, seed=1)(0), 3))
    assert not any(map(equal, whole, other))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_what_one_would_see(index, world):
    alone = list(islice(made(index)(5), 9))
    ranks = [list(islice(made(index, rank=r, world=world)(5), 9)) for r in range(world)]
    for step, batch in enumerate(alone):
        assert sum((rows([rank[step]]) for rank in ranks), Counter()) == rows([batch])
        assert all(len(rank[step].images) == 6 // world for rank in ranks)


def test_micro_batches_make_up_the_step(index):
    batches = made(index, micro=4)
    assert (batches.share, batches.accumulation) == (6, 2)
    parts = list(islice(batches(3), 8))
    for step, batch in enumerate(islice(made(index)(3), 4)):
        two = parts[2 * step : 2 * step + 2]
        assert [len(part.images) for part in two] == [4, 2]
        assert rows(two) == rows([batch])
    shared = made(index, batch=12, world=2, rank=1, micro=3)
    assert (shared.share, shared.accumulation) == (6, 2)


@pytest.mark.slow
def test_workers_change_nothing(index):
    options = {"transform": Transform(SIZE, augment=Augmentation()), "micro": 3}
    alone = islice(made(index, **options)(4), 7)
    helped = islice(made(index, workers=2, **options)(4), 7)
    assert all(equal(*pair) for pair in zip(alone, helped, strict=True))


def test_nothing_is_drawn_from_the_run_s_own_random_numbers(index):
    state = torch.get_rng_state()
    list(islice(made(index)(0), 3))
    assert torch.equal(torch.get_rng_state(), state)


def test_once_is_each_caption_in_order(index):
    found = list(made(index).once())
    n = index.count("train")
    samples = [index.sample("train", i) for i in range(n)]
    assert [image for batch in found for image in batch.images] == [s.image for s in samples]
    parts = [list(made(index, rank=r, world=2).once()) for r in range(2)]
    assert rows(parts[0]) + rows(parts[1]) == rows(found)
    # For a validation nothing is augmented.
    changed = made(index, transform=Transform(SIZE, augment=Augmentation()))
    assert all(map(equal, changed.once(), found))


def test_a_batch_of_broken_pictures_alone_is_not_left_empty(folder, tmp_path):
    source = tmp_path / "set"
    narratives(source, 12)
    with open_index(source, tmp_path / "index.sqlite", tokenizer=TOKENIZER) as index:
        n = index.count("train")
        names = [index.sample("train", i).place.path for i in range(n)]
        for name in names[:-1]:
            put(Path(name), b"broken")
        batches = made(index, batch=2)
        for batch in islice(batches(0), 3 * n):
            assert set(batch.images) == {index.sample("train", n - 1).image}
            assert {fault.kind for fault in batch.skipped} <= {"corrupt"}
        put(Path(names[-1]), b"")
        with pytest.raises(ValueError, match=r"none of 102 pictures in a row .*data check"):
            next(batches(0))


def test_what_cannot_be_shared_out_is_refused(index):
    with pytest.raises(ValueError, match="make it a multiple"):
        made(index, world=4)
    with pytest.raises(ValueError, match="wanted 1 or more captions"):
        made(index, micro=0)


# ---- transforms ----------------------------------------------------------------------------------


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_clip_s_and_the_article_s_transform():
    image = noise(50, 30)
    assert np.array_equal(Transform(16)(image), resize_and_crop(image, 16))
    squashed = np.array(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(Transform(16, "squash")(image), squashed)
    with pytest.raises(ValueError, match="choose of"):
        Transform(16, "crop")


def test_padding_loses_nothing_and_adds_clip_s_mean():
    red = Image.new("RGB", (40, 20), (255, 0, 0))
    found = pad(red, 16)
    assert found.shape == (16, 16, 3)
    assert (found[4:12] == (255, 0, 0)).all()
    around = np.concatenate([found[:4], found[12:]])
    assert (around == [round(255 * mean) for mean in MEAN]).all()
    assert (pad(Image.new("RGB", (1, 500), "red"), 16) == (255, 0, 0)).all(-1).sum() == 16


def test_augmentation_is_a_function_of_its_seed():
    transform, image = Transform(16, augment=Augmentation()), noise(60, 40)
    plain = transform(image)
    assert np.array_equal(plain, Transform(16)(image))
    turns = [(0, *Turn(epoch, position)) for epoch in range(3) for position in range(3)]
    found = [transform(image, turn).tobytes() for turn in turns]
    assert found == [transform(image, turn).tobytes() for turn in turns]
    assert len({*found, plain.tobytes()}) == 10


def test_augmentation_never_mirrors_and_stays_gentle():
    """Left stays left: captions say so. Brightness stays within a fifth, contrast too."""
    image = Image.new("RGB", (60, 40), (200, 60, 60))
    image.paste((60, 60, 200), (30, 0, 60, 40))
    augment = Augmentation()
    for seed in range(60):
        found = np.asarray(augment(image, np.random.default_rng(seed)), dtype=int)
        assert (found[:, :20, 0] > found[:, :20, 2]).all()
        assert (found[:, -20:, 0] < found[:, -20:, 2]).all()
        assert found.shape[0] * found.shape[1] >= 0.75 * 60 * 40
    tiny = augment(Image.new("RGB", (1, 1)), np.random.default_rng(0))
    assert tiny.size == (1, 1)
    with pytest.raises(ValueError, match="wanted 0 < crop"):
        Augmentation(crop=0)
