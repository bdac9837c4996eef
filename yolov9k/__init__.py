"""YOLOv9 in PyTorch, its hot paths custom kernels that are proven equal to a plain-torch reference."""

from typing import TYPE_CHECKING, Any

from yolov9k.models import YOLOv9, create_model
from yolov9k.models.checkpoints import load

if TYPE_CHECKING:
    from yolov9k.engine.predict.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "YOLOv9", "__version__", "create_model", "load"]


def __getattr__(name: str) -> Any:
    """`Predictor` on first use: what reads images and videos takes longer to import than the model."""
    if name == "Predictor":
        from yolov9k.engine.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
