"""A dataset once it has been read: images with their ground truth, and the issues found while reading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from yolov9k.common.arrays import BoolArray, Float32Array, Int64Array
from yolov9k.data.ids import Id


@dataclass(frozen=True)
class DataIssue:
    """One thing wrong with the data. `fatal`: the row or sample was left out, an error; otherwise it is a warning.

    kind: what many such warnings are called where only their number is told, such as "labels without an image"; empty
    where the warning is about a whole split and is told in full.
    """

    path: Path
    line: int | None
    message: str
    fatal: bool
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.line is None else f"{self.path}:{self.line}: {self.message}"


@dataclass
class Record:
    """One image and its ground truth.

    `height` and `width` are pixels after EXIF orientation. For n boxes: `classes` int64 [n]; `boxes` float32 [n, 4],
    x1 y1 x2 y2 as fractions of the image; `polygons` n outlines float32 [k, 2] in the same units, or None;
    `crowd` bool [n], regions that are never trained on and are ignored in evaluation; `areas` float32 [n], square
    pixels of the original image. `image_id` is unique in its split; `result_id`: what COCO results call the image, None
    where that is its `image_id`.
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
    result_id: Id | None = None

    @property
    def objects(self) -> int:
        """How many objects there are to train on and to be found; crowd regions are none."""
        return int((~self.crowd).sum())

    @property
    def pixel_boxes(self) -> Float32Array:
        """Boxes in pixels of the original image, float32 [n, 4], x1 y1 x2 y2."""
        return self.boxes * np.array([self.width, self.height, self.width, self.height], np.float32)


@dataclass
class Split:
    """One split of a dataset. `category_ids[class]` is the id that a COCO JSON file uses for that class.

    origin: the split of the dataset that was read, another than `name` where one stands in for it.
    """

    name: str
    names: list[str]
    category_ids: list[Id]
    records: list[Record]
    issues: list[DataIssue] = field(default_factory=list)
    source: Path = Path()
    origin: str = ""

    @property
    def fatal_issues(self) -> list[DataIssue]:
        """The errors: what costs a row or a sample."""
        return [issue for issue in self.issues if issue.fatal]

    def in_order_of(self, names: Sequence[str]) -> Split:
        """The split with its classes numbered as in `names`, itself where these are other names or the order is the same."""
        if self.names == list(names) or sorted(self.names) != sorted(names) or len(set(names)) < len(names):
            return self
        number = np.array([names.index(name) for name in self.names], np.int64)
        records = [replace(record, classes=number[record.classes]) for record in self.records]
        ids = [self.category_ids[self.names.index(name)] for name in names]
        return replace(self, names=list(names), category_ids=ids, records=records)


def count_fatal(issues: Iterable[DataIssue]) -> int:
    """How many of `issues` are errors, which cost a row or a sample."""
    return sum(issue.fatal for issue in issues)
