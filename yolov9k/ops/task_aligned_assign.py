"""Task-aligned assignment of boxes to anchors (TOOD, arXiv 2108.07755, section 3.2; facts: loss)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolov9k.native import task_aligned_assign as run_native
from yolov9k.ops.backends import choose
from yolov9k.ops.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.reference import task_aligned_assign as reference
from yolov9k.ops.registry import Operator, register

MOST_TOPK = 1024  # what the kernels hold of one box (csrc/task_aligned_assign.h)


class Assignment(NamedTuple):
    """gt_index int64 [B, A]: the anchor's box, -1 for background. weight [B, A]: its target score, of the scores' dtype."""

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
    logits: bool = False,
    mask_conflicts: bool = False,
) -> Assignment:
    """Assign each anchor to a ground-truth box or to the background.

    scores [B, A, nc] probabilities; boxes [B, A, 4] xyxy in pixels; anchors [A, 2] in pixels; gt_labels [B, G];
    gt_boxes [B, G, 4] xyxy in pixels; gt_mask [B, G] (non-zero: a real box). Candidates are anchors strictly inside a
    box; metric = p^alpha * max(CIoU, 0)^beta; the top `topk` a box of metric above 0, ties to the lowest index; an
    anchor claimed by several goes to the highest CIoU over all real boxes. A NaN or infinite prediction has metric 0, such
    a box is no real one. Computed in float32 (float64 where one of the inputs is). No gradient.
    logits: scores are logits. mask_conflicts: for a contested anchor only the boxes that contain it compete, as other
    implementations have it. Raises ValueError or TypeError naming the argument.
    """
    op = "task_aligned_assign"
    expect_shape(scores, (None, None, None), op, "scores")
    expect_shape(gt_boxes, (len(scores), None, 4), op, "gt_boxes")
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
    expect(1 <= topk <= MOST_TOPK, op, "topk", f"from 1 to {MOST_TOPK}", topk)
    expect(alpha >= 0 and beta >= 0, op, "alpha and beta", "at least 0", (alpha, beta))
    exact = torch.float64 in (scores.dtype, boxes.dtype, anchors.dtype, gt_boxes.dtype)
    backend = choose(op, backend, scores.device, exact)
    gt_index, weight, _ = torch.ops.yolov9k.task_aligned_assign(
        scores, boxes, anchors, gt_labels, gt_boxes, gt_mask, topk, alpha, beta, logits, mask_conflicts, backend
    )
    return Assignment(gt_index, weight)


def _run(scores: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *arguments, backend = arguments  # type: ignore[assignment]
    if backend == "reference":
        return reference.task_aligned_assign(scores, *arguments)
    gt_index, weight, weight_sum = run_native(scores, *arguments)
    return gt_index, weight.to(scores.dtype), weight_sum.to(scores.dtype)


def _fake(scores: Tensor, *arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    shape = scores.shape[:2]
    return scores.new_empty(shape, dtype=torch.int64), scores.new_empty(shape), scores.new_empty(shape[:1])


def _no_gradient(ctx: object, *grads: object) -> tuple[None, ...]:
    return (None,) * 12


define(
    "task_aligned_assign(Tensor scores, Tensor boxes, Tensor anchors, Tensor gt_labels, Tensor gt_boxes, Tensor gt_mask, "
    "int topk, float alpha, float beta, bool logits, bool mask_conflicts, str backend) -> "
    "(Tensor gt_index, Tensor weight, Tensor weight_sum)",
    _run,
    _fake,
)
differentiate("task_aligned_assign", _no_gradient)
register(
    Operator(
        "task_aligned_assign",
        task_aligned_assign,
        "assignment of anchors to ground-truth boxes",
        {"cpu": "default on CPU", "cuda": "a batch without a read on the host"},
    )
)
