"""task_aligned_assign in plain torch: the definition (TOOD, arXiv 2108.07755, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yolov9k.common.device import exact_dtype, widened
from yolov9k.ops.reference.boxes import box_ciou

EPS = 1e-9
MAX_TOPK = 1024  # anchors that the kernels hold of one box (csrc/task_aligned_assign.h)


@dataclass(frozen=True)
class AssignOptions:
    """Parameters of the assignment (arXiv 2108.07755, section 3.2).

    topk: anchors that a box claims at most, from 1 to 1024. alpha, beta: exponents of probability and overlap in the
    alignment metric, at least 0. mask_conflicts: only boxes that contain a contested anchor compete for it, as other
    implementations have it; otherwise all do. small_side, grown_side: a box's side below the former, in pixels, is taken to be
    as long as the latter, about the box's center, where anchors inside the box are looked for, as some implementations have
    it; 0: every box as it is. reach: strides from an anchor to the farthest side of a box that it can predict; above 0 boxes
    match as in the MIT rewrite and LibreYOLO: a box looks at anchors inside it or on its edges that reach all of its sides, or
    else claims the best of all anchors, and only boxes that claim an anchor compete for it. Raises ValueError naming the
    argument.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    mask_conflicts: bool = False
    small_side: float = 0.0
    grown_side: float = 0.0
    reach: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.topk <= MAX_TOPK:
            raise ValueError(f"task_aligned_assign: topk must be from 1 to {MAX_TOPK}, got {self.topk}")
        for name in ("alpha", "beta", "small_side", "grown_side", "reach"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"task_aligned_assign: {name} must be at least 0, got {value}")


def alignment(
    scores: Tensor, boxes: Tensor, gt_labels: Tensor, gt_boxes: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """Metric p^alpha * u^beta and overlap u = max(CIoU, 0) of every box and anchor, both [B, G, A].

    0 where the probability or the CIoU is not finite.
    """
    labels = gt_labels.long().clamp(0, scores.shape[2] - 1)
    probability = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, scores.shape[1]))
    ciou = box_ciou(gt_boxes[:, :, None], boxes[:, None])
    overlap = ciou.clamp(min=0).nan_to_num(0.0, 0.0, 0.0)
    confidence = widened(probability).pow(alpha).to(probability.dtype)  # correctly rounded, as `box_ciou`'s arc tangent
    unknown = (probability + ciou).isfinite().logical_not_()  # asked for, because NaN to the power of 0 is 1
    closeness = widened(overlap).pow(beta).to(overlap.dtype)
    return (confidence * closeness).nan_to_num(0.0, 0.0, 0.0).clamp_(min=0).masked_fill_(unknown, 0.0), overlap


def inside(anchors: Tensor, gt_boxes: Tensor, limits: Tensor | None = None) -> Tensor:
    """Whether anchor [A, 2] lies strictly inside box [B, G, 4], with limits [A] in it, no side of it farther: [B, G, A]."""
    low = anchors - gt_boxes[:, :, None, :2]
    high = gt_boxes[:, :, None, 2:] - anchors
    if limits is None:
        return torch.minimum(low, high).amin(-1) > EPS
    return (torch.minimum(low, high).amin(-1) >= 0) & (torch.maximum(low, high).amax(-1) <= limits)


def regions(gt_boxes: Tensor, options: AssignOptions) -> Tensor:
    """Where each box [B, G, 4] looks for anchors: itself, its small sides grown where the options say so."""
    if options.small_side == 0:
        return gt_boxes
    sides = gt_boxes[..., 2:] - gt_boxes[..., :2]
    center, half = (gt_boxes[..., :2] + gt_boxes[..., 2:]) / 2, options.grown_side / 2
    grown = torch.cat((center - half, center + half), -1)
    return torch.where((sides < options.small_side).repeat(1, 1, 2), grown, gt_boxes)


def reach_limits(strides: Tensor | None, options: AssignOptions) -> Tensor | None:
    """Pixels that each anchor of stride [A] reaches to a side, float32 [A]; None where the options set no reach."""
    return None if strides is None or options.reach == 0 else strides.detach().float() * options.reach


def select_candidates(metric: Tensor, inside_box: Tensor, topk: int) -> Tensor:
    """The `topk` anchors of highest metric inside each box, ties to the lowest index: bool [B, G, A].

    Metric 0 is no claim. The published top-k fills up with zeros in an arbitrary order, from inside or outside the box;
    leaving them out equals its fixtures and depends on no order.
    """
    ranked = metric * inside_box
    order = ranked.sort(dim=-1, descending=True, stable=True).indices[..., :topk]
    return torch.zeros_like(inside_box).scatter_(-1, order, True) & (ranked > 0)


def add_best(claimed: Tensor, metric: Tensor) -> Tensor:
    """Claims [B, G, A] with the anchor of highest metric, the lowest of equals, of each box that has none; bool [B, G, A]."""
    best = metric.amax(-1, keepdim=True)
    first = metric.eq(best).int().argmax(-1, keepdim=True)
    lonely = ~claimed.any(-1, keepdim=True) & (best > 0)
    return claimed | torch.zeros_like(claimed).scatter_(-1, first, True) & lonely


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where one of the tensors is, otherwise float32: 16 bits cannot hold areas or EPS."""
    return torch.float64 if torch.float64 in [tensor.dtype for tensor in tensors] else torch.float32


def task_aligned_assign(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    options: AssignOptions, logits: bool = False, limits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Assign to each anchor a box or the background; shapes and results as in `yolov9k.ops.task_aligned_assign`.

    limits: `reach_limits`, which stand for options.reach. The third result, weight_sum [B] of the weights' dtype, is each
    image's sum of weights.
    """
    batch, count, _ = scores.shape
    dtype = compute_dtype(scores, boxes, anchors, gt_boxes)
    if 0 in (batch, count, gt_boxes.shape[1]):
        weight = scores.new_zeros((batch, count), dtype=dtype)
        return torch.full((batch, count), -1, device=scores.device), weight, weight.sum(1)
    scores, boxes, anchors, gt_boxes = (tensor.to(dtype) for tensor in (scores, boxes, anchors, gt_boxes))
    if logits:
        scores = widened(scores).sigmoid().to(dtype)
    valid = gt_mask.bool()[..., None] & gt_boxes.isfinite().all(-1, keepdim=True)
    metric, overlap = alignment(scores, boxes, gt_labels, gt_boxes, options.alpha, options.beta)
    candidate = inside(anchors, regions(gt_boxes, options), limits) & valid
    claimed = select_candidates(metric, candidate, options.topk)
    claimed = claimed if limits is None else add_best(claimed, metric * valid)
    competes = claimed if limits is not None else candidate if options.mask_conflicts else valid
    gt_index = resolve_claims(claimed, overlap, competes)
    mine = gt_index[:, None] == torch.arange(gt_boxes.shape[1], device=scores.device)[:, None]
    best_metric = (metric * mine).amax(2, keepdim=True)
    best_overlap = (overlap * mine).amax(2, keepdim=True)
    weight = (metric * mine * best_overlap / (best_metric + EPS)).amax(1)
    return gt_index, weight, weight.sum(1, dtype=exact_dtype(weight.device)).to(dtype)


def resolve_claims(claimed: Tensor, overlap: Tensor, competes: Tensor) -> Tensor:
    """The box of each anchor, int64 [B, A], -1 for background, from claims and overlaps [B, G, A].

    An anchor that several boxes claim goes to the highest overlap of all boxes that compete for it, claimant or not.
    """
    claims = claimed.sum(1)
    best_box = overlap.masked_fill(~competes, -1.0).argmax(1)
    return torch.where(claims > 1, best_box, claimed.int().argmax(1)).masked_fill(claims == 0, -1)
