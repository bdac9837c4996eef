"""`yolov9k val`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.config import ValOptions


def run(options: ValOptions) -> None:
    """Validate a checkpoint: COCO AP, each class, speed, curves and confusion matrix."""
    from yolov9k.engine.facade.validation import run_validation

    _, directory = run_validation(options, console)
    console.print(f"run: {directory}")
