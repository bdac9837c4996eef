"""The objects of augmented images in Triton: moved, cut off, filtered and packed in order, one launch without a host.

A program makes the rows of one sample, an object a lane, as many at a time as it has lanes. Outlines that reach beyond the
image are cut off as their points come (Sutherland and Hodgman, each side hands its points to the next), so nothing is
stored but two points a side and the hull of what is left. A row's place is the number of rows kept before it: a prefix sum
over the lanes, no atomics. float32, each operation rounded on its own, in the reference's order: the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._aot import AotVariant, typed

BLOCK = 32  # objects a program takes at a time: a warp, whose lanes wait for no other
MIN_SIDE: tl.constexpr = tl.constexpr(2.0)  # pixels: smaller boxes are dropped
MAX_ASPECT: tl.constexpr = tl.constexpr(100.0)
TINY: tl.constexpr = tl.constexpr(1e-9)


@triton.jit
def _distance(x, y, width, height, SIDE: tl.constexpr):
    """From the left, right, top or bottom edge; below 0 is outside."""
    place, extent = (x, width) if SIDE < 2 else (y, height)
    return place if SIDE % 2 == 0 else extent - place


@triton.jit
def _add(state, x, y, real, width, height, SIDE: tl.constexpr):
    """Hand a point, where it is real, to a side: first point, last point, whether there is any, and the state behind it."""
    if SIDE < 4:
        first_x, first_y, last_x, last_y, begun, rest = state
        rest = _cross(rest, last_x, last_y, x, y, real & begun, width, height, SIDE)
        rest = _add(rest, x, y, real & (_distance(x, y, width, height, SIDE) >= 0), width, height, SIDE + 1)
        new = real & (begun == 0)
        first_x, first_y = tl.where(new, x, first_x), tl.where(new, y, first_y)
        state = first_x, first_y, tl.where(real, x, last_x), tl.where(real, y, last_y), begun | real, rest
    else:  # an intersection may lie a rounding error outside
        x, y = tl.minimum(tl.maximum(x, 0.0), width), tl.minimum(tl.maximum(y, 0.0), height)
        state = _stretch(state, x, y, real)
    return state


@triton.jit
def _cross(rest, x0, y0, x1, y1, real, width, height, SIDE: tl.constexpr):
    """Hand on where the way from one point to the next crosses a side."""
    before, after = _distance(x0, y0, width, height, SIDE), _distance(x1, y1, width, height, SIDE)
    real = real & ((before >= 0) != (after >= 0))
    if tl.max(real.to(tl.int32), 0) > 0:  # rare, and each side doubles what follows
        share = tl.div_rn(before, tl.where(real, before - after, 1.0))
        rest = _add(rest, x0 + share * (x1 - x0), y0 + share * (y1 - y0), real, width, height, SIDE + 1)
    return rest


@triton.jit
def _close(state, width, height, SIDE: tl.constexpr):
    """From each side's last point back to its first; the hull of all."""
    if SIDE < 4:
        first_x, first_y, last_x, last_y, begun, rest = state
        rest = _cross(rest, last_x, last_y, first_x, first_y, begun, width, height, SIDE)
        state = _close(rest, width, height, SIDE + 1)
    return state


@triton.jit
def _begin(zero, none, rest):
    """The state of a side that has seen no point."""
    return zero, zero, zero, zero, none, rest


@triton.jit
def _stretch(hull, x, y, real):
    x1, y1, x2, y2 = hull
    x1, y1 = tl.where(real, tl.minimum(x1, x), x1), tl.where(real, tl.minimum(y1, y), y1)
    return x1, y1, tl.where(real, tl.maximum(x2, x), x2), tl.where(real, tl.maximum(y2, y), y2)


@triton.jit
def _row(m):
    return tl.load(m), tl.load(m + 1), tl.load(m + 2)


@triton.jit
def _project(points, matrix, index, real):
    """A point [BLOCK] through a matrix of three rows."""
    x, y = tl.load(points + 2 * index, real, other=0.0), tl.load(points + 2 * index + 1, real, other=0.0)
    column, row, depth = matrix
    bottom = depth[0] * x + depth[1] * y + depth[2]
    across, down = column[0] * x + column[1] * y + column[2], row[0] * x + row[1] * y + row[2]
    return tl.div_rn(across, bottom), tl.div_rn(down, bottom)


@triton.jit
def _hull(points, matrix, begin, lengths, BLOCK: tl.constexpr):
    """x1, y1, x2, y2 of whole outlines, zeros without points, and whether all of their points are numbers."""
    far = tl.full((BLOCK,), float("inf"), tl.float32)
    hull, finite = (far, far, -far, -far), lengths >= 0
    for i in range(tl.max(lengths, 0)):
        real = i < lengths
        x, y = _project(points, matrix, begin + i, real)
        hull = _stretch(hull, x, y, real)
        finite = finite & ((tl.maximum(tl.abs(x), tl.abs(y), tl.PropagateNan.ALL) < float("inf")) | (real == 0))
    x1, y1, x2, y2 = hull
    some = lengths > 0
    return tl.where(some, x1, 0.0), tl.where(some, y1, 0.0), tl.where(some, x2, 0.0), tl.where(some, y2, 0.0), finite


@triton.jit
def _clip(points, matrix, begin, lengths, width, height, BLOCK: tl.constexpr):
    """x1, y1, x2, y2 of what the image's edges leave of outlines; zeros where nothing is left."""
    far, zero = tl.full((BLOCK,), float("inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    none = lengths < 0
    state = _begin(zero, none, _begin(zero, none, _begin(zero, none, _begin(zero, none, (far, far, -far, -far)))))
    for i in range(tl.max(lengths, 0)):
        x, y = _project(points, matrix, begin + i, i < lengths)
        state = _add(state, x, y, i < lengths, width, height, 0)
    x1, y1, x2, y2 = _close(state, width, height, 0)
    some = x1 <= x2
    return tl.where(some, x1, 0.0), tl.where(some, y1, 0.0), tl.where(some, x2, 0.0), tl.where(some, y2, 0.0)


@triton.jit
def _survives(wide, tall, full, min_area_ratio):
    """Whether a box of these sides is worth learning, once the image's edge cut an area of `full` down to it."""
    brief, extended = tl.minimum(wide, tall), tl.maximum(wide, tall)
    share = tl.div_rn(wide * tall, tl.maximum(full, TINY))
    slim = tl.div_rn(extended, tl.maximum(brief, TINY)) < MAX_ASPECT
    return (min_area_ratio < 0) | ((brief > MIN_SIDE) & slim & (share > min_area_ratio))


@triton.jit
def _boxes(
    points, ends, classes, min_area_ratio, ranges, matrices, out, counts, height, width, capacity, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, lanes = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    kept = tl.full((), 0, tl.int32)
    for view in range(2 * sample, 2 * sample + 2):
        m, last = matrices + 9 * view, tl.load(ranges + 2 * view + 1)
        matrix = (_row(m), _row(m + 3), _row(m + 6))
        for start in range(tl.load(ranges + 2 * view), last, BLOCK):
            n = start + lanes
            there = n < last
            begin = tl.load(ends + n - 1, there & (n > 0), other=0)
            lengths = (tl.load(ends + n, there, other=0) - begin).to(tl.int32)
            lengths = tl.where(there, lengths, 0)
            x1, y1, x2, y2, finite = _hull(points, matrix, begin, lengths, BLOCK)
            full = (x2 - x1) * (y2 - y1)
            within = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)
            cut = finite & (within == 0)
            cut_x1, cut_y1, cut_x2, cut_y2 = _clip(points, matrix, begin, tl.where(cut, lengths, 0), width, height, BLOCK)
            x1, y1 = tl.where(cut, cut_x1, x1), tl.where(cut, cut_y1, y1)
            x2, y2 = tl.where(cut, cut_x2, x2), tl.where(cut, cut_y2, y2)
            keep = there & finite & _survives(x2 - x1, y2 - y1, full, tl.load(min_area_ratio + n, there, other=0.0))
            slot = kept + tl.cumsum(keep.to(tl.int32), 0) - 1
            place, fits = out + (sample * capacity + slot) * 5, keep & (slot < capacity)
            tl.store(place, tl.load(classes + n, there, other=0).to(tl.float32), fits)
            tl.store(place + 1, tl.div_rn((x1 + x2) * 0.5, width), fits)
            tl.store(place + 2, tl.div_rn((y1 + y2) * 0.5, height), fits)
            tl.store(place + 3, tl.div_rn(x2 - x1, width), fits)
            tl.store(place + 4, tl.div_rn(y2 - y1, height), fits)
            kept += tl.sum(keep.to(tl.int32), 0)
    tl.store(counts + sample, kept.to(tl.int64))


def augment_boxes(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Boxes [B, capacity, 5] and counts [B]; arguments as in `yolov9k.ops.augment_boxes`.

    A count above capacity says how many rows a sample would have had; the first `capacity` of them are there.
    """
    tables = [table.contiguous() for table in (points, ends, classes, min_area_ratio, ranges, matrices)]
    boxes = points.new_zeros((len(ranges), capacity, 5))
    counts = ends.new_empty((len(ranges),))
    if len(ranges):
        with torch.cuda.device_of(boxes):  # type: ignore[no-untyped-call]
            _boxes[(len(ranges),)](
                *tables, boxes, counts, float(height), float(width), capacity, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=False
            )
    return boxes, counts


def aot_variants() -> list[AotVariant]:
    """The one launch."""
    types = typed("ends classes ranges counts", "*i64") | typed("height width", "fp32") | {"capacity": "i32"}
    return [AotVariant("_boxes", types, {"BLOCK": 32}, warps=1, exact=True)]
