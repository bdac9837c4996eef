"""Operators: one signature each, a plain-torch reference, and the backends that are proven equal to it.

An operator's file registers itself when it is imported; the line here is all that a new one needs beside its own files.
"""

from yolov9k.ops.augment import augment as augment
from yolov9k.ops.augment_boxes import Boxes as Boxes
from yolov9k.ops.augment_boxes import augment_boxes as augment_boxes
from yolov9k.ops.backends import available as available
from yolov9k.ops.backends import operators as operators
from yolov9k.ops.batched_nms import Detections as Detections
from yolov9k.ops.batched_nms import batched_nms as batched_nms
from yolov9k.ops.conv_bn_silu import conv_bn_silu as conv_bn_silu
from yolov9k.ops.conv_silu import conv_silu as conv_silu
from yolov9k.ops.detection_loss import detection_loss as detection_loss
from yolov9k.ops.detection_loss import detection_loss_and_gradient as detection_loss_and_gradient
from yolov9k.ops.dfl_candidates import Candidates as Candidates
from yolov9k.ops.dfl_candidates import dfl_candidates as dfl_candidates
from yolov9k.ops.dfl_decode import dfl_decode as dfl_decode
from yolov9k.ops.reference.detection_loss import LossOptions as LossOptions
from yolov9k.ops.reference.task_aligned_assign import AssignOptions as AssignOptions
from yolov9k.ops.sgd_ema import sgd_ema as sgd_ema
from yolov9k.ops.task_aligned_assign import Assignment as Assignment
from yolov9k.ops.task_aligned_assign import task_aligned_assign as task_aligned_assign
