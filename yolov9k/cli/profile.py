"""`yolov9k profile`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.config import ProfileOptions


def run(options: ProfileOptions) -> None:
    """Where a training step's time goes: parts, launches, synchronizations, bytes and memory, beside roofline bounds."""
    from yolov9k.engine.profile.profiler import run_profile

    run_profile(options, console)
