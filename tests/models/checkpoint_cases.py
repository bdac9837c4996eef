"""A small model with a file of its own, and what can be wrong with such files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from yolov9k import create_model
from yolov9k.models import DetectionModel
from yolov9k.models.checkpoints import read, save

TINY = """
width_multiple: 0.5
backbone:
  - [-1, 1, Conv, [16, 3, 4]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, AConv, [16]]
  - [-1, 1, ADown, [16]]
head:
  - [[1, 2, 3], 1, DDetect, [nc]]
"""


def tiny_model(folder: Path, classes: int = 3) -> DetectionModel:
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    torch.manual_seed(0)
    model = create_model(path, classes)
    model.names = ["circle", "square", "star", "cross"][:classes]
    return model


def altered(path: Path, model: DetectionModel, /, **changes: Any) -> Path:
    """A checkpoint of `model`, some of its content replaced."""
    save(path, model)
    torch.save({**read(path), **changes}, path)
    return path


def with_record(path: Path, name: str, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Rewrite an archive, one record's bytes replaced; every checksum is right."""
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for record, old in records.items():
            archive.writestr(record, data if record.endswith(name) else old)
    path.write_bytes(written.getvalue())


def record(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return next(archive.read(r) for r in archive.infolist() if r.filename.endswith(name))
