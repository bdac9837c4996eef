"""One object that trains, validates and predicts, with the names that users of other implementations know."""

from yolov9k.engine.facade.yolov9 import YOLOv9

__all__ = ["YOLOv9"]
