"""augment_boxes in plain torch: the definition. float32 throughout, each operation rounded on its own, in this order."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SIDE = 2.0  # pixels: smaller boxes are dropped
MAX_ASPECT = 100.0
TINY = 1e-9


def augment_boxes(
    points: Tensor, ends: Tensor, classes: Tensor, min_area_ratio: Tensor, ranges: Tensor, matrices: Tensor,
    height: int, width: int, capacity: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Boxes [B, capacity, 5] and counts [B]; arguments as in `yolov9k.ops.augment_boxes`. Spans are read on the host."""
    boxes = points.new_zeros((len(ranges), capacity, 5))
    counts = torch.zeros(len(ranges), dtype=torch.int64, device=points.device)
    begins = torch.cat((ends.new_zeros(1), ends))
    for sample, views in enumerate(ranges.tolist()):
        rows = [
            _view(points, begins[start : end + 1], classes[start:end], min_area_ratio[start:end], matrix, height, width)
            for (start, end), matrix in zip(views, matrices[sample], strict=True)
        ]
        kept = torch.cat(rows)
        if len(kept) > capacity:
            raise ValueError(f"augment_boxes: capacity must be at least {len(kept)}, the boxes of sample {sample}: {capacity}")
        boxes[sample, : len(kept)] = kept
        counts[sample] = len(kept)
    return boxes, counts


def _view(
    points: Tensor, bounds: Tensor, classes: Tensor, min_area_ratio: Tensor, matrix: Tensor, height: int, width: int
) -> Tensor:
    """Rows [n, 5] of the objects of one view that survive."""
    lengths = bounds.diff()
    moved = project(points[bounds[0] : bounds[-1]], matrix)
    whole = hulls(moved, lengths)
    cut = clip_outlines(moved, lengths, width, height)[2]
    keep = survive(whole, cut, min_area_ratio) & whole.isfinite().all(1)
    low, high = cut[:, :2], cut[:, 2:]
    size = cut.new_tensor([width, height])
    return torch.cat((classes[:, None].to(cut.dtype), (low + high) / 2 / size, (high - low) / size), 1)[keep]


def project(points: Tensor, matrix: Tensor) -> Tensor:
    """Points [p, 2] through a 3x3 matrix."""
    x, y = points.unbind(1)
    column, row, depth = (m[0] * x + m[1] * y + m[2] for m in matrix)
    return torch.stack((column / depth, row / depth), 1)


def survive(before: Tensor, after: Tensor, min_area_ratio: Tensor) -> Tensor:
    """Which boxes [n, 4] are worth learning once the image's edge cut `before` down to `after`; all where the ratio is < 0."""
    sides, full = after[:, 2:] - after[:, :2], before[:, 2:] - before[:, :2]
    short, long = sides.amin(1), sides.amax(1)
    share = sides[:, 0] * sides[:, 1] / (full[:, 0] * full[:, 1]).clamp(min=TINY)
    return (min_area_ratio < 0) | ((short > MIN_SIDE) & (long / short.clamp(min=TINY) < MAX_ASPECT) & (share > min_area_ratio))


def hulls(points: Tensor, lengths: Tensor) -> Tensor:
    """Bounding boxes [n, 4] of outlines that lie one after another; zeros for an outline without points."""
    owner = torch.repeat_interleave(lengths)[:, None].expand(-1, 2)
    low = points.new_full((len(lengths), 2), torch.inf).scatter_reduce(0, owner, points, "amin")
    high = points.new_full((len(lengths), 2), -torch.inf).scatter_reduce(0, owner, points, "amax")
    return torch.where((lengths > 0)[:, None], torch.cat((low, high), 1), 0.0)


def clip_outlines(points: Tensor, lengths: Tensor, width: float, height: float) -> tuple[Tensor, Tensor, Tensor]:
    """What is left of outlines within 0..width x 0..height, points and lengths, and its hulls [n, 4]."""
    points, lengths = clip(points, lengths, width, height)
    return points, lengths, hulls(points, lengths)


def clip(points: Tensor, lengths: Tensor, width: float, height: float) -> tuple[Tensor, Tensor]:
    """Outlines clipped to 0..width x 0..height, one edge after another: left, right, top, bottom.

    Sutherland and Hodgman, Reentrant polygon clipping, CACM 17(1), 1974.
    """
    for axis, extent in ((0, width), (1, height)):
        points, lengths = _clip_side(points, lengths, points[:, axis])
        points, lengths = _clip_side(points, lengths, extent - points[:, axis])
    return torch.stack((points[:, 0].clamp(0, width), points[:, 1].clamp(0, height)), 1), lengths


def _clip_side(points: Tensor, lengths: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the side where `distance` [p] is not negative: each point inside, and after it where its edge crosses."""
    owner = torch.repeat_interleave(lengths)
    following = torch.arange(1, len(points) + 1, device=points.device)
    filled = lengths[lengths > 0]
    last = filled.cumsum(0) - 1
    following[last] = last + 1 - filled
    inside = distance >= 0
    crossing = inside != inside[following]
    share = distance / torch.where(crossing, distance - distance[following], 1.0)
    cut = points + share[:, None] * (points[following] - points)
    used = torch.stack((inside, crossing), 1)
    left = torch.zeros_like(lengths).index_add(0, owner, used.sum(1))
    return torch.stack((points, cut), 1)[used], left
