"""Decoding of image files: the one reader of training, evaluation, prediction and drawing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class UnreadableImage(UserError):
    """An image's file is missing, truncated or not an image; the message is one line that names the file."""


def read_image(path: str | Path, *, reduce: int = 1, truncated: bool = False) -> Image:
    """Decode a file to uint8 BGR [h, w, 3], turned as its EXIF orientation says; gray, alpha and 16 bits become that too.

    reduce: 1, 2, 4 or 8, the image comes so many times smaller, which a JPEG decoder does faster than a whole one.
    truncated: whether a JPEG or PNG that ends early is taken, with gray where it is missing. Raises UnreadableImage.
    """
    try:
        data = Path(path).read_bytes()  # unlike imread this takes any file name on any system
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot read the image ({error.strerror or error})") from None
    if not truncated and is_truncated(data):
        raise UnreadableImage(f"{path}: the file is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce]) if data else None
    except cv2.error as error:
        raise UnreadableImage(f"{path}: cannot read the image ({error.err})") from None
    if image is None:
        raise UnreadableImage(f"{path}: not a readable image ({len(data)} bytes); damaged or of another format")
    return image  # type: ignore[return-value]  # OpenCV's stubs lack the dtype


def is_jpeg(data: bytes) -> bool:
    """Whether a file's bytes begin as a JPEG's."""
    return data.startswith(_JPEG)


def is_truncated(data: bytes) -> bool:
    """No end after the last scan. Within JPEG scans 0xff is escaped, so that a marker found is a marker."""
    if is_jpeg(data):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(_PNG) and b"IEND" not in data[-4096:]
