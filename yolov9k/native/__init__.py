"""The compiled kernels of csrc/ seen from torch: outputs and scratch allocated, addresses passed, errors raised."""

from yolov9k.native.batch_input import augment, augment_boxes, check_outlines, clip_outlines
from yolov9k.native.batch_norm import bn_silu, bn_silu_backward, bn_statistics
from yolov9k.native.detections import batched_nms, task_aligned_assign
from yolov9k.native.loss import detection_loss, loss_predictions
from yolov9k.native.module import available, build_info, constant, why_missing
from yolov9k.native.optimizer import sgd_ema

__all__ = [
    "augment",
    "augment_boxes",
    "available",
    "batched_nms",
    "bn_silu",
    "bn_silu_backward",
    "bn_statistics",
    "build_info",
    "check_outlines",
    "clip_outlines",
    "constant",
    "detection_loss",
    "loss_predictions",
    "sgd_ema",
    "task_aligned_assign",
    "why_missing",
]
