"""What validation and prediction share: the model made ready for inference, and its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov9k.models import DetectionModel
from yolov9k.tasks.detect.task import detect, exact

__all__ = ["detect", "exact", "inference_form", "to_input"]


def inference_form(
    model: DetectionModel, device: torch.device, *, channels_last: bool = True, lean: bool = True
) -> DetectionModel:
    """A new model on `device` that gives what `model` gives in evaluation mode, faster; `model` stays as it is.

    BatchNorm is folded into the convolutions. lean: only the main branch is kept; otherwise all are, and `branches` with
    main_only computes the same without the second copying that a lean model costs.
    """
    fused = (model.to_lean() if lean else model).fuse().to(device)
    return fused.to(memory_format=torch.channels_last) if channels_last else fused  # type: ignore[call-overload]


def to_input(images: Tensor, model: nn.Module, device: torch.device, channels_last: bool = False) -> Tensor:
    """uint8 [B, 3, H, W] -> 0..1 on the device, in the precision of the model's weights."""
    dtype = next(model.parameters()).dtype
    x = images.to(device, non_blocking=True).to(dtype) / 255
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
