"""Fitting an image of any shape into a network's input, and carrying boxes back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.arrays import FILL, Image
from yolov9k.common.errors import UserError, warn

LARGEST = 16384  # pixels of a side: an image of 800 MB


def letterbox(
    image: Image,
    shape: tuple[int, int],
    *,
    fill: int = FILL,
    scaleup: bool = True,
    stride: int | None = None,
    placement: str = "center",
) -> tuple[Image, float, tuple[int, int]]:
    """Resize an image to fit into `shape` without distorting it and pad it, evenly unless `placement` says otherwise.

    image: uint8 [h, w, 3]; shape: (height, width) of the result. scaleup False: a smaller image keeps its size.
    stride: pad to the next multiples of it only, so the result may be smaller than `shape`. placement: see `place`.
    Returns the image (the very same array when nothing is to be done), the gain that it was resized by, and the
    padding (left, top) in pixels. Raises ValueError for an empty image.
    """
    image, gain = fit(image, shape, scaleup=scaleup)
    height, width = image.shape[:2]
    if stride is not None:
        shape = (math.ceil(height / stride) * stride, math.ceil(width / stride) * stride)
    left, top = place((height, width), shape, placement)
    return pad(image, shape, top, left, fill), gain, (left, top)


def place(size: tuple[int, int], shape: tuple[int, int], placement: str = "center") -> tuple[int, int]:
    """Where an image of `size` (height, width) lies in `shape`: left and top in pixels.

    placement: "center", or "topleft" as LibreYOLO has it.
    """
    return (0, 0) if placement == "topleft" else ((shape[1] - size[1]) // 2, (shape[0] - size[0]) // 2)


def fit(image: Image, shape: tuple[int, int], *, scaleup: bool = True) -> tuple[Image, float]:
    """The image resized to fit into `shape`, and the gain; arguments as those of `letterbox`."""
    height, width = image.shape[:2]
    if not height or not width:
        raise ValueError(f"letterbox: the image is empty, its shape is {image.shape}")
    gain = min(shape[0] / height, shape[1] / width)
    if not scaleup:
        gain = min(gain, 1.0)
    return resize(image, (scaled(height, gain), scaled(width, gain)), smooth=True), gain


def pad(image: Image, shape: tuple[int, int], top: int, left: int, fill: int = FILL) -> Image:
    """Put an image at (left, top) of a gray one of `shape`; the same array when it fills it."""
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    bottom, right = shape[0] - height - top, shape[1] - width - left
    gray = (fill, fill, fill)
    return cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=gray)  # type: ignore[return-value]


def resize(image: Image, shape: tuple[int, int], *, smooth: bool) -> Image:
    """Resize to (height, width): bilinear, or by area where `smooth` and the image shrinks."""
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    shrinks = shape[0] < height or shape[1] < width
    method = cv2.INTER_AREA if smooth and shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (shape[1], shape[0]), interpolation=method)  # type: ignore[return-value]


def scaled(length: int, gain: float) -> int:
    """A side's length after resizing: at least one pixel."""
    return max(1, round(length * gain))


def map_to_image(boxes: Tensor, scale: float | Tensor, pad: Sequence[float] | Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Carry boxes from the network's input back to the original image.

    boxes: float [..., 4], x1 y1 x2 y2 in pixels of the letterboxed image; scale: the letterbox's gain; pad: (left,
    top) in pixels; size: (height, width) of the original. Returns [..., 4] in original pixels, clipped to the image.
    For several images at once scale, pad[i] and size[i] are tensors that broadcast with [..., 2].
    """
    mapped = torch.empty_like(boxes)
    for axis, extent in ((0, size[1]), (1, size[0])):  # one axis at a time: no tensor has to travel to the device
        mapped[..., axis::2] = ((boxes[..., axis::2] - pad[axis]) / scale).clamp(min=0).clamp(max=extent)
    return mapped


def rectangle_shapes(aspects: NDArray[np.float64], batch: int, img_size: int, stride: int) -> list[tuple[int, int]]:
    """Input shapes (height, width) of consecutive batches, each the least that holds its images.

    aspects: height / width of the images, float [n], sorted. The long side is img_size; both sides are rounded up
    to the stride with half a stride of room.
    """
    shapes = []
    for start in range(0, len(aspects), batch):
        low, high = aspects[start : start + batch].min(), aspects[start : start + batch].max()
        tall, wide = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
        rounded = [math.ceil(side * img_size / stride + 0.5) * stride for side in (tall, wide)]
        shapes.append((rounded[0], rounded[1]))
    return shapes


def rounded_size(img_size: int, flag: str, stride: int = 32) -> int:
    """`img_size` rounded up to a multiple of the stride; says so. Raises UserError below 1 or above LARGEST."""
    if not 1 <= img_size <= LARGEST:
        raise UserError(f"{flag} {img_size}: must be at least 1 and at most {LARGEST}")
    rounded = -(-img_size // stride) * stride
    if rounded != img_size:
        warn(f"{flag} {img_size} is no multiple of {stride}; {rounded} is used")
    return rounded
