"""Pillow's own warnings are of its code's lines: a command tells what is wrong with an image in its own words, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.data_cases import BOX, write_image, write_yolo


def _check(data: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "yolov9k", "data", "check", str(data)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images that Pillow warns of: an EXIF block cut short, and one of very many pixels."""
    data = write_yolo(tmp_path, dict.fromkeys(("exif", "large"), BOX))
    write_image(
        tmp_path / "images" / "exif.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\x00" + b"\x12\x01\x03\0\xff\0\0\0\6\0\0\0" * 3
    )
    Image.new("1", (12_000, 8_000)).save(tmp_path / "images" / "large.jpg")
    return data


def test_they_are_checked_in_silence(data: Path) -> None:
    assert _check(data) == ""


@pytest.mark.long
def test_a_user_who_wants_the_warnings_sees_them(data: Path) -> None:
    assert "DecompressionBombWarning" in _check(data, PYTHONWARNINGS="default")
