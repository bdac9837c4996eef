"""dfl_decode in plain torch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def make_anchors(maps: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Anchor points and strides of all levels, row by row, level by level.

    maps: [B, C, h, w] a level. Returns points [A, 2] (x, y at the cells' centers, in units of the level's stride) and
    strides [A, 1], in the maps' dtype and device. Anchor points lie at cell centers.
    """
    points, scales = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[-2:]
        x = torch.arange(width, device=level.device, dtype=level.dtype) + 0.5
        y = torch.arange(height, device=level.device, dtype=level.dtype) + 0.5
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((columns, rows), -1).reshape(-1, 2))
        scales.append(torch.full((height * width, 1), float(stride), device=level.device, dtype=level.dtype))
    return torch.cat(points), torch.cat(scales)


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """[B, C, h, w] a level to [B, A, C]."""
    return torch.cat([level.flatten(2) for level in maps], 2).transpose(1, 2)


def expected_distances(bins: Tensor, reg_max: int) -> Tensor:
    """Expectation of each side's distribution: [..., 4 * reg_max] logits to [..., 4] distances in strides (GFL, eq. 6).

    Summed by halves, a tree that every machine can follow: a library's dot product would differ by processor.
    """
    terms = bins.reshape(*bins.shape[:-1], 4, reg_max).softmax(-1) * torch.arange(reg_max, device=bins.device, dtype=bins.dtype)
    while (width := terms.shape[-1]) > 1:
        half = (width + 1) // 2
        terms = F.pad(terms[..., half:], (0, 2 * half - width)) + terms[..., :half]
    return terms[..., 0]


def dfl_decode(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int = 16) -> Tensor:
    """Raw head maps to boxes and probabilities, differentiable by torch's own autograd.

    maps: [B, 4*reg_max + nc, h, w] a level, any floating dtype. Returns [B, 4 + nc, A]: center x, center y, width, height
    in pixels, then class probabilities.
    """
    points, scales = make_anchors(maps, strides)
    flat = flatten_levels(maps)
    distances = expected_distances(flat[..., : 4 * reg_max], reg_max)
    top_left, bottom_right = points - distances[..., :2], points + distances[..., 2:]
    boxes = torch.cat(((top_left + bottom_right) / 2, bottom_right - top_left), -1) * scales
    return torch.cat((boxes, flat[..., 4 * reg_max :].sigmoid()), -1).transpose(1, 2)
