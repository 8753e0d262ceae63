"""The joined model: what predicts what, what padding may not change, what is saved."""

import json
from typing import get_args

import pytest
import torch
from helpers import grad
from PIL import Image
from small_captioners import VISION, batch, small_captioner

from captioning.config import CaptionerConfig
from captioning.data.transforms import Transform
from captioning.model import join, load_captioner
from captioning.scenes.batches import captions
from captioning.scenes.draw import draw
from connector.config import ConnectorConfig, ReducerConfig, ResizeMode, VisionConfig
from connector.preprocess import normalise
from gpt2_scratch.config import GPT2Config
from gpt2_scratch.tokenizer import BPETokenizer

VOCABULARY = 300


def config(reducer=None, **changes):
    return CaptionerConfig(
        VisionConfig(
            image_size=28, patch_size=7, width=24, layers=2, heads=2, quick_gelu=True, projection=8
        ),
        ConnectorConfig(
            vision_width=24,
            depth=2,
            patches=16,
            out=20,
            reducer=reducer or ReducerConfig(kind="article", strides=(2, 2)),
        ),
        GPT2Config(n_vocab=VOCABULARY, n_ctx=40, n_embd=20, n_head=2, n_layer=2),
        tokenizer="bpe",
        max_new_tokens=12,
        **changes,
    )


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(captions(0, 0, 50), VOCABULARY)


@pytest.fixture
def captioner(tokenizer):
    torch.manual_seed(3)
    model = join(config(), tokenizer)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def pictures():
    return [draw(seed).image for seed in range(4)]


def test_the_last_image_position_predicts_the_first_token(captioner):
    captioner.double()
    pixels = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    ids = torch.tensor([[7, 8, 9]])
    total, count = captioner.loss_sum(pixels, ids, torch.tensor([3]))
    image = captioner.image_tokens(pixels)
    n = image.shape[1]
    assert n == 5  # 17 -> 9 -> 5
    logits = captioner.gpt2.forward_embeddings(torch.cat([image, captioner.gpt2.embed(ids)], 1))
    rows = logits[0].float().log_softmax(-1)
    expected = -(rows[n - 1, 7] + rows[n, 8] + rows[n + 1, 9])
    assert int(count) == 3
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)  # logits go as float32


def test_padding_is_masked_by_length_whatever_its_id(captioner, tokenizer):
    captioner.double()
    pixels = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    ids = torch.tensor([[5, 6, tokenizer.end, 0, 0], [5, 6, 7, 8, tokenizer.end]])
    lengths = torch.tensor([3, 5])
    total, count = captioner.loss_sum(pixels, ids, lengths)
    other = ids.clone()
    other[0, 3:] = tokenizer.end  # the end token as padding, and no loss on it
    assert torch.equal(captioner.loss_sum(pixels, other, lengths)[0], total)
    assert int(count) == 8
    alone = [
        captioner.loss_sum(pixels[i : i + 1], ids[i : i + 1, :n], lengths[i : i + 1])[0]
        for i, n in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(total, sum(alone), rtol=1e-6, atol=0)  # summed in float32


def test_the_end_token_has_a_loss(captioner, tokenizer):
    pixels = torch.randn(1, 3, 28, 28)
    ids = torch.tensor([[5, 6, tokenizer.end]])
    with_end, count = captioner.loss_sum(pixels, ids, torch.tensor([3]))
    without, fewer = captioner.loss_sum(pixels, ids[:, :2], torch.tensor([2]))
    assert (int(count), int(fewer)) == (3, 2)
    assert with_end > without


def test_the_picture_matters(captioner):
    pixels = torch.randn(2, 3, 28, 28)
    ids = torch.tensor([[5, 6, 7]])
    one, two = (captioner.loss_sum(p[None], ids, torch.tensor([3]))[0] for p in pixels)
    assert (one - two).abs() > 1e-3


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_equals_its_pictures_one_by_one(captioner, pictures, beams):
    together = captioner.describe(pictures, beams=beams)
    alone = [captioner.describe([picture], beams=beams)[0] for picture in pictures]
    assert [c.text for c in together] == [c.text for c in alone]
    assert len({c.text for c in together}) > 1
    for a, b in zip(together, alone, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)  # float32 rounding, other shapes


def test_caption_is_describes_text_and_nothing_for_nothing(captioner, pictures):
    assert captioner.caption(pictures) == [c.text for c in captioner.describe(pictures)]
    assert captioner.caption([]) == []


def test_a_seeded_generator_repeats_its_captions(captioner, pictures):
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return captioner.caption(pictures, temperature=1.0, top_k=50, generator=generator)

    assert sample(1) == sample(1) != sample(2)


def test_beams_and_sampling_exclude_each_other(captioner, pictures):
    with pytest.raises(ValueError, match="beams=3 came with sampling options"):
        captioner.caption(pictures, beams=3, temperature=0.7)


def test_save_and_load_give_the_same_captioner(captioner, pictures, tmp_path):
    captioner.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    loaded = load_captioner(tmp_path)
    assert not loaded.training
    assert loaded.config == captioner.config
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.caption(pictures) == captioner.caption(pictures)


@pytest.mark.parametrize("kind", [ReducerConfig(kind="pool", window=2), ReducerConfig(kind="none")])
def test_every_reducer_survives_the_folder(tokenizer, tmp_path, kind):
    join(config(kind), tokenizer).save(tmp_path)
    assert load_captioner(tmp_path).config.connector.reducer == kind


def test_a_damaged_folder_loads_nothing_and_says_why(captioner, tmp_path):
    captioner.save(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    del held["gpt2"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="is not a captioner's"):
        load_captioner(tmp_path)
    with pytest.raises(FileNotFoundError, match="needed: config"):
        load_captioner(tmp_path / "nowhere")


def test_parts_that_do_not_fit_are_refused():
    whole = config()
    with pytest.raises(ValueError, match=r"connector.depth=2 does not meet vision.layers=3"):
        CaptionerConfig(
            VisionConfig(
                image_size=28,
                patch_size=7,
                width=24,
                layers=3,
                heads=2,
                quick_gelu=True,
                projection=8,
            ),
            whole.connector,
            whole.gpt2,
        )
    with pytest.raises(ValueError, match="do not fit into n_ctx=40"):
        CaptionerConfig(whole.vision, whole.connector, whole.gpt2, max_new_tokens=36)


def test_uncalibrated_familiarity_refuses_nothing(captioner):
    said = captioner.describe([Image.new("RGB", (40, 30), (9, 200, 90))])[0]
    assert (said.familiarity, said.familiar) == (0.5, True)


# ---- from kept features --------------------------------------------------------------------------

WAYS = [("article", ReducerConfig(strides=(2, 2))), ("last", ReducerConfig(strides=(2, 2)))]
WAYS += [("article", ReducerConfig(strides=(3, 2), kernels=(2, 1)))]
WAYS += [("dci", ReducerConfig(kind="pool")), ("sci", ReducerConfig(kind="conv", strides=(3, 2)))]
WAYS += [("sti", ReducerConfig(kind="none"))]


@pytest.mark.parametrize(("variant", "reducer"), WAYS)
def test_kept_features_give_the_live_tokens_loss_and_gradients(variant, reducer):
    model = small_captioner(variant, reducer=reducer).double()
    pixels, ids, lengths = batch(model)
    pixels = pixels.double()
    features = model.connector.features(model.hidden_states(pixels)).detach()
    picks = reducer.kind == "article" and reducer.kernels == (1, 1)
    kept = model.connector.tokens if picks else model.config.connector.tokens_in
    assert features.shape == (3, kept, model.config.connector.features)
    found = []
    for loss_of, seen in ((model.loss_sum, pixels), (model.loss_sum_of_features, features)):
        model.zero_grad()
        total, count = loss_of(seen, ids, lengths)
        total.backward()
        trained = [item for item in model.named_parameters() if not item[0].startswith("vision.")]
        found.append((total, count, {name: grad(p).clone() for name, p in trained}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    tokens = model.tokens_from_features(features)
    torch.testing.assert_close(tokens, model.image_tokens(pixels), rtol=1e-10, atol=1e-12)
    assert model.say(tokens) == model.say(model.image_tokens(pixels))


def test_kept_features_may_be_narrower_than_the_model(captioner, pictures):
    """float16 from the disk: what is left of the difference is its rounding, 2^-11."""
    pixels = captioner.pixels(pictures)
    tokens = captioner.image_tokens(pixels)
    half = captioner.connector.features(captioner.hidden_states(pixels)).half()
    found = captioner.tokens_from_features(half)
    assert found.dtype == torch.float32
    far = (found - tokens).abs().max() / tokens.abs().max()
    others = (tokens.roll(1, 0) - tokens).abs().max() / tokens.abs().max()
    assert far < 2**-9 < others / 10


# ---- the three ways to a square ------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["clip", "squash", "pad"])
def test_a_captioner_sees_as_its_config_says(resize):
    model = small_captioner(resize=resize)
    image = draw(0).image.resize((60, 40))
    wanted = normalise(
        torch.from_numpy(Transform(VISION.image_size, resize)(image)).permute(2, 0, 1)
    )
    assert torch.equal(model.pixels([image])[0], wanted)
    others = [small_captioner(resize=other).pixels([image]) for other in get_args(ResizeMode)]
    assert sum(torch.equal(other[0], wanted) for other in others) == 1


def test_another_way_to_a_square_is_refused():
    with pytest.raises(ValueError, match=r"resize='crop': choose of .*'pad'"):
        config(resize="crop")
