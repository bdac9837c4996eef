"""`python -m yolov9k.cli`."""

from yolov9k.cli.app import main

main()
