"""Tasks: what a head is trained for. `register` makes one known, `task_of` finds a model's."""

from yolov9k.tasks.base import (
    AutogradCriterion,
    Criterion,
    DecodeOptions,
    Evaluation,
    Evaluator,
    Metric,
    NamedLoss,
    Predictions,
    Result,
    Task,
    register,
    task_of,
)
from yolov9k.tasks.detect.task import DetectTask

register(DetectTask())

__all__ = [
    "AutogradCriterion",
    "Criterion",
    "DecodeOptions",
    "DetectTask",
    "Evaluation",
    "Evaluator",
    "Metric",
    "NamedLoss",
    "Predictions",
    "Result",
    "Task",
    "register",
    "task_of",
]
