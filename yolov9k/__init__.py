"""YOLOv9 in PyTorch, its hot paths custom kernels that are proven equal to a plain-torch reference.

What is imported from here is loaded on first use: the command line's help needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov9k.compat import load
    from yolov9k.compat.accelerate import accelerate, accelerate_training
    from yolov9k.engine.facade import YOLOv9
    from yolov9k.engine.predict.predictor import Predictor
    from yolov9k.models import DetectionModel, create_model

__version__ = "0.1.0"
__all__ = ["DetectionModel", "Predictor", "YOLOv9", "__version__", "accelerate", "accelerate_training", "create_model", "load"]

_PLACES = {
    "DetectionModel": "yolov9k.models",
    "Predictor": "yolov9k.engine.predict.predictor",
    "YOLOv9": "yolov9k.engine.facade",
    "accelerate": "yolov9k.compat.accelerate",
    "accelerate_training": "yolov9k.compat.accelerate",
    "create_model": "yolov9k.models",
    "load": "yolov9k.compat",
}
_ROOMS = ("compat", "config", "data", "engine", "losses", "models", "native", "ops", "tasks")


def __getattr__(name: str) -> Any:
    """A public name or a subpackage, imported when it is first asked for."""
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
