"""Exact non-maximum suppression of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yolov9k.common.checks import expect, expect_device, expect_float, expect_shape
from yolov9k.native import batched_nms as run_native
from yolov9k.ops.backends import choose
from yolov9k.ops.library import define, differentiate
from yolov9k.ops.reference import batched_nms as reference
from yolov9k.ops.registry import Operator, register


class Detections(NamedTuple):
    """detections [B, max_detections, 6]: x1, y1, x2, y2 in pixels, score, class, best first, zeros past counts int64 [B]."""

    detections: Tensor
    counts: Tensor


def batched_nms(
    prediction: Tensor,
    conf_threshold: float,
    iou_threshold: float,
    classes: Sequence[int] | None = None,
    class_agnostic: bool = False,
    multi_label: bool = False,
    max_detections: int = 300,
    backend: str = "auto",
    lengths: Tensor | None = None,
) -> Detections:
    """Keep the best boxes of each image.

    prediction [B, 4 + nc, A]: center x, center y, width, height in pixels, then probabilities, floating. A candidate's
    score is above conf_threshold; with multi_label every class of a box is a candidate, else its best alone. `classes`
    keeps only those. The 30,000 best by score compete, ties to the lowest index; a box falls when a kept one, of its class
    unless class_agnostic, overlaps it by more than iou_threshold. A NaN or infinite candidate is never chosen. lengths [B],
    integers: so many first columns of each image are read, the rest is not (`dfl_candidates`). Detections are float32
    (float64 for float64). Raises ValueError or TypeError naming the argument.
    """
    op = "batched_nms"
    expect_float(prediction, op, "prediction")
    expect_shape(prediction, (None, None, None), op, "prediction")
    classes_count = prediction.shape[1] - 4
    expect(classes_count >= 1, op, "prediction", "at least 5 rows high", list(prediction.shape))
    expect(0 <= conf_threshold <= 1, op, "conf_threshold", "in [0, 1]", conf_threshold)
    expect(0 <= iou_threshold <= 1, op, "iou_threshold", "in [0, 1]", iou_threshold)
    expect(max_detections >= 1, op, "max_detections", "at least 1", max_detections)
    if classes is not None:
        valid = all(0 <= c < classes_count for c in classes)
        expect(valid, op, "classes", f"class numbers below {classes_count}", list(classes))
    if lengths is not None:
        expect_shape(lengths, (len(prediction),), op, "lengths")
        expect_device(lengths, prediction, op, "lengths")
        expect(not lengths.is_floating_point(), op, "lengths", "integers", lengths.dtype)
    backend = choose(op, backend, prediction.device, prediction.dtype == torch.float64)
    return Detections(
        *torch.ops.yolov9k.batched_nms(
            prediction, conf_threshold, iou_threshold, classes, class_agnostic, multi_label, max_detections, backend, lengths
        )
    )


def _run(prediction: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *options, backend, lengths = arguments if len(arguments) == 8 else (*arguments, None)  # the dispatcher drops a default
    run: Any = reference.batched_nms if backend == "reference" else run_native
    return run(prediction, *options, lengths)  # type: ignore[no-any-return]


def _fake(
    prediction: Tensor, conf_threshold: float, iou_threshold: float, classes: Sequence[int] | None,
    class_agnostic: bool, multi_label: bool, max_detections: int, backend: str, lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    dtype = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    batch = prediction.shape[0]
    return (
        prediction.new_empty((batch, max_detections, 6), dtype=dtype),
        prediction.new_empty((batch,), dtype=torch.int64),
    )


def _no_gradient(ctx: object, *grads: object) -> tuple[None, ...]:
    return (None,) * 9


define(
    "batched_nms(Tensor prediction, float conf_threshold, float iou_threshold, int[]? classes, bool class_agnostic, "
    "bool multi_label, int max_detections, str backend, Tensor? lengths=None) -> (Tensor detections, Tensor counts)",
    _run,
    _fake,
)
differentiate("batched_nms", _no_gradient)
register(
    Operator(
        "batched_nms",
        batched_nms,
        "exact non-maximum suppression of a batch",
        {"cpu": "default on CPU", "cuda": "a batch without a read on the host"},
    )
)
