"""Boxes of augmented images: outlines projected as `augment` shows their images, clipped at the edge, filtered, packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_dtype, expect_shape
from yolov9k.common.device import is_cpu
from yolov9k.native import augment_boxes as run_native
from yolov9k.native import check_outlines
from yolov9k.native import clip_outlines as clip_native
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define
from yolov9k.ops.reference import augment_boxes as reference
from yolov9k.ops.registry import Operator, register


class Boxes(NamedTuple):
    """boxes float32 [B, capacity, 5]: class, then cx, cy, w, h as fractions of the image's sides; zeros past counts [B]."""

    boxes: Tensor
    counts: Tensor


def augment_boxes(
    points: Tensor,
    ends: Tensor,
    classes: Tensor,
    min_area_ratio: Tensor,
    ranges: Tensor,
    matrices: Tensor,
    size: tuple[int, int],
    capacity: int,
    backend: str = "auto",
) -> Boxes:
    """Make the boxes of the objects in images of `size` (height, width) pixels.

    An object is a closed outline on the canvas: a polygon, or the corners of a box. It is projected, cut off at the
    image's edges (Sutherland and Hodgman), and its hull is its box. A box is kept where both sides are above 2 pixels,
    the longer is less than 100 times the shorter, and its area is above `min_area_ratio` times that of the uncut hull.

    points: float32 [P, 2], x and y on the canvas, continuous: a pixel's left edge is a whole number. ends: int64 [N], one
    past the last point of each object's outline; the first starts at 0. classes: int64 [N]. min_area_ratio: float32 [N];
    below 0 the object is kept however small. ranges: int64 [B, 2, 2], the objects of either view: from the first, up to and
    without the second number. matrices: float32 [B, 2, 3, 3], from the canvas to the image, continuous too, with a third
    coordinate that is positive at every point. capacity: at least the objects that a sample keeps.

    Objects stay in order, those of the first view first. All lie on one device, contiguous. Computed in float32 in the order
    of operations of `reference.augment_boxes`: every backend gives the same bits. Without gradient. On the CPU raises
    ValueError where ranges or ends reach beyond what is there or a sample keeps more than capacity; on a device that is
    trusted, nothing is read on the host; a count above capacity then says how many boxes there were. Raises ValueError or
    TypeError naming the argument.
    """
    op = "augment_boxes"
    height, width = size
    expect_shape(ranges, (None, 2, 2), op, "ranges")
    expect_shape(ends, (None,), op, "ends")
    batch, count = len(ranges), len(ends)
    shapes: dict[str, tuple[Tensor, tuple[int | None, ...], torch.dtype]] = {
        "points": (points, (None, 2), torch.float32),
        "ends": (ends, (count,), torch.int64),
        "classes": (classes, (count,), torch.int64),
        "min_area_ratio": (min_area_ratio, (count,), torch.float32),
        "ranges": (ranges, (batch, 2, 2), torch.int64),
        "matrices": (matrices, (batch, 2, 3, 3), torch.float32),
    }
    for name, (tensor, shape, kind) in shapes.items():
        expect_shape(tensor, shape, op, name)
        expect_device(tensor, points, op, name)
        expect_dtype(tensor, (kind,), op, name)
    expect(height >= 1 and width >= 1, op, "size", "at least 1 x 1", tuple(size))
    expect(capacity >= 0, op, "capacity", "at least 0", capacity)
    backend = choose(op, backend, points.device)
    return Boxes(
        *torch.ops.yolov9k.augment_boxes(
            points, ends, classes, min_area_ratio, ranges, matrices, height, width, capacity, backend
        )
    )


def clip_outlines(
    points: NDArray[np.float32], lengths: NDArray[np.int64], width: float, height: float, backend: str = "auto"
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Outlines clipped to the rectangle 0..width x 0..height, on the host, as `augment_boxes` clips them.

    points: float32 [p, 2], the outlines one after another, each closed, of lengths int64 [n] points. Returns what is left:
    points [q, 2], lengths [n], and hulls [n, 4] (x1, y1, x2, y2), zeros for an outline of which nothing is left. backend:
    auto, reference or cpu, which give the same bits. Raises ValueError for other shapes and lengths beyond the points,
    TypeError for lengths that are no integers.
    """
    check_outlines(points, lengths)
    count, total = len(points), int(lengths.sum())
    sound = total <= count and all(0 <= length <= count for length in lengths.tolist())  # a sum alone may go round
    expect(sound, "clip_outlines", "lengths", f"at least 0, together at most the {count} points", lengths.tolist())
    expect(backend in ("auto", "reference", "cpu"), "clip_outlines", "backend", "auto, reference or cpu", backend)
    if choose("augment_boxes", backend, torch.device("cpu")) == "cpu":
        return clip_native(points, lengths, width, height)
    tensors = torch.from_numpy(np.array(points[:total], np.float32)), torch.from_numpy(np.array(lengths, np.int64))
    left, left_lengths, boxes = reference.clip_outlines(*tensors, width, height)
    return left.numpy(), left_lengths.numpy(), boxes.numpy()


def check_objects(points: Tensor, ends: Tensor, ranges: Tensor) -> None:
    """Raise ValueError unless ends lie within points and ranges within ends; reads the tensors."""
    op, places = "augment_boxes", [0, *ends.tolist(), len(points)]
    expect(places == sorted(places), op, "ends", f"rising, from 0 to at most {len(points)}", places[1:-1])
    ordered = all(0 <= first <= last <= len(ends) for views in ranges.tolist() for first, last in views)
    expect(ordered, op, "ranges", f"rising, from 0 to at most {len(ends)}", ranges.tolist())


def _run(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if is_cpu(points.device) and backend != "cpu":  # the compiled one checks for itself
        check_objects(points, ends, ranges)
    if backend == "triton":
        from yolov9k.kernels.augment_boxes import augment_boxes as run  # Triton takes a second to import
    else:
        run = reference.augment_boxes if backend == "reference" else run_native
    boxes, counts = run(points, ends, classes, min_area_ratio, ranges, matrices, height, width, capacity)
    if is_cpu(points.device) and backend == "triton" and bool((counts > capacity).any()):
        expect(False, "augment_boxes", "capacity", f"at least {int(counts.max())}, the boxes of a sample", capacity)
    return boxes, counts


def _fake(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int, backend: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch = ranges.shape[0]
    return points.new_empty((batch, capacity, 5)), ends.new_empty((batch,))


define(
    "augment_boxes(Tensor points, Tensor ends, Tensor classes, Tensor min_area_ratio, Tensor ranges, Tensor matrices, "
    "int height, int width, int capacity, str backend) -> (Tensor boxes, Tensor counts)",
    _run,
    _fake,
)
register(
    Operator(
        "augment_boxes",
        augment_boxes,
        "boxes of the objects in augmented images",
        {"cpu": "default on CPU", "triton": "one launch for a batch"},
        kernels=("augment_boxes",),
    )
)
