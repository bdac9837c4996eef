"""What a program hands over to be predicted on: paths, arrays, tensors, Pillow images, bytes, lists and generators of these."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image as PillowImage

from yolov9k.common.arrays import Image
from yolov9k.common.errors import UserError
from yolov9k.data.headers import ImageError, exif_orientation
from yolov9k.data.images import UnreadableImage, decode_image, from_pillow, turned
from yolov9k.engine.predict.sources import Frame, Source, camera_frames, open_source

One = str | Path | Image | PillowImage.Image | torch.Tensor | bytes | io.BytesIO | int
_EXPECTED = (
    "expected a path, a Pillow image, a file's bytes, a uint8 array [H, W, 3] in BGR or [H, W] in gray, or a tensor [3, H, W] "
    "or [B, 3, H, W] in RGB, uint8 or 0..1"
)


def frames_of(source: One | Source | Iterable[One] | Iterable[Frame]) -> Iterable[Frame]:
    """Frames of a source, each item of an iterable read when its turn comes. Raises UserError for what is none of these.

    Frames are taken as they are.
    A number, also as a text, is a camera's, whose frames do not end (`is_endless`).
    """
    if isinstance(source, Source):
        return source
    if is_endless(source):
        return camera_frames(int(source))  # type: ignore[arg-type]
    if isinstance(source, (str, os.PathLike)):
        return open_source(source if isinstance(source, str) else Path(source))
    if isinstance(source, torch.Tensor):
        return [Frame(Path(f"image{number}"), image) for number, image in enumerate(_from_tensor(source))]
    if isinstance(source, (PillowImage.Image, bytes, bytearray, io.BytesIO)) or (
        isinstance(source, np.ndarray) and source.ndim < 4
    ):
        return [_frame(0, source)]
    if not isinstance(source, Iterable):
        raise UserError(f"image: {_EXPECTED}, or a list of these; got {_kind(source)}")
    return _each(source)


def is_endless(source: object) -> bool:
    """Whether a source is a camera: its number, or a text of it that no file is called."""
    if isinstance(source, str):
        return source.isdecimal() and len(source) < 4 and not os.path.lexists(source)
    return isinstance(source, int) and not isinstance(source, bool)


def _each(items: Iterable[Any]) -> Iterator[Frame]:
    for number, item in enumerate(items):
        if isinstance(item, Frame):
            yield item
        elif isinstance(item, (str, os.PathLike)):
            yield from open_source(item if isinstance(item, str) else Path(item))
        elif isinstance(item, torch.Tensor):
            yield from (Frame(Path(f"image{number}"), image) for image in _from_tensor(item))
        else:
            yield _frame(number, item)


def _frame(number: int, item: Any) -> Frame:
    path = Path(f"image{number}")
    if isinstance(item, PillowImage.Image):
        return Frame(path, _from_pillow(number, item))
    if isinstance(item, (bytes, bytearray, io.BytesIO)):
        return Frame(path, _from_bytes(path.name, item.getvalue() if isinstance(item, io.BytesIO) else bytes(item)))
    if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim not in (2, 3):
        raise UserError(f"image: {_EXPECTED}; got {_kind(item)}")
    if not item.size:
        raise UserError(f"image: the array is empty, its shape is {list(item.shape)}")
    if item.ndim == 2 or item.shape[2] == 1:
        return Frame(path, np.repeat(item.reshape(*item.shape[:2], 1), 3, -1))
    if item.shape[2] not in (3, 4):
        raise UserError(f"image: {_EXPECTED}; got {_kind(item)}")
    return Frame(path, item if item.shape[2] == 3 else np.asarray(cv2.cvtColor(item, cv2.COLOR_BGRA2BGR)))


def _from_bytes(name: str, data: bytes) -> Image:
    try:
        return decode_image(data, f"{name}: the content")
    except UnreadableImage as error:
        raise UserError(str(error)) from None


def _from_tensor(images: torch.Tensor) -> Iterator[Image]:
    """[3, H, W] or [B, 3, H, W] in RGB, uint8 or a floating dtype in 0..1, of any device, as images in BGR."""
    batch = images[None] if images.dim() == 3 else images
    whole = images.dtype == torch.uint8
    if batch.dim() != 4 or batch.shape[1] != 3 or not (whole or images.is_floating_point()):
        raise UserError(f"image: {_EXPECTED}; got {_kind(images)}")
    if not batch.numel():
        raise UserError(f"image: the tensor is empty, its shape is {list(images.shape)}")
    if not whole and not bool(((batch >= 0) & (batch <= 1)).all()):
        raise UserError(f"image: the tensor's values must lie in 0..1, they reach from {batch.min():g} to {batch.max():g}")
    levels = batch if whole else (batch.float() * 255).round().to(torch.uint8)
    return iter(np.ascontiguousarray(levels.detach().cpu().permute(0, 2, 3, 1).numpy()[..., ::-1]))


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
    return (
        f"{str(item.dtype).removeprefix('torch.')} {list(item.shape)}"
        if hasattr(item, "dtype") and hasattr(item, "shape")
        else type(item).__name__
    )
