"""Decoding of image files: the one reader of training, evaluation, prediction and drawing.

OpenCV decodes what all its versions decode alike, Pillow the rest, and what OpenCV fails on or sees in another size than
the header that the boxes were checked against.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError
from yolov9k.common.files import read_bytes, write_bytes
from yolov9k.data.headers import Header, ImageError, count_frames, opened, read_header

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_TURNED_BY_OPENCV = frozenset({"BMP", "DIB", "JPEG", "MPO", "TIFF"})
_TURNED_HERE = frozenset({"PNG", "WEBP"})  # OpenCV before 5.0 does not turn WebP
_DARK = 16  # levels of 255: the most that 12 bits stored in 16 come to
FRAMES = "holds {} frames, of which the first is used"
NEAR_BLACK = "is near black: its 16 bits a channel hold small values alone; scale them"


class UnreadableImage(UserError):
    """An image's file is missing, truncated or not an image; the message is one line that names the file."""


def read_image(
    path: str | Path,
    *,
    reduce: int = 1,
    truncated: bool = False,
    size: tuple[int, int] | None = None,
    notes: list[str] | None = None,
) -> Image:
    """Decode a file to uint8 BGR [h, w, 3], turned as its EXIF orientation says; gray, alpha and 16 bits become that too.

    reduce: 1, 2, 4 or 8, the image comes so many times smaller, which a JPEG decoder does faster than a whole one.
    truncated: whether a JPEG or PNG that ends early is taken, with gray where it is missing. size: (height, width) that it
    was found to have before, which spares a JPEG its header's reading where that is still so. notes: gets what one should
    know of the image though it can be read. Raises UnreadableImage.
    """
    try:
        data = read_bytes(Path(path))  # unlike imread this takes any file name on any system
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot read the image ({error.strerror or error})") from None
    if not truncated and is_truncated(data):
        raise UnreadableImage(f"{path}: the file is truncated")
    if size is not None and is_jpeg(data):
        image = _by_opencv(data, Header("JPEG", *size, orientation=1, deep=False), reduce)
        if image is not None:
            return image
    return decode_image(data, f"{path}: the file", reduce, notes)


def decode_image(data: bytes, what: str, reduce: int = 1, notes: list[str] | None = None) -> Image:
    """`read_image` of a file's bytes. Raises UnreadableImage, which begins with `what`."""
    try:
        return _read(data, reduce, notes)
    except ImageError as error:
        raise UnreadableImage(f"{what} {error}") from None


def is_jpeg(data: bytes) -> bool:
    """Whether a file's bytes begin as a JPEG's."""
    return data.startswith(_JPEG)


def is_truncated(data: bytes) -> bool:
    """No end after the last scan. Within JPEG scans 0xff is escaped, so that a marker found is a marker."""
    if is_jpeg(data):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data[-4096:]


def from_pillow(image: PillowImage.Image) -> Image:
    """A Pillow image as uint8 BGR [h, w, 3], not turned. Raises ImageError for 32 bits a channel."""
    if image.mode == "F":
        raise ImageError("has 32 bits a channel; convert it to 8 or 16")
    if image.mode.startswith("I"):
        gray = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, -1)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8)[..., ::-1])


def turned(image: Image, orientation: int) -> Image:
    """An image as it is stored, turned and mirrored as its EXIF orientation, 1 to 8, says."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    rows, columns = (-1 if orientation in which else 1 for which in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(image[::rows, ::columns])


def is_near_black(image: Image) -> bool:
    """Whether an image of 16 bits a channel was made for fewer, such as the 12 of many sensors."""
    return 0 < int(image.max(initial=0)) < _DARK


def _read(data: bytes, reduce: int, notes: list[str] | None) -> Image:
    with opened(io.BytesIO(data)) as pillow:
        header = read_header(pillow, len(data))
        if notes is not None and (frames := count_frames(pillow)) > 1:
            notes.append(FRAMES.format(frames))
        image = _by_opencv(data, header, reduce)
        if image is None:
            image = from_pillow(pillow)
            image = image if header.format == "TIFF" else turned(image, header.orientation)  # Pillow turns TIFF itself
    if notes is not None and header.deep and is_near_black(image):
        notes.append(NEAR_BLACK)
    return image


def _has_vast_chunk(data: bytes) -> bool:
    """Whether a PNG declares a chunk for which OpenCV would take far more memory than the file has bytes."""
    at, most = len(_PNG) + 4, 4 * len(data) + (1 << 24)
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length > most:
            return True
        at += length + 12
    return False


def _by_opencv(data: bytes, header: Header, reduce: int) -> Image | None:
    """None where OpenCV cannot decode it, or not to the size that the header states."""
    if header.format not in _TURNED_BY_OPENCV | _TURNED_HERE or (header.format == "PNG" and _has_vast_chunk(data)):
        return None
    ours = header.format in _TURNED_HERE
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce] | (cv2.IMREAD_IGNORE_ORIENTATION if ours else 0))
    except cv2.error:
        return None
    wanted = header.stored if ours else (header.height, header.width)
    if image is None or any(abs(got * reduce - side) >= reduce for got, side in zip(image.shape, wanted, strict=False)):
        return None
    return turned(image, header.orientation) if ours else image  # type: ignore[return-value, arg-type]  # OpenCV's stubs


def write_image(path: Path, image: Image, suffix: str = "") -> None:
    """Write uint8 BGR [h, w, 3] in the format of `suffix`, else of the path's own, the folder made where it is not there.

    Unlike OpenCV's own writer this takes any file name on any system: OpenCV 5.0 dies of one that is no UTF-8. Raises
    UserError.
    """
    suffix = suffix or path.suffix
    try:
        written, content = cv2.imencode(suffix, image)
    except cv2.error:
        written = False
    if not written:
        raise UserError(f"{path}: OpenCV cannot encode a {suffix} image; name a .jpg or .png")
    write_bytes(path, content.tobytes())
