"""Operators: one signature each, a plain-torch reference, and the backends that are proven equal to it."""

from yolov9k.ops.augment import augment
from yolov9k.ops.augment_boxes import Boxes, augment_boxes
from yolov9k.ops.backends import available, operators
from yolov9k.ops.batched_nms import Detections, batched_nms
from yolov9k.ops.conv_bn_silu import conv_bn_silu
from yolov9k.ops.conv_silu import conv_silu
from yolov9k.ops.detection_loss import detection_loss, detection_loss_and_gradient
from yolov9k.ops.dfl_candidates import Candidates, dfl_candidates
from yolov9k.ops.dfl_decode import dfl_decode
from yolov9k.ops.reference.detection_loss import LossOptions
from yolov9k.ops.reference.task_aligned_assign import AssignOptions
from yolov9k.ops.sgd_ema import sgd_ema
from yolov9k.ops.task_aligned_assign import Assignment, task_aligned_assign

__all__ = [
    "AssignOptions",
    "Assignment",
    "Boxes",
    "Candidates",
    "Detections",
    "LossOptions",
    "augment",
    "augment_boxes",
    "available",
    "batched_nms",
    "conv_bn_silu",
    "conv_silu",
    "detection_loss",
    "detection_loss_and_gradient",
    "dfl_candidates",
    "dfl_decode",
    "operators",
    "sgd_ema",
    "task_aligned_assign",
]
