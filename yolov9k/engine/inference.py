"""What validation and prediction share: the model made ready for inference, its input, and detection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from yolov9k.models import YOLOv9
from yolov9k.ops import Detections, batched_nms


def inference_form(model: YOLOv9, device: torch.device, *, channels_last: bool = True, lean: bool = True) -> YOLOv9:
    """A new model on `device` that gives what `model` gives in evaluation mode, faster; `model` stays as it is.

    BatchNorm is folded into the convolutions. lean: only the main branch is kept; otherwise all are, and `branches` with
    main_only computes the same without the second copying that a lean model costs.
    """
    fused = (model.to_lean() if lean else model).fuse().to(device)
    return fused.to(memory_format=torch.channels_last) if channels_last else fused  # type: ignore[call-overload]


def exact(maps: Sequence[Tensor]) -> list[Tensor]:
    """Raw maps in at least float32: half precision cannot tell pixels apart beyond 2048 (fp16) or 256 (bf16)."""
    return [level if level.dtype == torch.float64 else level.float() for level in maps]


def detect(
    model: YOLOv9,
    maps: Sequence[Tensor],
    conf: float,
    iou: float,
    *,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> Detections:
    """From the main branch's `exact` raw maps to what suppression keeps, as in `ops.batched_nms`; a GPU is not waited for."""
    prediction, lengths = model.candidates(maps, conf)
    return batched_nms(prediction, conf, iou, classes, agnostic, multi_label, max_det, lengths=lengths)


def to_input(images: Tensor, model: nn.Module, device: torch.device, channels_last: bool = False) -> Tensor:
    """uint8 [B, 3, H, W] -> 0..1 on the device, in the precision of the model's weights."""
    dtype = next(model.parameters()).dtype
    x = images.to(device, non_blocking=True).to(dtype) / 255
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
