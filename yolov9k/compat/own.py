"""This project's own files, as targets of a conversion."""

from __future__ import annotations

from pathlib import Path

from yolov9k.compat.layouts import Layout, Row
from yolov9k.compat.weights import Held, Weights
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import save


class OwnLayout(Layout):
    """Holds every model as it is."""

    placement = ""

    def __init__(self, name: str, suffix: str, lean: bool) -> None:
        self.name, self.suffix, self.lean = name, suffix, lean  # type: ignore[misc]  # of each object here

    def recognizes(self, held: Held) -> bool:
        return False  # told by its format, before anybody looks at names

    def read(self, held: Held) -> Weights | None:
        return None

    def is_lean(self, model: DetectionModel) -> bool:
        return self.lean

    def limits(self, model: DetectionModel) -> list[Row]:
        return []

    def write(self, model: DetectionModel, path: Path) -> None:
        save(path, model)


OWN = (OwnLayout("lean", "", lean=True), OwnLayout("safetensors", ".safetensors", lean=False))
