"""The network: layer tables, blocks, heads, checkpoints. Nothing here knows which kernel runs."""

from yolov9k.models.yolov9 import YOLOv9, create_model

__all__ = ["YOLOv9", "create_model"]
