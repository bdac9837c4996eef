"""Work with other implementations: their models, files and habits, without their packages."""

from yolov9k.compat.convert import TARGETS, convert
from yolov9k.compat.loading import SUFFIXES, fresh, load, read
from yolov9k.compat.transfer import load_weights

__all__ = ["SUFFIXES", "TARGETS", "convert", "fresh", "load", "load_weights", "read"]
