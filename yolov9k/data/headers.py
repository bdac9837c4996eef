"""What an image file says of itself before it is decoded: format, size, how it is turned, how many frames it has."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

# Those that Pillow loads first come first. Others that it knows are of no use here, and some of them run other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "DIB", "JPEG2000", "AVIF")
TRUNCATED = "is truncated"
_BARE = frozenset({"BMP", "DIB", "PPM", "TIFF"})  # formats whose pixels may stand in the file as they are
Tile = tuple[str, tuple[int, int, int, int] | None, int, object]
_ORIENTATION, _WIDTH, _HEIGHT, _SUBFILE = 0x0112, 256, 257, 254
_BITS, _SAMPLE_FORMAT = 258, 339
_SAMPLE_KINDS = {2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
_SMALLER_COPY = 0b101  # bits of a TIFF's subfile type: a reduced copy of another frame, or a mask of one


class ImageError(ValueError):
    """What is wrong with an image file: the predicate of a sentence about it, and the remedy."""


class Header(NamedTuple):
    """height, width: pixels once it is turned by its EXIF `orientation` (1 to 8). deep: more than 8 bits a channel."""

    format: str
    height: int
    width: int
    orientation: int
    deep: bool

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width as they are stored, before the image is turned."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def pixel_limit() -> float:
    """Pixels of the largest image that is decoded: Pillow's own limit, twice `PIL.Image.MAX_IMAGE_PIXELS`."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


@contextmanager
def opened(file: IO[bytes]) -> Iterator[Image.Image]:
    """The image that a file holds, not yet decoded. Raises ImageError, also for whatever is raised within.

    The number of pixels is held against `pixel_limit`.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        what = "is not a readable image" if file.seek(0, 2) else "is empty"
        raise ImageError(_unread_tiff(file) or f"{what}; replace or remove it") from None
    except Image.DecompressionBombError:
        raise ImageError(f"has more than {pixel_limit():,} pixels, which are not decoded; cut it into tiles") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, KeyError and zlib.error among it
        raise ImageError(f"cannot be read ({_brief(error)}); replace or remove it") from None


def read_header(image: Image.Image, length: int) -> Header:
    """What an opened file of `length` bytes says. Raises ImageError where that cannot be decoded."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ImageError(_samples(getattr(image, "tag_v2", {})) or "has 32 bits a channel; convert it to 8 or 16")
    if image.format in _BARE and any(_ends_early(tile, length) for tile in _tiles(image)):
        raise ImageError(f"{TRUNCATED}; copy or download it again")
    tags = getattr(image, "tag_v2", None)
    width, height = image.size
    if tags is None:
        orientation = exif_orientation(image.info.get("exif", b""))
    else:  # TIFF; some versions of Pillow have turned `size` already, the tags are as stored
        width, height, orientation = (
            int(tags.get(_WIDTH, width)),
            int(tags.get(_HEIGHT, height)),
            _valid(tags.get(_ORIENTATION)),
        )
    if orientation >= 5:
        width, height = height, width
    return Header(str(image.format), height, width, orientation, _is_deep(image))


def count_frames(image: Image.Image) -> int:
    """How many images a file holds, 1 where the others are thumbnails, reduced copies or previews of the first."""
    if image.format in ("JPEG", "MPO"):
        return 1
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format == "TIFF":
        image.seek(1)
        copy = image.tag_v2.get(_SUBFILE, 0) & _SMALLER_COPY  # type: ignore[attr-defined]
        image.seek(0)
        return 1 if copy else frames
    return frames


def _unread_tiff(file: IO[bytes]) -> str:
    """What a TIFF that Pillow does not know says of its samples; empty where it is none or they are usual ones."""
    try:
        file.seek(0)
        start = file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if start[2:3] != b"\x2b" else start + file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return _samples(tags)
    except Exception:  # no TIFF, or a damaged one
        return ""


def _samples(tags: Mapping[int, Any]) -> str:
    """What is wrong with a TIFF's samples: more than 16 bits, a sign, floating point, complex numbers."""
    bits, kinds = tags.get(_BITS, (1,)), tags.get(_SAMPLE_FORMAT, (1,))
    most = max(bits if isinstance(bits, tuple) else (bits,))
    kind = _SAMPLE_KINDS.get(max(kinds if isinstance(kinds, tuple) else (kinds,)), "")
    if most <= 16 and not kind:
        return ""
    sign = " without a sign" if kind == "signed" else ""
    return f"has {most} bits a channel{kind and f', {kind}'}; convert it to 8 or 16{sign}"


def exif_orientation(data: bytes) -> int:
    """The orientation in an EXIF block, 1 where it holds none.

    Image.getexif() would decode a whole PNG in search of a late chunk and obey XMP, which OpenCV does not.
    """
    exif = Image.Exif()
    try:
        exif.load(data)
        return _valid(exif.get(_ORIENTATION))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1  # damaged EXIF does not make a damaged image


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _is_deep(image: Image.Image) -> bool:
    stored = (arguments if isinstance(arguments, tuple) else (arguments,) for _, _, _, arguments in _tiles(image)[:1])
    return image.mode.startswith("I") or any(deep in str(mode) for mode, *_ in stored for deep in (";16", ";12"))


def _tiles(image: Image.Image) -> list[Tile]:
    """Codec, extents (left, top, right, bottom), place in the file and codec's arguments of each part."""
    return list(getattr(image, "tile", []))


def _ends_early(tile: Tile, length: int) -> bool:
    """Whether bare pixels would reach beyond the file: a few bytes may declare gigabytes. Counts a bit a pixel where unsaid."""
    codec, extents, offset, arguments = tile
    if codec != "raw" or extents is None:
        return False
    least = (extents[2] - extents[0] + 7) // 8
    stated = arguments[1] if isinstance(arguments, tuple) and len(arguments) > 1 else 0
    stride = max(stated if isinstance(stated, int) else 0, least)
    return offset + (extents[3] - extents[1] - 1) * stride + least > length


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:99] + "…"
