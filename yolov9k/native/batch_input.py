"""A training batch's images, boxes and outlines by csrc/, on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov9k.common.checks import expect, expect_shape
from yolov9k.native.module import Shapes, call, check, loaded, raise_for

_INT64, _FLOAT32, _UINT8 = (torch.int64,), (torch.float32,), (torch.uint8,)


def augment(
    pixels: Sequence[Tensor], layers: Tensor, ranges: Tensor, matrices: Tensor, mix_weights: Tensor, hsv_gains: Tensor,
    height: int, width: int, dtype: torch.dtype, channels_last: bool,
) -> Tensor:  # fmt: skip
    """Images [B, 3, height, width]; arguments as in `yolov9k.ops.augment`, on the CPU; pixels are read where they lie.

    Raises ValueError or TypeError naming the argument, ValueError where layers or ranges reach beyond what is there.
    """
    op = "augment"
    expect_shape(ranges, (None, 2, 2), op, "ranges")
    batch = len(ranges)
    shapes: Shapes = {
        "layers": (layers, (None, 8)), "ranges": (ranges, (batch, 2, 2)), "matrices": (matrices, (batch, 2, 3, 3)),
        "mix_weights": (mix_weights, (batch,)), "hsv_gains": (hsv_gains, (batch, 3)),
    }  # fmt: skip
    host = torch.empty(0)
    if not all(part.dtype == torch.uint8 and part.dim() == 1 and part.device == host.device for part in pixels):
        shapes |= {f"pixels[{i}]": (part, (None,)) for i, part in enumerate(pixels)}
    kinds = {"layers": _INT64, "ranges": _INT64, "matrices": _FLOAT32, "mix_weights": _FLOAT32, "hsv_gains": _FLOAT32}
    check(op, host, shapes, pixels=_UINT8, **kinds)
    expect(min(height, width) >= 1, op, "size", "at least 1 x 1", (height, width))
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.empty((len(ranges), 3, height, width), dtype=dtype, memory_format=memory_format)
    tables = {"layers": layers, "ranges": ranges, "matrices": matrices, "mix_weights": mix_weights, "hsv_gains": hsv_gains}
    held = {name: tensor.contiguous() for name, tensor in {**tables, "levels": _levels(dtype)}.items()}
    sources = [part.contiguous() for part in pixels]
    arguments: dict[str, object] = {
        **{name: tensor.data_ptr() for name, tensor in held.items()},
        "sources": [part.data_ptr() for part in sources], "source_counts": [part.numel() for part in sources],
        "layer_count": len(layers), "images": len(ranges), "height": height, "width": width,
        "output": images.data_ptr(), "element": images.element_size(),
        **dict(zip(("stride_image", "stride_channel", "stride_row", "stride_pixel"), images.stride(), strict=True)),
    }  # fmt: skip
    call("augment", images.device, arguments)
    return images


@functools.cache
def _levels(dtype: torch.dtype) -> Tensor:
    """What each 8-bit value becomes: itself, or its 255th."""
    levels = torch.arange(256, dtype=torch.uint8)
    return levels if dtype == torch.uint8 else (levels.float() / 255).to(dtype)


def augment_boxes(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Boxes [B, capacity, 5] and counts [B]; arguments as in `yolov9k.ops.augment_boxes`, on the CPU.

    Raises ValueError or TypeError naming the argument, ValueError where ranges or ends reach beyond what is there, or a sample
    keeps more than capacity.
    """
    expect_shape(ranges, (None, 2, 2), "augment_boxes", "ranges")
    expect_shape(ends, (None,), "augment_boxes", "ends")
    batch, objects = len(ranges), len(ends)
    check("augment_boxes", torch.empty(0), {
        "points": (points, (None, 2)), "ends": (ends, (objects,)), "classes": (classes, (objects,)),
        "min_area_ratio": (min_area_ratio, (objects,)), "ranges": (ranges, (batch, 2, 2)),
        "matrices": (matrices, (batch, 2, 3, 3)),
    }, points=_FLOAT32, ends=_INT64, classes=_INT64, min_area_ratio=_FLOAT32, ranges=_INT64, matrices=_FLOAT32)  # fmt: skip
    expect(capacity >= 0, "augment_boxes", "capacity", "at least 0", capacity)
    tables = {
        "points": points, "ends": ends, "classes": classes, "min_area_ratio": min_area_ratio, "ranges": ranges,
        "matrices": matrices,
    }  # fmt: skip
    held = {name: tensor.contiguous() for name, tensor in tables.items()}
    boxes, counts = points.new_zeros((len(ranges), capacity, 5)), ranges.new_zeros(len(ranges))
    arguments: dict[str, object] = {
        **{name: tensor.data_ptr() for name, tensor in held.items()},
        "point_count": len(points), "objects": len(ends), "images": len(ranges), "height": height, "width": width,
        "capacity": capacity, "boxes": boxes.data_ptr(), "counts": counts.data_ptr(),
    }  # fmt: skip
    call("augment_boxes", points.device, arguments)
    return boxes, counts


def clip_outlines(
    points: NDArray[np.float32], lengths: NDArray[np.int64], width: float, height: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """What is left of outlines within 0..width x 0..height: points [q, 2], lengths [n] and hulls [n, 4], zeros for no point.

    points float32 [p, 2] and lengths int64 [n] as in `yolov9k.ops.augment_boxes.clip_outlines`. Raises ValueError for other
    shapes and for lengths beyond points, TypeError for lengths that are no integers.
    """
    check_outlines(points, lengths)
    points, lengths = np.ascontiguousarray(points, np.float32), np.ascontiguousarray(lengths, np.int64)
    left_lengths, boxes = np.empty_like(lengths), np.empty((len(lengths), 4), np.float32)
    room = 2 * len(points) + 8  # enough for all but the most jagged
    while True:
        left = np.empty((room, 2), np.float32)
        raise_for("clip_outlines", loaded("cpu").clip_outlines(
            points=points.ctypes.data, lengths=lengths.ctypes.data, point_count=len(points), objects=len(lengths), room=room,
            width=width, height=height, left=left.ctypes.data, left_lengths=left_lengths.ctypes.data, boxes=boxes.ctypes.data,
        ))  # fmt: skip
        count = int(left_lengths.sum())
        if count <= room:
            return left[:count], left_lengths, boxes
        room = count


def check_outlines(points: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    """Raise ValueError unless points are [p, 2] and lengths [n], TypeError for lengths that are no integers."""
    op, (points_shape, lengths_shape) = "clip_outlines", (np.shape(points), np.shape(lengths))
    expect(len(points_shape) == 2 and points_shape[1] == 2, op, "points", "of shape [*, 2]", list(points_shape))
    expect(len(lengths_shape) == 1, op, "lengths", "of shape [*]", list(lengths_shape))
    if (kind := np.asarray(lengths).dtype).kind not in "iu" and len(lengths):
        raise TypeError(f"{op}: lengths must be integers, got {kind}")
