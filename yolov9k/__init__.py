"""YOLOv9 in PyTorch, its hot paths custom kernels that are proven equal to a plain-torch reference."""

from yolov9k.models import YOLOv9, create_model
from yolov9k.models.checkpoints import load

__version__ = "0.1.0"
__all__ = ["YOLOv9", "__version__", "create_model", "load"]
