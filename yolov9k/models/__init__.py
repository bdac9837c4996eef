"""The network: layer tables, blocks, heads, checkpoints. Nothing here knows which kernel runs."""

from typing import TYPE_CHECKING

from yolov9k.models.yolov9 import DetectionModel, create_model, renamed

__all__ = ["DetectionModel", "create_model"]


if not TYPE_CHECKING:  # which would take any name for one of the module's

    def __getattr__(name: str) -> type[DetectionModel]:
        """The network's earlier name."""
        return renamed(name, __name__)
