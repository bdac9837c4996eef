"""Training, validation, prediction."""

from yolov9k.engine.step import TrainStep

__all__ = ["TrainStep"]
