"""Task-aligned assignment of boxes to anchors (TOOD, arXiv 2108.07755, section 3.2)."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.native import task_aligned_assign as run_native
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.reference import task_aligned_assign as reference
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, compute_dtype
from yolov9k.ops.registry import Operator, register

Options = TypeVar("Options")


class Assignment(NamedTuple):
    """gt_index int64 [B, A]: the anchor's box, -1 for background. weight [B, A]: its target score, float32 or float64."""

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
    options: AssignOptions | None = None,
    strides: Tensor | None = None,
) -> Assignment:
    """Assign each anchor to a ground-truth box or to the background.

    scores [B, A, nc] probabilities; boxes [B, A, 4] xyxy in pixels; anchors [A, 2] in pixels; gt_labels [B, G];
    gt_boxes [B, G, 4] xyxy in pixels; gt_mask [B, G] (non-zero: a real box). Candidates are anchors strictly inside a
    box; metric = p^alpha * max(CIoU, 0)^beta; the top `topk` a box of metric above 0, ties to the lowest index; an
    anchor claimed by several goes to the highest CIoU over all real boxes. A NaN or infinite prediction has metric 0, and
    such a ground-truth box is treated as padding. Computed in float32, and weights are float32, for 16-bit inputs too
    (float64 where one of the floating-point inputs is). No gradient.
    logits: scores are logits. mask_conflicts: for a contested anchor only the boxes that contain it compete, as other
    implementations have it. options: topk, alpha, beta, mask_conflicts and more in one object, in place of them.
    strides [A]: pixels of each anchor's stride, which `options.reach` counts in.
    Raises ValueError or TypeError naming the argument.
    """
    op = "task_aligned_assign"
    options = one_of(options, AssignOptions(topk, alpha, beta, mask_conflicts), op)
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
    if strides is not None:
        expect_shape(strides, (count,), op, "strides")
        expect_device(strides, scores, op, "strides")
    expect(options.reach == 0 or strides is not None, op, "strides", "given where options.reach is", None)
    limits = reference.reach_limits(strides, options)
    gt_index, weight, _ = assign(scores, boxes, anchors, gt_labels, gt_boxes, gt_mask, options, backend, logits, limits)
    return Assignment(gt_index, weight)


def assign(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    options: AssignOptions, backend: str, logits: bool = False, limits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`task_aligned_assign` of checked arguments, `reach_limits` for its strides, with the weights' sum [B]."""
    exact = compute_dtype(scores, boxes, anchors, gt_boxes) == torch.float64
    backend = choose("task_aligned_assign", backend, scores.device, exact)
    exponents, sides = (options.alpha, options.beta), (options.small_side, options.grown_side)
    scalars = (options.topk, *exponents, logits, options.mask_conflicts, *sides)
    tensors = (scores, boxes, anchors, gt_labels, gt_boxes, gt_mask)
    return torch.ops.yolov9k.task_aligned_assign(*tensors, *scalars, backend, limits)  # type: ignore[no-any-return]


def one_of(options: Options | None, given: Options, op: str) -> Options:
    """`options`, or what was `given` one by one; raises ValueError where both differ from the default."""
    if options is None:
        return given
    expect(given == type(given)(), op, "options", "given in place of its fields, not beside them", given)
    return options


def _run(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    topk: int, alpha: float, beta: float, logits: bool, mask_conflicts: bool, small_side: float, grown_side: float,
    backend: str, limits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tensors = (scores, boxes, anchors, gt_labels, gt_boxes, gt_mask)
    options = AssignOptions(topk, alpha, beta, mask_conflicts, small_side, grown_side)
    if backend == "reference":
        return reference.task_aligned_assign(*tensors, options, logits, limits)
    regions = reference.regions(gt_boxes.float(), options)
    return run_native(*tensors, topk, alpha, beta, logits, mask_conflicts, regions, limits)


def _fake(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, *arguments: object
) -> tuple[Tensor, Tensor, Tensor]:
    shape, dtype = scores.shape[:2], compute_dtype(scores, boxes, anchors, gt_boxes)
    index = scores.new_empty(shape, dtype=torch.int64)
    return index, scores.new_empty(shape, dtype=dtype), scores.new_empty(shape[:1], dtype=dtype)


def _no_gradient(ctx: Any, *grads: object) -> tuple[None, ...]:
    return (None,) * 15


define(
    "task_aligned_assign(Tensor scores, Tensor boxes, Tensor anchors, Tensor gt_labels, Tensor gt_boxes, Tensor gt_mask, "
    "int topk, float alpha, float beta, bool logits, bool mask_conflicts, float small_side, float grown_side, str backend, "
    "Tensor? limits=None) -> "
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
