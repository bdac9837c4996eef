"""The task-aligned assigner and the suppression of csrc/, on the CPU and on CUDA devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_shape
from yolov9k.native.module import DTYPES, Shapes, call, check, loaded


def task_aligned_assign(
    scores: Tensor, boxes: Tensor, anchors: Tensor, gt_labels: Tensor, gt_boxes: Tensor, gt_mask: Tensor,
    topk: int, alpha: float, beta: float, logits: bool, mask_conflicts: bool, regions: Tensor | None = None,
    limits: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Assignment of anchors to boxes; arguments and results as in `yolov9k.ops.task_aligned_assign`.

    scores: float32, bfloat16 or float16, any strides. regions [B, G, 4]: where a box looks for anchors, gt_boxes unless given.
    limits [A]: pixels that an anchor reaches to each side, where boxes match as the MIT rewrite has it. Returns gt_index int64
    [B, A], weight float32 [B, A] and the sum of weights [B]. Raises ValueError or TypeError naming the argument, ValueError for
    a length beyond the kernels' limits, RuntimeError when a launch failed.
    """
    op = "task_aligned_assign"
    expect_shape(scores, (None, None, None), op, "scores")
    expect_shape(gt_boxes, (len(scores), None, 4), op, "gt_boxes")
    (images, count, classes), gt_count = scores.shape, gt_boxes.shape[1]
    rows = (images, gt_count)
    regions = gt_boxes if regions is None else regions
    given = {} if limits is None else {"limits": (limits, (count,))}
    check(op, scores, {
        "scores": (scores, scores.shape), "boxes": (boxes, (images, count, 4)), "anchors": (anchors, (count, 2)),
        "gt_labels": (gt_labels, rows), "gt_boxes": (gt_boxes, gt_boxes.shape), "gt_mask": (gt_mask, rows),
        "regions": (regions, gt_boxes.shape), **given,
    }, scores=tuple(DTYPES))  # fmt: skip
    floats = (boxes, anchors, gt_boxes, regions)
    boxes, anchors, gt_boxes, regions = (tensor.detach().float().contiguous() for tensor in floats)
    limits = None if limits is None else limits.detach().float().contiguous()
    labels, mask = gt_labels.long().contiguous(), (gt_mask != 0).contiguous()
    gt_index = scores.new_empty((images, count), dtype=torch.int64)
    weight = scores.new_empty((images, count), dtype=torch.float32)
    weight_sum = scores.new_zeros(images, dtype=torch.float32)
    arguments: dict[str, object] = {
        "scores": scores.data_ptr(), "dtype": DTYPES[scores.dtype], "logits": logits,
        **dict(zip(("stride_image", "stride_anchor", "stride_class"), scores.stride(), strict=True)),
        "boxes": boxes.data_ptr(), "anchors": anchors.data_ptr(), "labels": labels.data_ptr(),
        "gt_boxes": gt_boxes.data_ptr(), "regions": regions.data_ptr(), "gt_mask": mask.data_ptr(),
        "limits": 0 if limits is None else limits.data_ptr(),
        "images": images, "count": count, "gt_count": gt_count, "classes": classes,
        "topk": min(topk, max(count, 1)), "alpha": alpha, "beta": beta, "mask_conflicts": mask_conflicts,
        "gt_index": gt_index.data_ptr(), "weight": weight.data_ptr(), "weight_sum": weight_sum.data_ptr(),
    }  # fmt: skip
    on_device = scores.is_cuda
    claims = scores.new_zeros((images, count) if on_device else 0, dtype=torch.int64)
    best = scores.new_zeros((2, images, gt_count) if on_device else (2, 0), dtype=torch.int32)
    least = scores.new_zeros((images, gt_count) if on_device and limits is not None else 0, dtype=torch.int64)
    pointers = {"claims": claims.data_ptr(), "best_metric": best[0].data_ptr(), "best_overlap": best[1].data_ptr()}
    pointers["least"] = least.data_ptr()
    call("task_aligned_assign", scores.device, arguments | pointers)
    return gt_index, weight, weight_sum


def batched_nms(
    prediction: Tensor, conf_threshold: float, iou_threshold: float, classes: Sequence[int] | None,
    class_agnostic: bool, multi_label: bool, max_detections: int, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Detections and counts; arguments and results as in `yolov9k.ops.batched_nms`.

    prediction: float32, bfloat16 or float16, any strides. Raises ValueError or TypeError naming the argument, ValueError for
    a length beyond the kernels' limits, RuntimeError when a launch failed.
    """
    op = "batched_nms"
    expect_shape(prediction, (None, None, None), op, "prediction")
    images, rows, count = prediction.shape
    expect(rows >= 5, op, "prediction", "at least 5 rows high", list(prediction.shape))
    expect(max_detections >= 1, op, "max_detections", "at least 1", max_detections)
    shapes: Shapes = {"prediction": (prediction, prediction.shape)}
    if lengths is not None:
        shapes["lengths"] = (lengths, (images,))
    check(op, prediction, shapes, prediction=tuple(DTYPES))
    if 1 not in prediction.stride()[1:]:
        prediction = prediction.contiguous()
    lengths = None if lengths is None else lengths.long().contiguous()
    detections = prediction.new_zeros((images, max_detections, 6), dtype=torch.float32)
    counts = prediction.new_zeros(images, dtype=torch.int64)
    arguments: dict[str, object] = {
        "prediction": prediction.data_ptr(), "dtype": DTYPES[prediction.dtype],
        **dict(zip(("stride_image", "stride_row", "stride_anchor"), prediction.stride(), strict=True)),
        "images": images, "classes": rows - 4, "count": count, "conf_threshold": conf_threshold,
        "iou_threshold": iou_threshold, "class_agnostic": class_agnostic, "multi_label": multi_label,
        "wanted": None if classes is None else list(classes), "max_detections": max_detections,
        "lengths": 0 if lengths is None else lengths.data_ptr(),
        "detections": detections.data_ptr(), "counts": counts.data_ptr(),
    }  # fmt: skip
    module = loaded(prediction.device.type)
    padded = module.padded_candidates(rows - 4, count, multi_label) if prediction.is_cuda else 0
    sizes = {"state": module.nms_scratch["state"] // 4, "histogram": module.nms_scratch["bins"], "keys": 2 * padded}
    scratch = {
        name: prediction.new_zeros((images, size) if prediction.is_cuda else 0, dtype=torch.int32)
        for name, size in sizes.items()
    }
    call("batched_nms", prediction.device, arguments | {name: t.data_ptr() for name, t in scratch.items()})
    return detections, counts
