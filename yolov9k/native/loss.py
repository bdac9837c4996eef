"""The detection loss of csrc/ on the CPU: from raw maps to the three parts and the maps' gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_shape
from yolov9k.native.module import DTYPES, Shapes, call, check

MAP_DTYPES = (torch.float32, torch.bfloat16)


def loss_predictions(maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> tuple[Tensor, Tensor]:
    """What the assigner reads: boxes x1, y1, x2, y2 in pixels, float32 [B, A, 4], and logits [B, A, nc] in the maps' dtype.

    maps: [B, 4 * reg_max + nc, h, w] a level, all float32 or all bfloat16, any layout; channels-last is read where it lies.
    Raises ValueError or TypeError naming the argument.
    """
    rows, arguments = _levels("loss_predictions", maps, strides, reg_max)
    batch, total = len(maps[0]), sum(level.shape[1] * level.shape[2] for level in rows)
    boxes = torch.empty((batch, total, 4), dtype=torch.float32)
    logits = torch.empty((batch, total, maps[0].shape[1] - 4 * reg_max), dtype=maps[0].dtype)
    outputs = {"boxes": boxes.data_ptr(), "logits": logits.data_ptr()}
    call("loss_predictions", boxes.device, {**arguments, "grads": [], **outputs})
    return boxes, logits


def detection_loss(
    maps: Sequence[Tensor], gt_index: Tensor, weight: Tensor, weight_sum: Tensor, labels: Tensor, gt_boxes: Tensor,
    strides: Sequence[int], reg_max: int, smoothing: float = 0.0, pos_weight: float = 1.0, factors: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Parts of the loss, float32 [3]: box, class, dfl; with factors [3] also the gradients of factors . parts.

    maps as in `loss_predictions`; gt_index int64 [B, A], weight [B, A] and weight_sum [B] float32: the assignment; labels
    int64 [B, G]; gt_boxes float32 [B, G, 4] in pixels. Gradients have the maps' dtype, channels-last. The result does not
    depend on the number of threads. Raises ValueError or TypeError naming the argument, ValueError for an index of no box or
    no class.
    """
    op = "detection_loss"
    rows, arguments = _levels(op, maps, strides, reg_max)
    expect_shape(gt_boxes, (len(maps[0]), None, 4), op, "gt_boxes")
    batch, count = gt_boxes.shape[:2]
    total = sum(level.shape[1] * level.shape[2] for level in rows)
    shapes: Shapes = {
        "gt_index": (gt_index, (batch, total)), "weight": (weight, (batch, total)), "weight_sum": (weight_sum, (batch,)),
        "labels": (labels, (batch, count)), "gt_boxes": (gt_boxes, (batch, count, 4)),
    }  # fmt: skip
    if factors is not None:
        shapes["factors"] = (factors, (3,))
    kinds = {"gt_index": (torch.int64,), "labels": (torch.int64,)}
    kinds |= dict.fromkeys(("weight", "weight_sum", "gt_boxes", "factors"), (torch.float32,))
    check(op, torch.empty(0), shapes, **kinds)
    held = {name: tensor.contiguous() for name, (tensor, _) in shapes.items()}
    grads = [] if factors is None else [torch.empty_like(level) for level in rows]
    parts = torch.empty(3)
    call(op, parts.device, {
        **arguments, "factors": 0, **{name: tensor.data_ptr() for name, tensor in held.items()}, "gt_count": count,
        "smoothing": smoothing, "pos_weight": pos_weight, "grads": [grad.data_ptr() for grad in grads],
        "parts": parts.data_ptr(),
    })  # fmt: skip
    return parts, [grad.permute(0, 3, 1, 2) for grad in grads]


def _levels(op: str, maps: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> tuple[list[Tensor], dict[str, object]]:
    """The maps as [B, h, w, channels], to be kept while they are read, and what the compiled functions are told of them."""
    expect(len(maps) > 0 and len(maps) == len(strides), op, "strides", f"{len(maps)} values", list(strides))
    expect(reg_max >= 2, op, "reg_max", "at least 2", reg_max)
    expect_shape(maps[0], (None,) * 4, op, "maps[0]")
    batch, channels = maps[0].shape[:2]
    expect(channels > 4 * reg_max, op, "maps[0]", f"more than 4*reg_max={4 * reg_max} channels wide", channels)
    shapes: Shapes = {f"maps[{i}]": (level, (batch, channels, None, None)) for i, level in enumerate(maps)}
    check(op, torch.empty(0), shapes, maps=MAP_DTYPES)
    check(op, torch.empty(0), shapes, maps=(maps[0].dtype,))
    rows = [level.detach().permute(0, 2, 3, 1).contiguous() for level in maps]
    return rows, {
        "maps": [level.data_ptr() for level in rows], "heights": [level.shape[1] for level in rows],
        "widths": [level.shape[2] for level in rows], "strides": [float(stride) for stride in strides],
        "dtype": DTYPES[maps[0].dtype], "images": batch, "classes": channels - 4 * reg_max, "bins": reg_max,
    }  # fmt: skip
