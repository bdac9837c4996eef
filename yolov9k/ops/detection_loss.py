"""Box, class and distribution loss of one branch, assignment included (facts: loss)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k.native import task_aligned_assign as run_native
from yolov9k.ops.backends import choose
from yolov9k.ops.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.ops.library import define, differentiate, label
from yolov9k.ops.reference import detection_loss as reference
from yolov9k.ops.reference.dfl_decode import make_anchors
from yolov9k.ops.reference.task_aligned_assign import task_aligned_assign as reference_assign
from yolov9k.ops.registry import Operator, register


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
    backend = _checked(maps, gt_labels, gt_boxes, counts, strides, reg_max, label_smoothing, backend)
    options = (list(strides), reg_max, topk, alpha, beta, label_smoothing, pos_weight)
    if backend == "triton":
        operands = (list(maps), gt_labels, gt_boxes, counts)
        return torch.ops.yolov9k.detection_loss_fused(*operands, *options)[0]  # type: ignore[no-any-return]
    assigner = "reference" if backend == "reference asked for" else "auto"
    return torch.ops.yolov9k.detection_loss(list(maps), gt_labels, gt_boxes, counts, *options, assigner)  # type: ignore[no-any-return]


def detection_loss_and_gradient(
    maps: Sequence[Tensor],
    gt_labels: Tensor,
    gt_boxes: Tensor,
    counts: Tensor,
    strides: Sequence[int],
    factors: Tensor,
    reg_max: int = 16,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
    pos_weight: float = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, list[Tensor]]:
    """Parts [3] and the gradients of factors . parts in one pass over the maps, each in its map's dtype.

    factors: float [3] on the maps' device, read there. Other arguments and errors as in `detection_loss`. No autograd.
    """
    found = _checked(maps, gt_labels, gt_boxes, counts, strides, reg_max, label_smoothing, backend)
    expect_shape(factors, (3,), "detection_loss", "factors")
    expect_device(factors, maps[0], "detection_loss", "factors")
    options = (list(strides), reg_max, topk, alpha, beta, label_smoothing, pos_weight)
    if found == "triton":
        operands = ([level.detach() for level in maps], gt_labels, gt_boxes, counts)
        parts, *grads = torch.ops.yolov9k.detection_loss_one_pass(*operands, factors.float(), *options)
        return parts, grads[0]
    with torch.enable_grad():
        leaves = [level.detach().requires_grad_() for level in maps]
        parts = detection_loss(leaves, gt_labels, gt_boxes, counts, *options, backend)
        return parts.detach(), list(torch.autograd.grad((parts * factors).sum(), leaves))


def _checked(
    maps: Sequence[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: Sequence[int], reg_max: int,
    label_smoothing: float, backend: str,
) -> str:  # fmt: skip
    """The backend that runs; raises ValueError or TypeError naming the argument."""
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
    exact = any(level.dtype == torch.float64 for level in maps)
    found = choose(op, backend, maps[0].device, exact)
    return "reference asked for" if backend == "reference" else found


def _assigned(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: list[int], reg_max: int, topk: int,
    alpha: float, beta: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """gt_index, weight and weight_sum, by the device's own assigner."""
    from yolov9k.kernels.detection_loss import predictions  # Triton takes a second to import

    boxes, logits = predictions(maps, strides, reg_max)
    points, scales = make_anchors([level.float() for level in _shapes(maps)], strides)
    mask = torch.arange(gt_boxes.shape[1], device=counts.device) < counts[:, None]
    backend = choose("task_aligned_assign", "auto", boxes.device)
    operands = (boxes, points * scales, gt_labels, gt_boxes, mask, topk, alpha, beta, True, False)
    with label("step/assignment"):
        if backend == "reference":
            return reference_assign(logits.float(), *operands)
        return run_native(logits, *operands)  # the operator would round the weights to the logits' dtype


def _shapes(maps: list[Tensor]) -> list[Tensor]:
    """Tensors of the maps' sizes that hold nothing, for what asks sizes alone."""
    return [level.new_empty(1, device=level.device).expand(1, 1, *level.shape[2:]) for level in maps]


def _fused(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: list[int], reg_max: int, topk: int,
    alpha: float, beta: float, label_smoothing: float, pos_weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from yolov9k.kernels.detection_loss import loss

    labels, boxes = gt_labels.long().contiguous(), gt_boxes.float().contiguous()
    found = _assigned(maps, labels, boxes, counts, strides, reg_max, topk, alpha, beta)
    parts, _ = loss(maps, *found, labels, boxes, strides, reg_max, label_smoothing, pos_weight)
    return parts, *found, labels.clone(), boxes.clone()


def _one_pass(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, factors: Tensor, strides: list[int],
    reg_max: int, topk: int, alpha: float, beta: float, label_smoothing: float, pos_weight: float,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    from yolov9k.kernels.detection_loss import loss

    labels, boxes = gt_labels.long().contiguous(), gt_boxes.float().contiguous()
    found = _assigned(maps, labels, boxes, counts, strides, reg_max, topk, alpha, beta)
    return loss(maps, *found, labels, boxes, strides, reg_max, label_smoothing, pos_weight, factors.contiguous())


def _backward(
    factors: Tensor, maps: list[Tensor], gt_index: Tensor, weight: Tensor, weight_sum: Tensor, labels: Tensor, boxes: Tensor,
    strides: list[int], reg_max: int, label_smoothing: float, pos_weight: float,
) -> list[Tensor]:  # fmt: skip
    from yolov9k.kernels.detection_loss import loss

    found = (gt_index, weight, weight_sum, labels, boxes)
    return loss(maps, *found, strides, reg_max, label_smoothing, pos_weight, factors.float().contiguous())[1]


def _fake_fused(maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, *options: object) -> tuple[Tensor, ...]:
    batch, anchors = maps[0].shape[0], sum(level.shape[2] * level.shape[3] for level in maps)
    shapes = ((3,), (batch, anchors), (batch, anchors), (batch,), tuple(gt_labels.shape), tuple(gt_boxes.shape))
    whole = (1, 4)  # gt_index, labels
    return tuple(maps[0].new_empty(shape, dtype=torch.int64 if i in whole else torch.float32) for i, shape in enumerate(shapes))


def _fake_one_pass(maps: list[Tensor], *options: object) -> tuple[Tensor, list[Tensor]]:
    return maps[0].new_empty(3, dtype=torch.float32), [torch.empty_like(level) for level in maps]


def _fake_backward(factors: Tensor, maps: list[Tensor], *options: object) -> list[Tensor]:
    return [torch.empty_like(level) for level in maps]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    maps, _, _, _, strides, reg_max, _, _, _, label_smoothing, pos_weight = inputs
    ctx.options, ctx.levels = (strides, reg_max, label_smoothing, pos_weight), len(maps)
    ctx.save_for_backward(*maps, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, factors: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rest = (None,) * 10
    if factors is None:
        return [None] * ctx.levels, *rest
    if torch.is_grad_enabled():  # autograd would stop at the backward's own operator, and be wrong
        raise RuntimeError("detection_loss: has no second derivative; use the reference for create_graph=True")
    tensors = list(ctx.saved_tensors)
    maps, found = tensors[: ctx.levels], tensors[ctx.levels :]
    return torch.ops.yolov9k.detection_loss_backward(factors, maps, *found, *ctx.options), *rest


# A composite: autograd, fakes and torch.compile see the differentiable torch operators that it is made of.
define(
    "detection_loss(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, int[] strides, int reg_max, int topk, "
    "float alpha, float beta, float label_smoothing, float pos_weight, str assigner) -> Tensor",
    reference.detection_loss,
)

_OPTIONS = "int[] strides, int reg_max, int topk, float alpha, float beta, float label_smoothing, float pos_weight"
define(
    f"detection_loss_fused(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, {_OPTIONS}) -> "
    "(Tensor parts, Tensor gt_index, Tensor weight, Tensor weight_sum, Tensor labels, Tensor boxes)",
    _fused,
    _fake_fused,
)
define(
    f"detection_loss_one_pass(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, Tensor factors, {_OPTIONS}) -> "
    "(Tensor parts, Tensor[] grads)",
    _one_pass,
    _fake_one_pass,
)
define(
    "detection_loss_backward(Tensor factors, Tensor[] maps, Tensor gt_index, Tensor weight, Tensor weight_sum, Tensor labels, "
    "Tensor boxes, int[] strides, int reg_max, float label_smoothing, float pos_weight) -> Tensor[]",
    _backward,
    _fake_backward,
)
differentiate("detection_loss_fused", _differentiate, _save)
register(
    Operator(
        "detection_loss",
        detection_loss,
        "box, class and distribution loss of a branch",
        {"triton": "value and gradient in one pass"},
        kernels=("detection_loss",),
    )
)
