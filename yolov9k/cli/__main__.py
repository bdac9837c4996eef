"""`python -m yolov9k.cli`."""

from yolov9k.cli import main

main()
