"""A picture's bytes, read and decoded from wherever they lie; what is wrong has a name."""

from __future__ import annotations

import io
import os
import struct
import warnings
from dataclasses import dataclass
from hashlib import blake2b

from PIL import Image

from captioning.data.rows import Bad, Place
from captioning.pictures import FORMATS, MAX_PIXELS, lacks_end, to_rgb

MAX_BYTES = 2**29  # of a picture's file; a whole one is in memory while it is decoded


@dataclass(frozen=True)
class Look:
    """What a picture's bytes say: the format is Pillow's name, the digest is of the bytes."""

    format: str
    width: int
    height: int
    length: int
    digest: bytes


def read_bytes(place: Place) -> bytes:
    """The bytes of a picture. Bad where there are none, too many, or fewer than there should be."""
    try:
        with open(place.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size if place.size < 0 else place.size
            if size > MAX_BYTES:
                raise Bad("oversized", f"{place} has {size:,} bytes, at most {MAX_BYTES:,}")
            file.seek(place.offset)
            data = file.read(size)
    except FileNotFoundError:
        raise Bad("missing", f"{place} is not there") from None
    except OSError as error:
        raise Bad("corrupt", f"{place} can't be read ({error.strerror})") from None
    if not data:
        raise Bad("empty picture", f"{place} holds no byte")
    if len(data) < place.size:
        raise Bad("truncated", f"{place} has {len(data):,} of {place.size:,} bytes")
    return data


def open_place(place: Place) -> Image.Image:
    """The upright RGB picture at a place; Bad where there is none."""
    return decode(read_bytes(place), str(place))


def decode(data: bytes, name: str, *, limit: int = MAX_PIXELS) -> Image.Image:
    """Bytes -> an upright RGB picture, as `captioning.pictures.open_picture` makes of a file."""
    with _image(data, name, limit) as image:
        try:
            image.load()
            if lacks_end(data):
                raise OSError("no end mark")
            return to_rgb(image)
        except Exception as error:  # a damaged file meets any line of a decoder
            raise _damage(data, name, error) from None


def look(place: Place, *, whole: bool = True) -> Look:
    """Format, size and hash of a picture; Bad where it has none. `whole` decodes every pixel;
    without it the beginning is looked at, and the end."""
    data = read_bytes(place)
    if whole:
        decode(data, str(place))
    elif lacks_end(data):
        raise Bad("truncated", f"{place}: no end mark")
    with _image(data, str(place), MAX_PIXELS) as image:
        digest = blake2b(data, digest_size=16).digest()
        return Look(image.format or "", image.width, image.height, len(data), digest)


def _image(data: bytes, name: str, limit: int) -> Image.Image:
    """The picture with its header read and its size accepted, nothing decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about size, which `limit` rules
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise Bad("oversized", f"{name}: {error}") from None
        except Exception as error:
            raise _damage(data, name, error) from None
    if image.width * image.height > limit:
        pixels = f"{image.width} x {image.height} = {image.width * image.height:,} pixels"
        raise Bad("oversized", f"{name} has {pixels}, at most {limit:,}")
    return image


def _damage(data: bytes, name: str, error: Exception) -> Bad:
    kind = "truncated" if _breaks_off(data) else "corrupt"
    reason = str(error) or type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = f"no PNG, JPEG, WebP, GIF or BMP picture; it begins with {data[:12]!r}"
    return Bad(kind, f"{name}: {reason}")


def _breaks_off(data: bytes) -> bool:
    """Whether a picture that can't be decoded lacks its format's end."""
    if data[:2] == b"\xff\xd8":
        return lacks_end(data) or not data.rstrip(b"\0").endswith(b"\xff\xd9")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"IEND" not in data[-64:]
    if data[:4] == b"GIF8":
        return not data.endswith(b";")
    if data[:4] == b"RIFF" and len(data) >= 8:
        return struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if data[:2] == b"BM" and len(data) >= 6:
        return struct.unpack("<I", data[2:6])[0] > len(data)
    return False
