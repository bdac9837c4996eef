"""`yolov9k demo`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.config import DemoOptions


def run(options: DemoOptions) -> None:
    """Generate images of shapes, train yolov9-t on them, draw predictions beside the ground truth: some minutes on a CPU."""
    from yolov9k.engine.demo import run_demo

    run_demo(options, console)
