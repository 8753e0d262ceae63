"""CLIP's transform against open_clip's (torchvision on Pillow) and transformers' processors.

The two libraries contradict each other on where the centre is: with an odd margin torchvision
rounds its half to even, transformers down. CLIP was trained with torchvision, and so is ours.
"""

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import Resize
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from connector.preprocess import DEVIATION, MEAN, normalise, preprocess, resize_and_crop

SIZE = 224
SMALL = 28  # where a library would hold a 1 x 5000 strip enlarged 336 times


def open_clip(image: Image.Image, size: int) -> np.ndarray:
    transform = image_transform(
        size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic"
    )
    return (transform(image) * 255).round().permute(1, 2, 0).numpy().astype(int)


def transformers(kind: type, image: Image.Image, size: int) -> np.ndarray:
    processor = kind(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_normalize=False,
        do_rescale=False,
    )
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    return np.asarray(pixels).transpose(1, 2, 0).astype(int)


def margin(image: Image.Image, size: int) -> int:
    """Pixels of the resized long side that the crop leaves out."""
    return int(size * max(image.size) / min(image.size)) - size


def same_region(
    ours: np.ndarray, theirs: np.ndarray, image: Image.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Ours and transformers' without the row or column that only one of the two has."""
    if margin(image, len(ours)) % 4 != 3:  # an odd margin whose half is rounded up to even
        return ours, theirs
    return (ours[:, :-1], theirs[:, 1:]) if image.width > image.height else (ours[:-1], theirs[1:])


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photographs(shared) -> list[Image.Image]:
    folders = (shared / "data" / "photos_coco", shared / "data" / "photos_misc")
    paths = sorted(p for f in folders for p in f.iterdir() if p.suffix in (".jpg", ".png", ".jpeg"))
    images = [Image.open(path).convert("RGB") for path in paths]
    assert len(images) == 180
    return images


# --- the same pixels ------------------------------------------------------------------------------


def check(image: Image.Image, size: int) -> None:
    ours = resize_and_crop(image, size).astype(int)
    assert ours.shape == (size, size, 3)
    # The same resize by the same library, so that most are equal to the bit.
    assert np.abs(ours - open_clip(image, size)).max() <= 1
    a, b = same_region(ours, transformers(CLIPImageProcessorPil, image, size), image)
    assert np.abs(a - b).max() <= 1
    # Torchvision's resize of tensors is an approximation of Pillow's: 2 off on a few pixels, also
    # between transformers' own two processors.
    a, b = same_region(ours, transformers(CLIPImageProcessor, image, size), image)
    gap = np.abs(a - b)
    assert gap.max() <= 2 and (gap > 1).mean() < 1e-4


@pytest.mark.parametrize("size", [224, 336])
def test_photographs(photographs, size):
    for image in photographs:
        check(image, size)


@pytest.mark.parametrize("odd", [0, 1, 2, 3])
@pytest.mark.parametrize("portrait", [True, False])
def test_every_rounding_of_the_centre(odd, portrait):
    long = 56 + odd
    image = noise(28, long) if portrait else noise(long, 28)
    assert margin(image, 28) % 4 == odd
    check(image, 28)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1, 500, SMALL),
        (500, 1, SMALL),
        (1, 5000, SMALL),
        (5000, 1, SMALL),
        (1, 1, SIZE),
        (5000, 40, SIZE),
        (40, 5000, SIZE),
        (5000, 3000, SIZE),
        (80, 220, SMALL),
        (333, 500, 336),
    ],
)
def test_extreme_pictures(width, height, size):
    ours = resize_and_crop(noise(width, height), size).astype(int)
    assert np.abs(ours - open_clip(noise(width, height), size)).max() <= 1
    if width * height < 1_000_000:
        check(noise(width, height), size)


@pytest.mark.parametrize(("width", "height"), [(1, 3000), (3000, 1), (5000, 13), (13, 5000)])
def test_the_way_around_a_giant_strip_gives_the_same(monkeypatch, width, height):
    image = noise(width, height)
    monkeypatch.setattr("connector.preprocess.WHOLE", 0)
    off = np.abs(resize_and_crop(image, 96).astype(int) - open_clip(image, 96))
    # Where a part begins is a float32 to Pillow, and each of two passes gives whole numbers.
    assert off.max() <= 2
    assert off.mean() < 0.01  # of 255


def test_a_giant_strip_is_never_held(monkeypatch):
    """1 x 5000 at 336: whole it would be 564,480,000 pixels."""
    made = []
    resize = Image.Image.resize

    def watched(image, size, *rest, **more):
        made.append(size[0] * size[1])
        return resize(image, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", watched)
    for image in (noise(1, 5000), noise(5000, 1), noise(1, 2_000_000), noise(2_000_000, 1)):
        pixels = resize_and_crop(image, 336)
        assert pixels.shape == (336, 336, 3)
    assert made and max(made) == 336 * 336


def test_squash_is_torchvisions_resize():
    for image in (noise(50, 31), noise(31, 400), noise(1, 5000)):
        wanted = np.array(Resize((SIZE, SIZE))(image)).astype(int)
        assert np.abs(resize_and_crop(image, SIZE, "squash").astype(int) - wanted).max() <= 1


def test_squash_keeps_the_borders_that_clip_crops():
    image = Image.new("RGB", (90, 30), "black")
    image.paste("white", (0, 0, 30, 30))
    assert resize_and_crop(image, 30).max() < 30  # the overshoot of bicubic at the edge
    assert resize_and_crop(image, 30, "squash")[:, :9].min() == 255


# --- normalised -----------------------------------------------------------------------------------


def test_a_batch_equals_open_clips(photographs):
    images = photographs[:3]
    transform = image_transform(SIZE, is_train=False, mean=MEAN, std=DEVIATION)
    wanted = torch.stack([transform(image) for image in images])
    got = preprocess(images, SIZE)
    assert got.dtype == torch.float32 and got.shape == (3, 3, SIZE, SIZE)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)  # rounding; one grey level is 1.5e-2


def test_the_constants_are_clips():
    processor = CLIPImageProcessorPil()
    assert tuple(processor.image_mean) == MEAN and tuple(processor.image_std) == DEVIATION


def test_normalise_by_hand():
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    got = normalise(pixels)
    for channel in range(3):
        for column, grey in enumerate((0, 128, 255)):
            wanted = (grey / 255 - MEAN[channel]) / DEVIATION[channel]
            assert got[0, channel, 0, column].item() == pytest.approx(wanted, abs=1e-6)


def test_a_batch_equals_its_rows_and_may_be_empty():
    images = [noise(40, 31), noise(31, 40), noise(28, 28)]
    rows = torch.cat([preprocess([image], SMALL) for image in images])
    assert torch.equal(preprocess(images, SMALL), rows)
    assert preprocess([], SMALL).shape == (0, 3, SMALL, SMALL)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_a_picture_that_is_not_rgb_is_refused(mode):
    with pytest.raises(ValueError, match=rf"mode '{mode}', wanted 'RGB'"):
        preprocess([Image.new(mode, (30, 30))], SMALL)


def test_other_mistakes_are_told():
    with pytest.raises(ValueError, match="0 x 5"):
        resize_and_crop(Image.new("RGB", (0, 5)), SMALL)
    with pytest.raises(ValueError, match=r"must be one of .'clip', 'squash', 'pad'"):
        resize_and_crop(noise(5, 5), SMALL, "stretch")
