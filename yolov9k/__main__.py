"""`python -m yolov9k`."""

from yolov9k.cli import main

main()
