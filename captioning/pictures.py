"""Picture files, opened: whatever lies on the disk comes out as an upright RGB picture, or as an
error that names the file and the reason. Knows nothing of models."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

# By Pillow's names. Named, because Pillow would also try forty other formats, PostScript included.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})

MAX_PIXELS = 100_000_000  # 400 MB once decoded; a 100-megapixel photograph still goes through

# EXIF's eight orientations and what sets them upright; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A file that can't be used as a picture; the message names it and says why."""


def open_picture(path: str | Path, *, limit: int = MAX_PIXELS) -> Image.Image:
    """One file -> an upright RGB picture: PNG, JPEG, WebP, GIF or BMP, the first frame of several.

    More than `limit` pixels are refused from the header, nothing is decoded. Whatever is wrong
    with the file raises PictureError; a file that is not there, FileNotFoundError.
    """
    path = Path(path)
    wanted = "wanted a PNG, JPEG, WebP, GIF or BMP picture"
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)  # complains where the folder may not be read
            count = len(_inside(path))
            raise PictureError(f"{path} is a folder with {count} pictures, {wanted}; name a file.")
        if not stat.S_ISREG(mode):  # a named pipe would wait for ever
            raise PictureError(f"{path} is a pipe or a device, {wanted} file; save it to a file.")
        if path.stat().st_size == 0:
            raise PictureError(f"{path} is empty, {wanted}; get the file again.")
        with warnings.catch_warnings():
            # Pillow warns about size, which `limit` rules, and about damage beside the pixels.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > limit:
                    raise PictureError(
                        f"{path} has {width} x {height} = {width * height:,} pixels, wanted at "
                        f"most {limit:,}; scale it down."
                    )
                image.load()
                if lacks_end(path.read_bytes()):
                    raise OSError("it has no end mark")
                return to_rgb(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there, {wanted}; check the name.") from None
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        message = f"{path} is something else or damaged from the start, {wanted}; convert it."
        raise PictureError(message) from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, twice MAX_IMAGE_PIXELS
        raise PictureError(f"{path} is too large: {error}; scale it down.") from None
    except PermissionError:
        raise PictureError(f"{path} may not be read, {wanted}; change its permissions.") from None
    except Exception as error:  # a damaged file meets any line of a decoder, and any exception
        reason = str(error) or type(error).__name__
        raise PictureError(f"{path} can't be read ({reason}), {wanted}; get it again.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow picture of any mode -> a new upright RGB one.

    What is transparent lies on white. 16-bit grey is scaled to 8 bits; floats count as 0 to 1
    where none is larger, as 0 to 255 else. Colour profiles are not applied.
    """
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def lacks_end(data: bytes) -> bool:
    """Whether these are a PNG's or a JPEG's bytes with no end mark behind its pixels.

    Pillow asks for none: zeros give it pixels too. The mark of a thumbnail before them does not
    count; no pixel looks like one.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xda", b"\xff"):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at < len(data) and data.find(b"\xff\xd9", at) < 0


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """Files and folders -> files, in the order given; what a folder holds comes sorted.

    A folder is searched to its depths for picture extensions; hidden names (`.`) and linked
    folders are passed over. A name that gives no picture stays: opening it will say why.
    """
    pictures: list[Path] = []
    for path in map(Path, paths):
        pictures += (_inside(path) if os.path.isdir(path) else []) or [path]
    return pictures


def _inside(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted, and the folders below that may not be read."""
    found: list[Path] = []

    def keep_unreadable(error: OSError) -> None:
        found.append(Path(error.filename))

    for parent, folders, files in os.walk(folder, onerror=keep_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                found.append(Path(parent, name))
    return sorted(found)


def _upright(image: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF block asks; a block that can't be read asks for nothing.

    Not ImageOps.exif_transpose: that writes the block anew, and fails where any part is damaged.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are fine, and Pillow's parser may raise anything
        turn = None
    return image.copy() if turn is None else image.transpose(turn)


def _grey_8_bits(image: Image.Image) -> np.ndarray:
    """One channel of 16 bits, 32 bits or floats -> uint8; Pillow's own conversion clips at 255."""
    values: np.ndarray = np.nan_to_num(np.asarray(image, dtype=np.float32))
    if image.mode != "F":
        grey = values / 257  # 65535 / 257 = 255
    elif values.max(initial=0) <= 1:
        grey = values.clip(0) * 255
    else:
        grey = values.copy()
    if "transparency" in image.info:  # a PNG may name one grey that stands for "nothing here"
        grey[values == image.info["transparency"]] = 255
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
