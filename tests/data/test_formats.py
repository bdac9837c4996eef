"""What all label formats share: images that can be read, boxes that lie in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data_cases import BOX, only_issue, write_image, write_yolo
from yolov9k.data import probe
from yolov9k.data.config import load_split
from yolov9k.data.formats.checks import LEAST_SIDE, check_box
from yolov9k.data.images import read_image


@given(st.tuples(*[st.floats(-50, 150)] * 4), st.sampled_from([(1, 1), (100, 60)]))
def test_checked_box_lies_in_the_image(box: tuple[float, float, float, float], unit: tuple[int, int]) -> None:
    (x1, y1, x2, y2), problem, fatal = check_box(box, unit)
    if not fatal:
        assert 0 <= np.float32(x1) < np.float32(x2) <= 1
        assert 0 <= np.float32(y1) < np.float32(y2) <= 1
    else:
        assert problem
        clipped = np.clip(np.array(box).reshape(2, 2) / unit, 0, 1)
        assert (clipped[1] - clipped[0]).min() <= LEAST_SIDE  # only what has no area inside the image is ruled out


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_truncated_image_is_left_out_and_told(tmp_path: Path, suffix: str) -> None:
    path = write_yolo(tmp_path, {"a": BOX})
    broken = write_image(tmp_path / "images" / f"b.{suffix}", 64, 64)
    (tmp_path / "labels" / "b.txt").write_text(BOX)
    broken.write_bytes(broken.read_bytes()[:-20])
    split = load_split(path, "train")
    issue = only_issue(split)
    assert (issue.path, issue.fatal) == (broken, True)
    assert "truncated" in issue.message or "cannot be read" in issue.message or "not a readable" in issue.message
    assert [record.path.stem for record in split.records] == ["a"]


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"<html>404</html>", "not a readable image")])
def test_file_that_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    path = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    (tmp_path / "images" / "b.jpg").write_bytes(content)
    assert words in only_issue(load_split(path, "train")).message


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_bytes_behind_the_end_marker_do_no_harm(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    assert probe.probe_image(path) == (20, 40, None, None)
    path.write_bytes(whole + b"appended by a camera" * 9)
    assert probe.probe_image(path) == (20, 40, None, None)


def test_jpeg_lacking_only_its_end_marker(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-2])
    assert "end marker" in (probe.probe_image(path).error or "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_that_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / f"a.{suffix}", exif=exif)
    assert probe.probe_image(path) == (*read_image(path).shape[:2], None, None)
    assert read_image(path).shape == ((40, 20, 3) if orientation > 4 else (20, 40, 3))


def test_probe_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_CACHE_FROM", 1)
    path = write_image(tmp_path / "a.png")
    cache = tmp_path / "cache" / "yolov9k" / "images.json"
    assert probe.probe_images([path]) == [(20, 40, None, None)]
    stored = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({key: [7, 9] for key in stored}))
    assert probe.probe_images([path]) == [(7, 9, None, None)]  # remembered
    os.utime(path, (1, 1))
    assert probe.probe_images([path]) == [(20, 40, None, None)]  # changed since
    cache.write_text("{ not json")
    assert probe.probe_images([path, tmp_path / "gone.png"])[0] == (20, 40, None, None)
    assert len(json.loads(cache.read_bytes())) == 1  # the absent image is not remembered
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file where the folder should be
    assert probe.probe_images([path]) == [(20, 40, None, None)]
