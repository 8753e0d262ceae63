"""Picture files of every kind end as upright RGB, or as an error that names the file."""

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageOps

from captioning.pictures import MAX_PIXELS, PictureError, list_pictures, open_picture, to_rgb

WIDTH, HEIGHT = 7, 5
# Four corners that tell every turn and mirroring apart.
CORNERS = {(0, 0): "red", (6, 0): "lime", (0, 4): "blue", (6, 4): "white"}


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the four corners of CORNERS, in their order."""
    return [tuple(np.asarray(image)[y, x].tolist()) for x, y in CORNERS]


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "gray")
    for place, colour in CORNERS.items():
        image.putpixel(place, ImageColor.getrgb(colour))
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> Image.Image:
    image.save(path, **options)
    opened = open_picture(path)
    assert (opened.mode, opened.size) == ("RGB", image.size)
    return opened


# ---- formats and modes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp"])
def test_lossless_formats_come_back_exactly(picture, tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {}
    assert np.array_equal(saved(picture, tmp_path / name, **options), picture)


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = Image.linear_gradient("L").convert("RGB")
    opened = saved(smooth, tmp_path / "a.jpg", quality=95)
    # 95 % quality rounds a smooth ramp by 1 or 2 of 255; a wrong channel order or range by 100
    assert np.abs(np.asarray(opened, int) - np.asarray(smooth, int)).max() <= 3


def test_the_content_decides_and_not_the_name(picture, tmp_path):
    picture.save(tmp_path / "photo.jpg", format="PNG")
    assert np.array_equal(open_picture(tmp_path / "photo.jpg"), picture)
    assert np.array_equal(open_picture(str(tmp_path / "photo.jpg")), picture)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_several_frames_the_first(tmp_path, name):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / name) as image:
        assert image.n_frames == 3
    assert set(colours(open_picture(tmp_path / name))) == {(255, 0, 0)}


def test_phones_put_several_pictures_into_one_jpeg(picture, tmp_path):
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture])
    assert open_picture(tmp_path / "a.jpg").size == (WIDTH, HEIGHT)


def test_transparent_is_white(tmp_path):
    clear = Image.new("RGBA", (WIDTH, HEIGHT), (255, 0, 0, 0))
    clear.putpixel((1, 1), (0, 0, 0, 255))
    clear.putpixel((2, 2), (0, 0, 0, 128))
    opened = saved(clear, tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 1)) == (0, 0, 0)
    assert opened.getpixel((2, 2)) == (127, 127, 127)  # 255 x (1 - 128 / 255)


def test_transparent_grey_is_white(tmp_path):
    opened = saved(Image.new("LA", (3, 2), (40, 0)), tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    opened = saved(Image.new("LA", (3, 2), (40, 255)), tmp_path / "b.png")
    assert opened.getpixel((0, 0)) == (40, 40, 40)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_a_colour_that_stands_for_transparent_is_white(tmp_path, mode):
    key = (10, 20, 30) if mode == "RGB" else 5
    image = Image.new(mode, (3, 2), key)
    if mode == "P":
        image.putpalette([0, 0, 0] * 6 + [9, 99, 199])
    image.putpixel((1, 1), (9, 99, 199) if mode == "RGB" else 6)
    opened = saved(image, tmp_path / "a.png", transparency=key)
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    other = {"P": (9, 99, 199), "L": (6, 6, 6), "RGB": (9, 99, 199), "I;16": (0, 0, 0)}
    assert opened.getpixel((1, 1)) == other[mode]


def test_a_palette_with_an_alpha_of_its_own(tmp_path):
    image = Image.new("P", (3, 2), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 1), 1)
    opened = saved(image, tmp_path / "a.png", transparency=bytes([0, 255]))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 1)) == (0, 0, 200)


def test_a_plain_palette_keeps_its_colours(picture, tmp_path):
    image = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert colours(saved(image, tmp_path / "a.gif")) == colours(image.convert("RGB"))


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink
    red, green, blue = saved(image, tmp_path / "a.jpg").getpixel((4, 4))
    assert red > 240 > 15 > max(green, blue)


def test_one_bit(tmp_path):
    image = Image.new("1", (3, 2), 1)
    image.putpixel((0, 0), 0)
    opened = saved(image, tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (0, 0, 0)
    assert opened.getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 257, 25700, 51400, 65535]], dtype=np.uint16)
    opened = saved(Image.fromarray(values), tmp_path / "a.png")
    assert np.asarray(opened)[0, :, 0].tolist() == [0, 0, 1, 100, 200, 255]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_every_mode_of_wide_grey(mode):
    assert to_rgb(Image.new(mode, (3, 2), 25700)).getpixel((1, 1)) == (100, 100, 100)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 0.2, 1, -5], [0, 51, 255, 0]),
        ([0, 51, 255, 300], [0, 51, 255, 255]),
        ([0, np.nan, 255, np.inf], [0, 0, 255, 255]),
        ([1, -3e38, np.nan, 0.4], [255, 0, 0, 102]),
    ],
)
def test_floats(values, wanted):
    image = to_rgb(Image.fromarray(np.array([values], dtype=np.float32)))
    assert np.asarray(image)[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV", "LAB", "PA"])
def test_a_picture_in_hand_of_any_mode(mode):
    image = Image.new(mode, (3, 2))
    opened = to_rgb(image)
    assert (opened.mode, opened.size) == ("RGB", (3, 2))
    opened.putpixel((0, 0), (1, 2, 3))
    assert image.getbbox() is None  # the original stays as it was


# ---- orientation -------------------------------------------------------------------------------

# What each value of the EXIF orientation did to an upright picture, by the standard's table.
TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    halves = np.zeros((16, 32), np.uint8)  # black, with a white top left quarter
    halves[:8, :16] = 255
    upright = Image.fromarray(halves)
    turn = TURNED[orientation]
    lying = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying.save(tmp_path / name, exif=exif, **({"lossless": True} if name == "a.webp" else {}))
    opened = open_picture(tmp_path / name)
    assert np.array_equal(np.asarray(opened)[..., 0] > 127, halves > 127)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
@pytest.mark.parametrize("block", [b"", b"garbage and more", b"MM\0*\xff\xff\xff"])
def test_a_broken_exif_block_costs_nothing(picture, tmp_path, name, block):
    assert saved(picture, tmp_path / name, exif=b"Exif\0\0" + block).size == (WIDTH, HEIGHT)


def test_an_orientation_counts_whatever_else_is_broken(picture, tmp_path):
    entries = struct.pack(">HHII", 0x0111, 2, 12, 26)  # strip offsets, as a text: nonsense
    entries += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(20)
    picture.save(tmp_path / "a.jpg", exif=block)
    with Image.open(tmp_path / "a.jpg") as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)  # Pillow's own gives up
    assert open_picture(tmp_path / "a.jpg").size == (HEIGHT, WIDTH)


# ---- too large ---------------------------------------------------------------------------------


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels: who decodes it will complain about those."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", fields), (b"IDAT", b""), (b"IEND", b"")):
        crc = struct.pack(">I", zlib.crc32(name + body))
        chunks += struct.pack(">I", len(body)) + name + body + crc
    return chunks


def test_the_limit_is_read_in_the_header(tmp_path):
    path = tmp_path / "vast.png"
    path.write_bytes(header_only(20_000, 5_001))
    with pytest.raises(PictureError, match=r"vast\.png has 20000 x 5001 .*at most 100,000,000"):
        open_picture(path)
    path.write_bytes(header_only(20_000, 5_000))
    assert MAX_PIXELS == 20_000 * 5_000
    with pytest.raises(PictureError, match="can't be read"):  # let through, and has no pixels
        open_picture(path)


def test_a_bomb_is_refused_without_a_warning(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(header_only(65_535, 65_535))
    with warnings.catch_warnings(record=True) as caught, pytest.raises(PictureError, match="bomb"):
        warnings.simplefilter("always")
        open_picture(path)
    assert not caught


def test_pillows_own_warning_does_not_leak(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # it warns above, and refuses above 60
    Image.new("RGB", (7, 6)).save(tmp_path / "a.png")
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / "a.png").close()
    assert open_picture(tmp_path / "a.png").size == (7, 6)


def test_the_limit_is_an_argument(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png", limit=35).size == (7, 5)
    with pytest.raises(PictureError, match="at most 34"):
        open_picture(tmp_path / "a.png", limit=34)


# ---- what is no picture ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"Dear diary, today", "something else"),
        (b"\x89PNG\r\n\x1a\n", "can't be read|something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "something else"),
        (b"\xff\xd8\xff\xe0", "can't be read|something else"),
        (b"GIF89a", "can't be read|something else"),
        (b"RIFF\x00\x00\x00\x00WEBP", "can't be read|something else"),
        (b"BM", "can't be read|something else"),
    ],
)
def test_what_is_no_picture_says_so(tmp_path, content, reason):
    path = tmp_path / "thing.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=rf"thing\.png.*({reason}).*wanted a PNG, JPEG"):
        open_picture(path)


def test_other_formats_are_not_opened(picture, tmp_path):
    picture.save(tmp_path / "a.tiff")
    with pytest.raises(PictureError, match="convert it"):
        open_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp"])
def test_cut_off_or_damaged_files_raise_only_picture_errors(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - len(whole) // 5, 1 + len(whole) // 40):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(PictureError, match=name):
            open_picture(tmp_path / name)
    if name in ("a.png", "a.jpg"):  # zeros where a download died in blocks that were reserved
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] + bytes(len(whole)))
        with pytest.raises(PictureError, match=name):
            open_picture(tmp_path / name)
    rng = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 6):
            damaged[position] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            assert open_picture(tmp_path / name).mode == "RGB"
        except PictureError as error:
            assert name in str(error)


def test_a_missing_file_a_folder_and_a_pipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nix\.png is not there.*check the name"):
        open_picture(tmp_path / "nix.png")
    with pytest.raises(PictureError, match="a folder with 0 pictures"):
        open_picture(tmp_path)
    with pytest.raises(PictureError, match="can't be read"):
        open_picture("nul\0byte.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(PictureError, match="pipe"):
            open_picture(tmp_path / "pipe.png")


# ---- folders -----------------------------------------------------------------------------------


def test_folders_are_searched_in_order(tmp_path):
    names = ["b.PNG", "a.jpg", "z/c.webp", "z/deep/d.gif", "e.bmp", "f.jpeg"]
    hidden = [".h.png", "._a.jpg", ".git/i.png", "notes.txt", "png", "g.tiff"]
    for name in names + hidden:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).touch()
    (tmp_path / "empty").mkdir()
    single, folder, empty = tmp_path / "notes.txt", tmp_path / "all", tmp_path / "empty"
    found = list_pictures([single, folder, str(empty), single, tmp_path / "nix"])
    inside = ["a.jpg", "b.PNG", "e.bmp", "f.jpeg", "z/c.webp", "z/deep/d.gif"]
    files = [folder / name for name in inside]
    assert found == [single, *files, empty, single, tmp_path / "nix"]


def test_linked_folders_make_no_circle(picture, tmp_path):
    (tmp_path / "real").mkdir()
    picture.save(tmp_path / "real" / "a.png")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real", target_is_directory=True)
    assert list_pictures([tmp_path / "real"]) == [tmp_path / "real" / "a.png"]


# ---- photographs -------------------------------------------------------------------------------


def test_all_photographs_open(shared):
    paths = list_pictures([shared / "data" / "photos_coco", shared / "data" / "photos_misc"])
    assert len(paths) == 180
    for path in paths:
        image = open_picture(path)
        assert image.mode == "RGB" and min(image.size) > 50, path
