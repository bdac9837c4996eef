"""Box, class and distribution loss of one branch, assignment included (`ops/reference/detection_loss.py` names the papers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov9k import native
from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.common.device import is_cpu
from yolov9k.native.loss import MAP_DTYPES
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define, differentiate, label
from yolov9k.ops.reference import detection_loss as reference
from yolov9k.ops.reference.detection_loss import LossOptions
from yolov9k.ops.reference.dfl_decode import make_anchors
from yolov9k.ops.reference.task_aligned_assign import AssignOptions, reach_limits
from yolov9k.ops.registry import Operator, register
from yolov9k.ops.task_aligned_assign import assign, one_of


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
    options: LossOptions | None = None,
) -> Tensor:
    """Loss parts of one branch before gains: [3] = box (1 - CIoU), class (BCE), dfl, float32 (float64 for float64 maps).

    maps: raw [B, 4*reg_max + nc, h, w] a level; gt_labels [B, G]; gt_boxes [B, G, 4] xyxy in pixels; counts [B]: rows of
    each image that are real. Each part is divided by max(sum of target scores, 1). Differentiable in `maps`.
    options: all from reg_max to pos_weight in one object, in place of them. Raises ValueError or TypeError naming the
    argument.
    """
    given = LossOptions(reg_max, AssignOptions(topk, alpha, beta), label_smoothing, pos_weight)
    options = one_of(options, given, "detection_loss")
    found = _checked(maps, gt_labels, gt_boxes, counts, strides, options, backend)
    arguments = (list(maps), gt_labels, gt_boxes, counts, list(strides), *_scalars(options))
    if found != "reference":
        return torch.ops.yolov9k.detection_loss_fused(*arguments, found)[0]  # type: ignore[no-any-return]
    assigner = "reference" if backend == "reference" else "auto"
    return torch.ops.yolov9k.detection_loss(*arguments, assigner)  # type: ignore[no-any-return]


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
    options: LossOptions | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Parts [3] and the gradients of factors . parts in one pass over the maps, each in its map's dtype.

    factors: float [3] on the maps' device, read there. Other arguments and errors as in `detection_loss`. No autograd.
    """
    given = LossOptions(reg_max, AssignOptions(topk, alpha, beta), label_smoothing, pos_weight)
    options = one_of(options, given, "detection_loss")
    found = _checked(maps, gt_labels, gt_boxes, counts, strides, options, backend)
    expect_shape(factors, (3,), "detection_loss", "factors")
    expect_device(factors, maps[0], "detection_loss", "factors")
    targets = (gt_labels, gt_boxes, counts)
    if found != "reference":
        leaves = [level.detach() for level in maps]
        arguments = (leaves, *targets, factors.float(), list(strides), *_scalars(options), found)
        parts, grads = torch.ops.yolov9k.detection_loss_one_pass(*arguments)
        return parts, grads
    with torch.enable_grad():
        leaves = [level.detach().requires_grad_() for level in maps]
        parts = detection_loss(leaves, *targets, strides, backend=backend, options=options)
        return parts.detach(), list(torch.autograd.grad((parts * factors).sum(), leaves))


def _checked(
    maps: Sequence[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: Sequence[int],
    options: LossOptions, backend: str,
) -> str:  # fmt: skip
    """The backend that runs; raises ValueError or TypeError naming the argument."""
    op, channels = "detection_loss", 4 * options.reg_max
    expect(len(maps) > 0 and len(maps) == len(strides), op, "strides", f"{len(maps)} values", list(strides))
    expect_shape(maps[0], (None, None, None, None), op, "maps[0]")
    batch, width = maps[0].shape[:2]
    expect(width > channels, op, "maps[0]", f"more than 4*reg_max={channels} channels wide", width)
    for i, level in enumerate(maps):
        expect_float(level, op, f"maps[{i}]")
        expect_shape(level, (batch, width, None, None), op, f"maps[{i}]")
        expect_device(level, maps[0], op, f"maps[{i}]")
    expect_shape(gt_boxes, (batch, None, 4), op, "gt_boxes")
    expect_shape(gt_labels, (batch, gt_boxes.shape[1]), op, "gt_labels")
    expect_shape(counts, (batch,), op, "counts")
    for name, tensor in (("gt_boxes", gt_boxes), ("gt_labels", gt_labels), ("counts", counts)):
        expect_device(tensor, maps[0], op, name)
    exact = any(level.dtype == torch.float64 for level in maps)
    if backend == "auto" and is_cpu(maps[0].device) and {level.dtype for level in maps} not in ({d} for d in MAP_DTYPES):
        backend = "reference"
    return choose(op, backend, maps[0].device, exact)


# torch.library's schemas hold plain numbers: here an object becomes these, and below becomes an object again.
_SCALARS = (
    "int reg_max, int topk, float alpha, float beta, bool mask_conflicts, float small_side, float grown_side, "
    "float reach, float label_smoothing, float pos_weight"
)


def _scalars(options: LossOptions) -> tuple[Any, ...]:
    assign = options.assign
    return (
        options.reg_max, assign.topk, assign.alpha, assign.beta, assign.mask_conflicts, assign.small_side, assign.grown_side,
        assign.reach, options.label_smoothing, options.pos_weight,
    )  # fmt: skip


def _options(reg_max: int, *scalars: Any) -> LossOptions:
    *assign, label_smoothing, pos_weight = scalars
    return LossOptions(reg_max, AssignOptions(*assign), label_smoothing, pos_weight)


def _assigner(backend: str, logits: bool = False) -> reference.Assign:
    """The assigner of a backend, named in a profiler's trace."""

    def run(
        scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
        options: AssignOptions, limits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        with label("step/assignment"):
            return assign(scores, boxes, anchors, gt_labels, gt_boxes, gt_mask, options, backend, logits, limits)

    return run


def _composite(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: list[int], *scalars: Any
) -> Tensor:
    """The reference, with the device's own assigner unless the reference's is asked for."""
    *numbers, assigner = scalars
    return reference.detection_loss(maps, gt_labels, gt_boxes, counts, strides, _options(*numbers), _assigner(assigner))


def _assigned(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: list[int], options: LossOptions,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """gt_index, weight and weight_sum, by the device's own assigner, from what a kernel reads of the maps."""
    if backend == "cpu":
        predictions = native.loss_predictions
    else:
        from yolov9k.kernels.detection_loss import predictions  # Triton takes a second to import
    boxes, logits = predictions(maps, strides, options.reg_max)
    points, scales = make_anchors([level.float() for level in _shapes(maps)], strides)
    mask = torch.arange(gt_boxes.shape[1], device=counts.device) < counts[:, None]
    run = _assigner("auto", logits=True)
    limits = reach_limits(scales[:, 0], options.assign)
    return run(logits, boxes, points * scales, gt_labels, gt_boxes, mask, options.assign, limits=limits)


def _shapes(maps: list[Tensor]) -> list[Tensor]:
    """Tensors of the maps' sizes that hold nothing, for what asks sizes alone."""
    return [level.new_empty(1, device=level.device).expand(1, 1, *level.shape[2:]) for level in maps]


def _loss(
    backend: str, maps: list[Tensor], gt_index: Tensor, weight: Tensor, weight_sum: Tensor, labels: Tensor, boxes: Tensor,
    strides: list[int], options: LossOptions, factors: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Parts and, with factors, gradients, by the kernels of a backend."""
    found = (gt_index, weight, weight_sum, labels, boxes)
    if backend == "cpu":
        numbers = (options.reg_max, options.label_smoothing, options.pos_weight)
        return native.detection_loss(maps, *found, strides, *numbers, factors)
    from yolov9k.kernels.detection_loss import loss

    return loss(maps, *found, strides, options, factors)


def _fused(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, strides: list[int], *scalars: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *numbers, backend = scalars
    options, labels, boxes = _options(*numbers), gt_labels.long().contiguous(), gt_boxes.float().contiguous()
    found = _assigned(maps, labels, boxes, counts, strides, options, backend)
    parts, _ = _loss(backend, maps, *found, labels, boxes, strides, options)
    return parts, *found, labels.clone(), boxes.clone()


def _one_pass(
    maps: list[Tensor], gt_labels: Tensor, gt_boxes: Tensor, counts: Tensor, factors: Tensor, strides: list[int], *scalars: Any
) -> tuple[Tensor, list[Tensor]]:
    *numbers, backend = scalars
    options, labels, boxes = _options(*numbers), gt_labels.long().contiguous(), gt_boxes.float().contiguous()
    found = _assigned(maps, labels, boxes, counts, strides, options, backend)
    return _loss(backend, maps, *found, labels, boxes, strides, options, factors.contiguous())


def _backward(
    factors: Tensor, maps: list[Tensor], gt_index: Tensor, weight: Tensor, weight_sum: Tensor, labels: Tensor, boxes: Tensor,
    strides: list[int], *scalars: Any,
) -> list[Tensor]:  # fmt: skip
    *numbers, backend = scalars
    found = (gt_index, weight, weight_sum, labels, boxes)
    return _loss(backend, maps, *found, strides, _options(*numbers), factors.float().contiguous())[1]


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
    maps, _, _, _, *ctx.options = inputs
    ctx.levels = len(maps)
    ctx.save_for_backward(*maps, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, factors: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rest = (None,) * (3 + len(ctx.options))
    if factors is None:
        return [None] * ctx.levels, *rest
    if torch.is_grad_enabled():  # autograd would stop at the backward's own operator, and be wrong
        raise RuntimeError("detection_loss: has no second derivative; use the reference for create_graph=True")
    tensors = list(ctx.saved_tensors)
    maps, found = tensors[: ctx.levels], tensors[ctx.levels :]
    return torch.ops.yolov9k.detection_loss_backward(factors, maps, *found, *ctx.options), *rest


# A composite: autograd, fakes and torch.compile see the differentiable torch operators that it is made of.
define(
    f"detection_loss(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, int[] strides, {_SCALARS}, "
    "str assigner) -> Tensor",
    _composite,
)
define(
    f"detection_loss_fused(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, int[] strides, {_SCALARS}, "
    "str backend) -> (Tensor parts, Tensor gt_index, Tensor weight, Tensor weight_sum, Tensor labels, Tensor boxes)",
    _fused,
    _fake_fused,
)
define(
    "detection_loss_one_pass(Tensor[] maps, Tensor gt_labels, Tensor gt_boxes, Tensor counts, Tensor factors, int[] strides, "
    f"{_SCALARS}, str backend) -> (Tensor parts, Tensor[] grads)",
    _one_pass,
    _fake_one_pass,
)
define(
    "detection_loss_backward(Tensor factors, Tensor[] maps, Tensor gt_index, Tensor weight, Tensor weight_sum, Tensor labels, "
    f"Tensor boxes, int[] strides, {_SCALARS}, str backend) -> Tensor[]",
    _backward,
    _fake_backward,
)
differentiate("detection_loss_fused", _differentiate, _save)
register(
    Operator(
        "detection_loss",
        detection_loss,
        "box, class and distribution loss of a branch",
        {"cpu": "default on CPU", "triton": "value and gradient in one pass"},
        kernels=("detection_loss",),
    )
)
