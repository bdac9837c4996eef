"""Training, validation, prediction."""

from yolov9k.engine.train.step import TrainStep

__all__ = ["TrainStep"]
