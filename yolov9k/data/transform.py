"""A user's own augmentation: a function of an image and its boxes, called before the fused pass."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from yolov9k.common.arrays import Float32Array, Image, Int64Array
from yolov9k.common.errors import UserError, shown
from yolov9k.data.letterbox import fit
from yolov9k.data.records import Record

Transform = Callable[..., tuple[Any, Any, Any]]
_EXPECTED = "expected (image, boxes, classes) as it was given: a uint8 array [h, w, 3], [n, 4] numbers and [n] whole numbers"


class UserTransform:
    """Calls a user's function with one decoded image of the training split and takes what it returns.

    The function is given image: uint8 [h, w, 3] BGR, its long side the training size, its own to change; boxes: float32
    [n, 4], x1 y1 x2 y2 in its pixels; classes: int64 [n]; crowds are left out. It returns the three, changed as it likes: the
    image of any size, objects fewer or more. Outlines of objects stay where boxes and classes come back the same, otherwise the
    boxes stand for them. Mosaic, warp, mix-up, colors and flips of the recipe come after it.

    Where it has a parameter `rng` it is given a numpy generator that is the same for the same image, epoch and seed; the
    global generators of `random` and numpy are seeded alike. So batches do not depend on the number of workers.
    """

    def __init__(self, function: Transform, size: int) -> None:
        """size: the training size. Raises UserError for what cannot be called."""
        if not callable(function):
            raise UserError(f"augment: expected a function of image, boxes and classes, got {type(function).__name__}")
        self.function, self.size = function, size
        self._takes_rng = _has_rng(function)

    def __call__(self, image: Image, record: Record, seed: tuple[int, ...]) -> tuple[Image, Record]:
        """The image and its record, changed. Raises UserError, naming the image, for what is none of the three."""
        kept = np.flatnonzero(~record.crowd)
        height, width = image.shape[:2]
        boxes, classes = record.boxes[kept] * _extent(height, width), record.classes[kept]
        rng = np.random.default_rng(seed)
        extra = {"rng": rng} if self._takes_rng else {}
        with _seeded(int(rng.integers(2**32))):
            made = self.function(image if image.flags.writeable else image.copy(), boxes.copy(), classes.copy(), **extra)
        try:
            new, new_boxes, new_classes = _checked(made)
        except (TypeError, ValueError) as error:
            raise UserError(f"augment: {record.path}: {_EXPECTED}; {error}") from None
        same = new.shape[:2] == (height, width) and np.array_equal(new_boxes, boxes) and np.array_equal(new_classes, classes)
        polygons = [record.polygons[number] for number in kept] if same else None
        return self._fitting(new), _record(record, new, new_boxes, new_classes, polygons)

    def _fitting(self, image: Image) -> Image:
        """No larger than the training size, as a mosaic's tiles have to be."""
        return fit(image, (self.size, self.size), scaleup=False)[0]


def _checked(made: Any) -> tuple[Image, Float32Array, Int64Array]:
    """What a function returned, as arrays; boxes cut at the image's edges, empty ones gone. Raises ValueError or TypeError."""
    if not isinstance(made, tuple | list) or len(made) != 3:
        raise ValueError(f"got {f'{len(made)} values' if isinstance(made, tuple | list) else type(made).__name__}")
    image, boxes, classes = made
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"the image is {kind}")
    corners = np.asarray(boxes, np.float32).reshape(-1, 4)
    numbers = np.asarray(classes)
    if numbers.ndim != 1 or len(numbers) != len(corners):
        raise ValueError(f"{len(corners)} boxes and classes of shape {list(numbers.shape)}")
    if not np.isfinite(corners).all() or (numbers < 0).any() or (numbers != numbers.astype(np.int64)).any():
        raise ValueError(f"boxes or classes are no such numbers, among them {shown(numbers[:3].tolist())}")
    height, width = image.shape[:2]
    corners = np.clip(corners, 0, np.array([width, height, width, height], np.float32))
    there = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return np.ascontiguousarray(image), corners[there], numbers.astype(np.int64)[there]


def _record(record: Record, image: Image, boxes: Float32Array, classes: Int64Array, polygons: list[Any] | None) -> Record:
    height, width = image.shape[:2]
    sides = boxes[:, 2:] - boxes[:, :2]
    return replace(
        record, height=height, width=width, boxes=boxes / _extent(height, width), classes=classes,
        polygons=polygons or [None] * len(boxes), crowd=np.zeros(len(boxes), bool), areas=sides[:, 0] * sides[:, 1],
    )  # fmt: skip


def _extent(height: int, width: int) -> Float32Array:
    return np.array([width, height, width, height], np.float32)


def _has_rng(function: Transform) -> bool:
    try:
        return "rng" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled ones do not tell
        return False


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators begin at a seed inside, and go on outside as if nothing had been."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (users' functions draw from them)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
