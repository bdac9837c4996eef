"""`python -m yolov9k`."""

from yolov9k.cli.app import main

main()
