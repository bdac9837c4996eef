"""Overlap of boxes, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from yolov9k.common.device import widened

EPS = 1e-7


def _atan(x: Tensor) -> Tensor:
    """Correctly rounded: vendors' single-precision arc tangents differ in the last bit, and assignment would with them.

    The gradient is the plain one: what is added is a constant.
    """
    y = torch.atan(x)
    return y + (torch.atan(widened(x.detach())).to(x.dtype) - y.detach())


def box_ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes a and b [..., 4] (x1, y1, x2, y2), broadcast over the leading dimensions.

    arXiv 2005.03572, eq. 10; the aspect term's weight is held constant in the gradient, as there.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.unbind(-1), b.unbind(-1)
    wa, ha, wb, hb = ax2 - ax1, ay2 - ay1 + EPS, bx2 - bx1, by2 - by1 + EPS
    overlap_w = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    overlap_h = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = overlap_w * overlap_h
    iou = intersection / (wa * ha + wb * hb - intersection + EPS)
    hull_w = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    hull_h = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    diagonal = hull_w.square() + hull_h.square() + EPS
    distance = ((bx1 + bx2 - ax1 - ax2).square() + (by1 + by2 - ay1 - ay2).square()) / 4
    aspect = (4 / math.pi**2) * (_atan(wb / hb) - _atan(wa / ha)).square()
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPS))
    return iou - (distance / diagonal + weight * aspect)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Plain IoU of every pair: a [N, 4], b [M, 4] (x1, y1, x2, y2) to [N, M]; 0 where the union is empty."""
    top_left = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    union = area_a[:, None] + area_b[None] - intersection
    return torch.where(union > 0, intersection / union, torch.zeros_like(union))
