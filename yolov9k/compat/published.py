"""The published code's files: a dict whose model is a pickled module, with an auxiliary branch or without."""

from __future__ import annotations

from pathlib import Path

from yolov9k.compat.layouts import Layout, Row
from yolov9k.compat.modules import network
from yolov9k.compat.numbered import is_numbered, read_numbered
from yolov9k.compat.pickled import write_pickle
from yolov9k.compat.weights import Held, Weights
from yolov9k.models import DetectionModel

_BLOCKS = ("Conv", "RepConvN", "RepNBottleneck", "RepNCSP", "RepNCSPELAN4", "ELAN1", "AConv", "ADown", "SPPELAN", "SP",
           "CBLinear", "CBFuse", "Concat", "Silence", "DFL")  # fmt: skip
_PATHS = {name: f"models.common.{name}" for name in _BLOCKS} | {"model": "models.yolo.DetectionModel"}


class PublishedLayout(Layout):
    """Our own keys: layer numbers, then the names of modules that we took over from there."""

    name = "published"

    def recognizes(self, held: Held) -> bool:
        return is_numbered(held)

    def read(self, held: Held) -> Weights | None:
        return read_numbered(held, self.name)

    def limits(self, model: DetectionModel) -> list[Row]:
        known = {*_BLOCKS, "nn.Upsample", model.spec.layers[-1].module}
        own = sorted({layer.module for layer in model.spec.layers} - known)
        rows = [Row("layers", ", ".join(own), "it has no such blocks", False)] if own else []
        return [*rows, *super().limits(model)]

    def write(self, model: DetectionModel, path: Path) -> None:
        head = f"models.yolo.{model.spec.layers[-1].module}"
        content = network(model, _PATHS, head, names=list(model.names), yaml_file=f"{model.spec.name}.yaml")
        write_pickle(
            path, {"epoch": -1, "best_fitness": None, "model": content, "ema": None, "updates": None, "optimizer": None}
        )
