"""Task-aligned assignment of boxes to anchors (TOOD, arXiv 2108.07755, section 3.2; facts: loss)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yolov9k.ops.backends import choose
from yolov9k.ops.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.reference import task_aligned_assign as reference


class Assignment(NamedTuple):
    """gt_index int64 [B, A]: the anchor's box, -1 for background. weight [B, A]: its normalised target score."""

    gt_index: Tensor
    weight: Tensor


def task_aligned_assign(
    scores: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_mask: Tensor,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    backend: str = "auto",
) -> Assignment:
    """Assign each anchor to a ground-truth box or to the background.

    scores [B, A, nc] probabilities; boxes [B, A, 4] xyxy in pixels; anchors [A, 2] in pixels; gt_labels [B, G];
    gt_boxes [B, G, 4] xyxy in pixels; gt_mask [B, G] (non-zero: a real box). Candidates are anchors strictly inside a
    box; metric = p^alpha * max(CIoU, 0)^beta; the top `topk` a box of metric above 0, ties to the lowest index; an
    anchor claimed by several goes to the highest CIoU over all real boxes. A NaN or infinite prediction has metric 0.
    No gradient.
    Raises ValueError or TypeError naming the argument.
    """
    op = "task_aligned_assign"
    expect_shape(scores, (None, None, None), op, "scores")
    batch, count, classes = scores.shape
    for name, tensor, shape in (
        ("boxes", boxes, (batch, count, 4)),
        ("anchors", anchors, (count, 2)),
        ("gt_boxes", gt_boxes, (batch, None, 4)),
        ("gt_labels", gt_labels, (batch, gt_boxes.shape[1])),
        ("gt_mask", gt_mask, (batch, gt_boxes.shape[1])),
    ):
        expect_shape(tensor, shape, op, name)
        expect_device(tensor, scores, op, name)
    for name, tensor in (("scores", scores), ("boxes", boxes), ("anchors", anchors), ("gt_boxes", gt_boxes)):
        expect_float(tensor, op, name)
    expect(classes > 0, op, "scores", "at least one class wide", list(scores.shape))
    expect(topk >= 1, op, "topk", "at least 1", topk)
    expect(alpha >= 0 and beta >= 0, op, "alpha and beta", "at least 0", (alpha, beta))
    choose(op, backend, scores.device)
    return Assignment(
        *torch.ops.yolov9k.task_aligned_assign(scores, boxes, anchors, gt_labels, gt_boxes, gt_mask, topk, alpha, beta)
    )


def _fake(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    topk: int, alpha: float, beta: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shape = scores.shape[:2]
    return scores.new_empty(shape, dtype=torch.int64), scores.new_empty(shape)


def _no_gradient(ctx: object, *grads: object) -> tuple[None, ...]:
    return (None,) * 9


define(
    "task_aligned_assign(Tensor scores, Tensor boxes, Tensor anchors, Tensor gt_labels, Tensor gt_boxes, Tensor gt_mask, "
    "int topk, float alpha, float beta) -> (Tensor gt_index, Tensor weight)",
    reference.task_aligned_assign,
    _fake,
)
differentiate("task_aligned_assign", _no_gradient)
