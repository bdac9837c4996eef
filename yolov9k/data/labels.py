"""Boxes and outlines of one image, and the geometry that moves them.

Coordinates are continuous pixels: the left edge of the image is x = 0, the right edge of its last column x = width.
The outlines of all objects lie in one array, so each operation is a few numpy calls whatever the number of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolov9k.common.arrays import BoolArray, Float32Array, Int64Array
from yolov9k.data.records import Record
from yolov9k.ops.augment_boxes import clip_outlines

Place = tuple[int, int, int, int]  # of an image on a canvas: width, height, left, top

MIN_SHARE = 0.1  # of a box's area that must stay in the image
MIN_SHARE_OUTLINED = 0.01  # the hull of an outline is exact, a small rest of it is still a good box


@dataclass(frozen=True)
class Labels:
    """The n objects of an image.

    classes: int64 [n]; boxes: float32 [n, 4], x1 y1 x2 y2 in pixels.
    points: float32 [p, 2], the outlines one after another, `lengths` int64 [n] points each. An object without polygon
    is outlined by its box's corners; `outlined` bool [n] tells the real polygons.
    """

    classes: Int64Array
    boxes: Float32Array
    points: Float32Array
    lengths: Int64Array
    outlined: BoolArray

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def empty(cls) -> Labels:
        """No object."""
        none = np.zeros(0, np.int64)
        return cls(none, np.zeros((0, 4), np.float32), np.zeros((0, 2), np.float32), none, np.zeros(0, bool))

    @classmethod
    def make(cls, classes: Int64Array, boxes: Float32Array, polygons: Sequence[Float32Array | None]) -> Labels:
        """From boxes [n, 4] and for each a polygon [k, 2] or None, in pixels."""
        if not len(classes):
            return cls.empty()
        corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        drawn = [c if p is None or len(p) < 3 else p for p, c in zip(polygons, corners, strict=True)]
        outlined = np.array([p is d for p, d in zip(polygons, drawn, strict=True)])
        lengths = np.array([len(p) for p in drawn], np.int64)
        return cls(classes, boxes, np.concatenate(drawn).astype(np.float32, copy=False), lengths, outlined)

    @classmethod
    def of_records(cls, records: Sequence[Record], places: Sequence[Place]) -> Labels:
        """What the records of some images say, crowds left out, each resized and laid at its place of one canvas."""
        parts = [_without_crowds(record) for record in records]
        unit = cls.make(
            np.concatenate([classes for classes, _, _ in parts]),
            np.concatenate([boxes for _, boxes, _ in parts]),
            [polygon for _, _, polygons in parts for polygon in polygons],
        )
        owner = np.repeat(np.arange(len(parts)), [len(classes) for classes, _, _ in parts])
        table = np.array(places, np.float32).reshape(-1, 4)
        factors, offsets = table[owner, :2], table[owner, 2:]
        boxes = unit.boxes * np.hstack([factors, factors]) + np.hstack([offsets, offsets])
        points = unit.points * np.repeat(factors, unit.lengths, 0) + np.repeat(offsets, unit.lengths, 0)
        return Labels(unit.classes, boxes, points, unit.lengths, unit.outlined)

    def flipped(self, width: int, height: int, *, flip_lr: bool, flip_ud: bool) -> Labels:
        """Mirrored left to right (`flip_lr`), top to bottom (`flip_ud`), within width x height."""
        boxes, points = self.boxes.copy(), self.points.copy()
        for axis, extent, wanted in ((0, width, flip_lr), (1, height, flip_ud)):
            if wanted:
                boxes[:, [axis, axis + 2]] = extent - boxes[:, [axis + 2, axis]]
                points[:, axis] = extent - points[:, axis]
        return replace(self, boxes=boxes, points=points)

    def chosen(self, keep: BoolArray) -> Labels:
        """The objects where `keep` bool [n] is true."""
        if keep.all():
            return self
        points = self.points[np.repeat(keep, self.lengths)]
        return Labels(self.classes[keep], self.boxes[keep], points, self.lengths[keep], self.outlined[keep])

    def outline(self, index: int) -> Float32Array:
        """The outline of one object, [k, 2]."""
        end = int(self.lengths[: index + 1].sum())
        return self.points[end - int(self.lengths[index]) : end]

    def clipped(self, width: int, height: int) -> Labels:
        """Outlines cut off at the edges of width x height, each box the hull of what is left; the rest is gone."""
        points, lengths, boxes = clip_outlines(self.points, self.lengths, width, height)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return replace(self, boxes=boxes, points=points, lengths=lengths).chosen(inside)

    @property
    def least(self) -> Float32Array:
        """Share of its area, float32 [n], that each object must keep at the edge of an image."""
        return np.where(self.outlined, MIN_SHARE_OUTLINED, MIN_SHARE).astype(np.float32)

    @property
    def boxed(self) -> Labels:
        """The same boxes, each outlined by its corners alone."""
        return Labels.make(self.classes, self.boxes, [None] * len(self))


def concatenate(parts: Sequence[Labels]) -> Labels:
    """All objects of several labels in one."""
    return Labels(
        np.concatenate([p.classes for p in parts]),
        np.concatenate([p.boxes for p in parts]),
        np.concatenate([p.points for p in parts]),
        np.concatenate([p.lengths for p in parts]),
        np.concatenate([p.outlined for p in parts]),
    )


def _without_crowds(record: Record) -> tuple[Int64Array, Float32Array, list[Float32Array | None]]:
    """Classes, boxes and polygons."""
    if not record.crowd.any():
        return record.classes, record.boxes, record.polygons
    chosen = np.flatnonzero(~record.crowd)
    return record.classes[chosen], record.boxes[chosen], [record.polygons[i] for i in chosen]
