"""What a program hands over to be predicted on: paths, arrays, Pillow images, and lists or generators of these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError
from yolov9k.data.headers import ImageError, exif_orientation
from yolov9k.data.images import from_pillow, turned
from yolov9k.engine.predict.sources import Frame, Source, open_source

One = str | Path | Image | PillowImage.Image
_EXPECTED = "expected a path, a Pillow image, or a uint8 array [H, W, 3] in BGR or [H, W] in gray"


def frames_of(source: One | Source | Iterable[One]) -> Iterable[Frame]:
    """Frames of a source, each item of an iterable read when its turn comes. Raises UserError for what is none of these."""
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, Path)):
        return open_source(source)
    if isinstance(source, PillowImage.Image) or (isinstance(source, np.ndarray) and source.ndim < 4):
        return [_frame(0, source)]
    if not isinstance(source, Iterable):
        raise UserError(f"image: {_EXPECTED}, or a list of these; got {_kind(source)}")
    return _each(source)


def _each(items: Iterable[Any]) -> Iterator[Frame]:
    for number, item in enumerate(items):
        if isinstance(item, (str, Path)):
            yield from open_source(item)
        else:
            yield _frame(number, item)


def _frame(number: int, item: Any) -> Frame:
    if isinstance(item, PillowImage.Image):
        return Frame(Path(f"image{number}"), _from_pillow(number, item))
    if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim not in (2, 3):
        raise UserError(f"image: {_EXPECTED}; got {_kind(item)}")
    if not item.size:
        raise UserError(f"image: the array is empty, its shape is {list(item.shape)}")
    if item.ndim == 2 or item.shape[2] == 1:
        return Frame(Path(f"image{number}"), np.repeat(item.reshape(*item.shape[:2], 1), 3, -1))
    if item.shape[2] not in (3, 4):
        raise UserError(f"image: {_EXPECTED}; got {_kind(item)}")
    return Frame(Path(f"image{number}"), item if item.shape[2] == 3 else np.asarray(cv2.cvtColor(item, cv2.COLOR_BGRA2BGR)))


def _from_pillow(number: int, image: PillowImage.Image) -> Image:
    """As the file would be read: in BGR, turned by its EXIF orientation."""
    try:
        pixels = turned(from_pillow(image), exif_orientation(image.info.get("exif", b"")))
    except ImageError as error:
        raise UserError(f"image{number}: the image {error}") from None
    except Exception as error:  # of a file that Pillow has opened and now fails to decode: nearly anything
        raise UserError(f"image{number}: cannot be decoded ({' '.join(str(error).split())})") from None
    if not pixels.size:
        raise UserError(f"image{number}: the image is empty, its size is {image.size}")
    return pixels


def _kind(item: object) -> str:
    return f"{item.dtype} {list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
