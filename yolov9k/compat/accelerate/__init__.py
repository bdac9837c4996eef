"""Models and trainings of other implementations, accelerated where they stand (docs/accelerate.md)."""

from yolov9k.compat.accelerate.model import Acceleration as Acceleration
from yolov9k.compat.accelerate.model import accelerate as accelerate
from yolov9k.compat.accelerate.training import accelerate_training as accelerate_training
