"""The command line: `yolov9k`, `python -m yolov9k`."""

from yolov9k.cli.app import app, main

__all__ = ["app", "main"]
