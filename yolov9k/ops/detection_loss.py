"""Box, class and distribution loss of one branch, assignment included (facts: loss)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.ops.backends import choose
from yolov9k.ops.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.ops.library import define
from yolov9k.ops.reference import detection_loss as reference


def detection_loss(
    maps: Sequence[Tensor],
    gt_labels: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    strides: Sequence[int],
    reg_max: int = 16,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    pos_weight: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Loss parts of one branch before gains: [3] = box (1 - CIoU), class (BCE), dfl, float32 (float64 for float64 maps).

    maps: raw [B, 4*reg_max + nc, h, w] a level; gt_labels [B, G]; gt_boxes [B, G, 4] xyxy in pixels; counts [B]: rows of
    each image that are real. Each part is divided by max(sum of target scores, 1). Differentiable in `maps`.
    Raises ValueError or TypeError naming the argument.
    """
    op = "detection_loss"
    expect(len(maps) > 0 and len(maps) == len(strides), op, "strides", f"{len(maps)} values", list(strides))
    batch, channels = maps[0].shape[:2]
    expect(channels > 4 * reg_max, op, "maps[0]", f"more than 4*reg_max={4 * reg_max} channels wide", channels)
    for i, level in enumerate(maps):
        expect_float(level, op, f"maps[{i}]")
        expect_shape(level, (batch, channels, None, None), op, f"maps[{i}]")
    expect_shape(gt_boxes, (batch, None, 4), op, "gt_boxes")
    expect_shape(gt_labels, (batch, gt_boxes.shape[1]), op, "gt_labels")
    expect_shape(counts, (batch,), op, "counts")
    for name, tensor in (("gt_boxes", gt_boxes), ("gt_labels", gt_labels), ("counts", counts)):
        expect_device(tensor, maps[0], op, name)
    expect(0 <= label_smoothing < 1, op, "label_smoothing", "in [0, 1)", label_smoothing)
    choose(op, backend, maps[0].device)
    assigner = backend if backend == "reference" else "auto"
    return torch.ops.yolov9k.detection_loss(  # type: ignore[no-any-return]
        list(maps), gt_labels, gt_boxes, counts, list(strides), reg_max, topk, alpha, beta, label_smoothing, pos_weight,
        assigner,
    )


# A composite: autograd, fakes and torch.compile see the differentiable torch operators that it is made of.
define(
    "detection_loss(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, int[] strides, int reg_max, int topk, "
    "float alpha, float beta, float label_smoothing, float pos_weight, str assigner) -> Tensor",
    reference.detection_loss,
)
