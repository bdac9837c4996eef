"""Heads: what turns feature maps into predictions. A file registers its own when it is imported; a new one is a line below."""

from yolov9k.models.heads import detect as detect
