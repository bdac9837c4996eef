"""The predictor's earlier place: `from yolov9k.engine.predictor import Predictor` keeps working."""

from yolov9k.engine.predict.predictor import Predictor

__all__ = ["Predictor"]
