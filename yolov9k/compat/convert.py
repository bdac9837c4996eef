"""From any checkpoint of YOLOv9 to the file of another implementation, and what of it cannot go along."""

from __future__ import annotations

from pathlib import Path

from yolov9k.common.errors import UserError
from yolov9k.common.files import user_path
from yolov9k.compat.layouts import Layout, Row
from yolov9k.compat.loading import LAYOUTS
from yolov9k.compat.own import OWN
from yolov9k.models import DetectionModel

TARGETS: dict[str, Layout] = {layout.name: layout for layout in (*LAYOUTS, *OWN)}  # what `convert --to` writes
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")  # of our own files


def forecast(model: DetectionModel, to: str) -> list[Row]:
    """What becomes of a model's parts in a file of the kind `to`, and what it cannot hold."""
    target = TARGETS[to]
    if model.head.num_branches == 1 or not target.is_lean(model):
        return [Row("network", model.spec.name, model.spec.name), *target.limits(model)]
    lean = model.to_lean()
    gone = _auxiliary_layers(model)
    layers = f"layers {gone[0]} to {gone[-1]}, towers {_auxiliary_towers(model)} of layer {len(model.spec.layers) - 1}"
    rows = [Row("network", model.spec.name, lean.spec.name), Row("auxiliary branch", layers, "left out")]
    return [*rows, *target.limits(lean)]


def _auxiliary_layers(model: DetectionModel) -> list[int]:
    """Numbers of the layers that a lean model does without, those with weights."""
    kept = model.spec.lean()[1]
    return [number for number, layer in enumerate(model.model) if number not in kept and list(layer.parameters())]


def _auxiliary_towers(model: DetectionModel) -> str:
    return ", ".join(f"cv{number}" for number in range(2, 2 * model.head.num_branches))


def convert(model: DetectionModel, out: str | Path, to: str, source: str | Path = "model") -> list[Row]:
    """Write a model as a file of another kind; returns what became of its parts.

    to: one of TARGETS. source: what messages call the model. Raises UserError where the file cannot hold it or be written.
    """
    target, path, rows = TARGETS[to], user_path(out), forecast(model, to)
    if wrong := next((row for row in rows if not row.fits), None):
        raise UserError(f"{source}: cannot be written as {to}; {wrong.part} {wrong.given}: {wrong.written}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}; make it, or choose another")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it, such as {path / 'model.pt'}")
    if path.exists() and user_path(source).exists() and path.samefile(user_path(source)):
        raise UserError(f"{path}: is the file that is converted; choose another, what {to} cannot hold would be lost")
    suffixes = (target.suffix,) if target.suffix else SUFFIXES
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: --to {to} writes a {suffixes[0]} file; call it {path.with_suffix(suffixes[0]).name}")
    target.write(model.to_lean() if target.is_lean(model) else model, path)
    return rows
