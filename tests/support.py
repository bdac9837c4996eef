"""Where the tests find what does not belong in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(os.environ.get("YOLOV9K_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(name: str) -> Path:
    """Path of `name` in the shared folder (``YOLOV9K_SHARED``, default ``../shared``); skips the test where it is absent."""
    path = _ROOT / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared folder; set YOLOV9K_SHARED to it")
    return path
