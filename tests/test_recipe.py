"""The recipe of the embedded model: its batches, its CLIP, its familiarity, a whole small run."""

import itertools
import math
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from captioning import evaluate
from captioning.familiarity import Familiarity, statistics
from captioning.scenes import batches as scene_data
from captioning.scenes import calibrate, recipe, unfamiliar
from captioning.scenes.closeups import CLOSE_UPS, CloseUps, window
from captioning.scenes.contrast import Contrast, place_patches
from captioning.scenes.draw import draw_alone
from captioning.scenes.facts import SHAPES, read_facts
from connector.config import VisionConfig
from connector.vision import ClipVision
from gpt2_scratch.tokenizer import BPETokenizer
from weights.store import write_json

CONFIG = recipe.stage(steps=5, batch=4)


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(scene_data.captions(0, 0, 200), 330)


def test_no_purpose_draws_anothers_scenes():
    purposes = [
        scene_data.TRAINING,
        evaluate.HELD_OUT,
        scene_data.CAPTIONS,
        unfamiliar.UNFAMILIAR,
        calibrate.CALIBRATION,
        CLOSE_UPS,
    ]
    assert len(set(purposes)) == len(purposes)


def test_the_card_sets_reducers_of_one_folder_side_by_side(tmp_path):
    made = recipe.Recipe(out=tmp_path)
    write_json(made.figures("pool"), {"facts_f1": 0.98765, "exact_match": 0.9})
    assert recipe.compared(made) == ""
    write_json(made.figures("article"), {"facts_f1": 0.9, "exact_match": 0.54321})
    told = recipe.compared(made)
    assert "| pool | 0.9877 | 0.9000 |" in told and "| article | 0.9000 | 0.5432 |" in told
    assert "(37)" in told


def test_a_batch_is_a_function_of_its_step(tokenizer):
    scenes = scene_data.Scenes(tokenizer, 24, CONFIG, climb=0.5)
    whole = list(scene_data.scene_batches(scenes, CONFIG, 0, step=0))
    later = list(scene_data.scene_batches(scenes, CONFIG, 0, step=3))
    assert len(whole) == 5 and len(later) == 2
    for a, b in zip(whole[3:], later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(whole[0].pixels, whole[1].pixels)


def test_workers_change_nothing_and_leave_the_runs_random_state(tokenizer):
    scenes = scene_data.Scenes(tokenizer, 24, CONFIG, climb=0.5)
    before = torch.get_rng_state()
    with_worker = next(scene_data.scene_batches(scenes, CONFIG, 1, step=2))
    assert torch.equal(torch.get_rng_state(), before)
    without = next(scene_data.scene_batches(scenes, CONFIG, 0, step=2))
    assert all(torch.equal(x, y) for x, y in zip(with_worker, without, strict=True))


def test_a_signal_to_the_group_leaves_the_worker_to_the_run(tokenizer):
    config = recipe.stage(steps=60, batch=4)  # more than a worker has ready
    scenes = scene_data.Scenes(tokenizer, 24, config, climb=0.5)
    batches = scene_data.scene_batches(scenes, config, 1, step=0)
    next(batches)
    [worker] = multiprocessing.active_children()
    for ending in (signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, ending)
    assert sum(1 for _ in batches) == 59


def test_a_batch_holds_pixels_captions_and_one_end_token_each(tokenizer):
    scenes = scene_data.Scenes(tokenizer, 24, CONFIG, climb=0.5)
    batch = next(scene_data.scene_batches(scenes, CONFIG, 0, step=4))
    assert batch.pixels.shape == (4, 3, 24, 24) and batch.pixels.dtype == torch.float32
    for ids, length in zip(batch.ids.tolist(), batch.lengths.tolist(), strict=True):
        assert ids[:length].count(tokenizer.end) == 1 and ids[length - 1] == tokenizer.end
        facts, background = read_facts(tokenizer.decode(ids[: length - 1]))
        assert facts and background


def test_scenes_climb_from_one_object_to_four(tokenizer):
    config = recipe.stage(steps=50, batch=8)
    scenes = scene_data.Scenes(tokenizer, 24, config, climb=0.5)
    assert [scenes.most(i) for i in (0, 49, 50, 100, 150, 399)] == [1, 1, 2, 3, 4, 4]
    for index in (3, 60, 120, 300):
        _, ids = scenes[index]
        facts, _ = read_facts(tokenizer.decode(ids[:-1]))
        assert len(facts) <= scenes.most(index)


def test_caption_windows_fill_every_position_and_go_on_from_any_step(tokenizer):
    first = list(itertools.islice(scene_data.caption_windows(tokenizer, CONFIG, 64, 0), 3))
    second = next(scene_data.caption_windows(tokenizer, CONFIG, 64, 2))
    assert first[0].shape == (4, 65) and torch.equal(first[2], second)
    assert (first[0][:, 0] == tokenizer.end).all()
    assert (torch.cat(first)[:, 1:] == tokenizer.end).any()  # one caption, and on to the next


SMALL = VisionConfig(
    image_size=24, patch_size=4, width=16, layers=1, heads=2, quick_gelu=True, projection=8
)


@pytest.fixture
def close_ups(tokenizer):
    config = recipe.stage(steps=5, batch=12)
    scenes = CloseUps(tokenizer, SMALL, config)
    return next(scene_data.scene_batches(scenes, config, 0, step=2))


def small_contrast():
    torch.manual_seed(0)
    return Contrast(ClipVision(SMALL), 330).eval()


def test_six_close_ups_in_a_row_differ_in_their_shape_alone(tokenizer, close_ups):
    said = [
        read_facts(tokenizer.decode(ids[: length - 1]))
        for ids, length in zip(close_ups.ids.tolist(), close_ups.lengths.tolist(), strict=True)
    ]
    for kin in (said[:6], said[6:]):
        facts, backgrounds = zip(*kin, strict=True)
        assert [len(objects) for objects in facts] == [1] * 6 and len(set(backgrounds)) == 1
        looks = [(size, colour, place) for ((size, colour, _, place),) in facts]
        assert len(set(looks)) == 1
        assert {objects[0][2] for objects in facts} == set(SHAPES)
    assert said[0][0] != said[6][0]
    assert len({picture.numpy().tobytes() for picture in close_ups.pixels}) == 12


@pytest.mark.parametrize("grid", [5, 12])
def test_a_window_is_a_square_of_patches_around_the_whole_object(grid):
    side, seen = (grid + 1) // 2, set()
    for seed in range(60):
        _, item = draw_alone((7, seed), SHAPES[seed % 6], 24)
        rows, columns = np.divmod(window(item, grid, np.random.default_rng(seed)), grid)
        assert len(rows) == side**2 and len(set(rows)) == len(set(columns)) == side
        for centre, patches in ((item.y, rows), (item.x, columns)):
            assert patches.min() >= 0 and patches.max() - patches.min() == side - 1 < grid
            # Outlines that reach further on one side than on the other may lose a tenth there.
            slack = 0.1 * item.diameter
            assert patches.min() / grid <= centre - item.diameter / 2 + slack
            assert (patches.max() + 1) / grid >= centre + item.diameter / 2 - slack
            seen.add(int(patches.min()))
    assert seen == set(range(grid - side + 1))


def test_the_tower_sees_the_patches_of_the_window_and_no_others(close_ups):
    model = small_contrast()
    before = model.similarities(close_ups)
    grid = torch.zeros(12, SMALL.patches, dtype=torch.bool).scatter(1, close_ups.patches, True)
    shown = grid.view(12, 1, 6, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    elsewhere = torch.where(shown, close_ups.pixels, torch.tensor(3.0))
    assert not torch.equal(elsewhere, close_ups.pixels)
    torch.testing.assert_close(model.similarities(close_ups._replace(pixels=elsewhere)), before)
    inside = torch.where(shown, torch.tensor(3.0), close_ups.pixels)
    assert (model.similarities(close_ups._replace(pixels=inside)) - before).abs().max() > 1e-2


def test_the_contrastive_loss_is_clips(close_ups):
    model = small_contrast()
    total, count = model.loss_sum(close_ups)
    scores = model.similarities(close_ups).double()
    rows = scores.log_softmax(1).diagonal().sum() + scores.log_softmax(0).diagonal().sum()
    assert count == 24
    torch.testing.assert_close(total.double(), -rows, rtol=1e-5, atol=0)  # float32 inside
    assert scores.abs().max() <= 1 / 0.07 + 1e-4  # cosines by the first scale


def test_a_caption_is_read_to_its_own_end(close_ups):
    model = small_contrast()
    ids = close_ups.ids.clone()
    ids[torch.arange(ids.shape[1]) >= close_ups.lengths[:, None]] = 7  # other padding
    changed = close_ups._replace(ids=ids)
    assert not torch.equal(ids, close_ups.ids)
    torch.testing.assert_close(model.similarities(close_ups), model.similarities(changed))


def test_neighbouring_patches_start_with_similar_positions():
    vision = ClipVision(recipe.VISION)
    place_patches(vision, 0.3)
    table = vision.positional_embedding[1:].detach()
    grid = recipe.VISION.grid
    cosines = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1)
    middle = (grid // 2) * grid + grid // 2
    near = cosines[middle, [middle + 1, middle - 1, middle + grid, middle - grid]]
    far = cosines[middle, [0, grid - 1, grid * (grid - 1), grid * grid - 1]]
    assert near.min() > far.max() + 0.3
    assert len({tuple(row) for row in table.tolist()}) == grid * grid
    assert table.std().item() == pytest.approx(0.3 / math.sqrt(2), rel=0.2)


def test_familiarity_is_a_mahalanobis_distance():
    rng = np.random.default_rng(0)
    states = [torch.from_numpy(rng.normal(size=(400, 6, 3))).float() for _ in range(2)]
    known = statistics(states)
    assert known.shape == (400, 12)
    torch.testing.assert_close(known[:, :3], states[0][:, 1:].mean(1))
    torch.testing.assert_close(known[:, 9:], states[1][:, 1:].std(1))
    familiarity = Familiarity(3)
    familiarity.fit(known)
    got = familiarity.distance(known[:5])
    covariance = np.cov(known.numpy().T.astype(np.float64))
    covariance += 1e-3 * covariance.diagonal().mean() * np.eye(12)
    away = known[:5].numpy() - known.numpy().mean(0)
    expected = np.log(np.einsum("bi,ij,bj->b", away, np.linalg.inv(covariance), away) / 12)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-3)  # float32 buffers


def test_unfamiliar_pictures_are_of_every_kind_and_repeatable():
    n = len(unfamiliar.KINDS)
    pictures = [unfamiliar.unfamiliar(0, i, 48) for i in range(2 * n)]
    assert all(p.mode == "RGB" and p.size == (48, 48) for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 2 * n
    assert unfamiliar.unfamiliar(0, 3, 48).tobytes() == pictures[3].tobytes()


def test_an_unknown_reducer_is_refused():
    with pytest.raises(ValueError, match="No reducer 'none' in the recipe"):
        recipe.run(recipe.Recipe(reducer="none"))


@pytest.mark.slow
def test_a_small_run_interrupted_in_each_stage_ends_like_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "HELD_OUT_SCENES", 4)
    monkeypatch.setattr(recipe, "calibrate", lambda captioner: calibrate.calibrate(captioner, 30))

    def small(folder):
        stages = [
            recipe.stage(3, 4),
            recipe.stage(3, 6),
            recipe.stage(4, 4),
        ]
        for number, config in enumerate(stages):  # a checkpoint after every step
            stages[number] = type(config)(**{**vars(config), "checkpoint_seconds": 0})
        return recipe.Recipe(folder, "pool", *stages, workers=0)

    whole = recipe.run(small(tmp_path / "whole"))
    step = recipe.train.__globals__["train_step"]
    for stop in (2, 4, 6):  # in stages 1, 2 and 3; each start goes on where the last one stopped
        calls = itertools.count(1)

        def interrupted(*arguments, calls=calls, stop=stop):
            if next(calls) == min(stop, 3):
                raise KeyboardInterrupt
            return step(*arguments)

        monkeypatch.setitem(recipe.train.__globals__, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(small(tmp_path / "cut"))
    monkeypatch.setitem(recipe.train.__globals__, "train_step", step)
    resumed = recipe.run(small(tmp_path / "cut"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert (tmp_path / "cut" / "scenes-pool" / "README.md").read_text().startswith("# scenes")
