"""What a dataset is once it has been read: images with their truth, and every fault met on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yolov9k.common.arrays import BoolArray, Float32Array, Int64Array


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the data. `fatal`: the row or sample was left out; otherwise it is a notice."""

    path: Path
    line: int | None
    message: str
    fatal: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.line is None else f"{self.path}:{self.line}: {self.message}"


@dataclass
class Record:
    """One image and its truth.

    `height` and `width` are pixels after EXIF orientation. For n boxes: `classes` int64 [n]; `boxes` float32 [n, 4],
    x1 y1 x2 y2 as fractions of the image; `polygons` n outlines float32 [k, 2] in the same units, or None;
    `crowd` bool [n], regions that are never trained on and are ignored in evaluation; `areas` float32 [n], square
    pixels of the original image. `result_id`: what COCO results call the image, None where that is its `image_id`.
    """

    path: Path
    image_id: int
    height: int
    width: int
    classes: Int64Array
    boxes: Float32Array
    polygons: list[Float32Array | None]
    crowd: BoolArray
    areas: Float32Array
    result_id: int | str | None = None

    @property
    def pixel_boxes(self) -> Float32Array:
        """Boxes in pixels of the original image, float32 [n, 4], x1 y1 x2 y2."""
        return self.boxes * np.array([self.width, self.height, self.width, self.height], np.float32)


@dataclass
class Split:
    """One part of a dataset. `category_ids[class]` is the id that a COCO JSON file uses for that class."""

    name: str
    names: list[str]
    category_ids: list[int]
    records: list[Record]
    faults: list[Fault] = field(default_factory=list)
    source: Path = Path()

    @property
    def fatal_faults(self) -> list[Fault]:
        """The faults that cost a row or a sample."""
        return [fault for fault in self.faults if fault.fatal]


def count_fatal(faults: Iterable[Fault]) -> int:
    """How many of `faults` cost a row or a sample."""
    return sum(fault.fatal for fault in faults)
