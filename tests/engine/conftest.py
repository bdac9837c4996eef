"""The tiny detector of `tests/engine_cases.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.engine_cases import TINY
from yolov9k import create_model
from yolov9k.models import DetectionModel


@pytest.fixture
def tiny(tmp_path: Path) -> DetectionModel:
    """A detector of five convolutions, in float64 so that the arithmetic by hand has no rounding to excuse."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    torch.manual_seed(0)
    return create_model(str(path), 2).double().train()
