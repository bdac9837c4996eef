"""The compiled kernels of csrc/ seen from torch: outputs and scratch allocated, addresses passed, errors raised."""

from yolov9k.native.batch_input import augment, augment_boxes, check_outlines, clip_outlines
from yolov9k.native.batch_norm import (
    bn_apply_table,
    bn_settle,
    bn_silu,
    bn_silu_backward_apply,
    bn_silu_backward_reduce,
    bn_statistics,
)
from yolov9k.native.conv3x3 import LANES, conv3x3, conv3x3_input_gradient, conv3x3_serves, conv3x3_weight_gradient
from yolov9k.native.detections import batched_nms, task_aligned_assign
from yolov9k.native.loss import detection_loss, loss_predictions
from yolov9k.native.module import available, build_info, constant, why_missing
from yolov9k.native.optimizer import sgd_ema

__all__ = [
    "LANES",
    "augment",
    "augment_boxes",
    "available",
    "batched_nms",
    "bn_apply_table",
    "bn_settle",
    "bn_silu",
    "bn_silu_backward_apply",
    "bn_silu_backward_reduce",
    "bn_statistics",
    "build_info",
    "check_outlines",
    "clip_outlines",
    "constant",
    "conv3x3",
    "conv3x3_input_gradient",
    "conv3x3_serves",
    "conv3x3_weight_gradient",
    "detection_loss",
    "loss_predictions",
    "sgd_ema",
    "task_aligned_assign",
    "why_missing",
]
