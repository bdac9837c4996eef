"""The training loss."""

from yolov9k.losses.detection import DetectionLoss

__all__ = ["DetectionLoss"]
