"""Real images and real clips through the command line: training, validation, prediction."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import pytest

from tests.command_line import run
from tests.support import little_model, shared
from yolov9k import create_model
from yolov9k.models.checkpoints import save

pytestmark = pytest.mark.e2e

CLIPS = ("bottle-detection.mp4", "car-detection.mp4")


def frames(path: Path) -> int:
    """Frames that can be read from a clip, one after another."""
    clip, count = cv2.VideoCapture(str(path)), 0
    while clip.grab():
        count += 1
    return count


def test_coco_images_train_and_both_clips_are_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, clips = shared("data/coco-demo"), shared("data/video")
    monkeypatch.chdir(tmp_path)
    common = ["--data", data, "--img", 64, "--batch", 9, "--device", "cpu", "--workers", 1]
    assert run("train", *common, "--cfg", "yolov9-t", "--epochs", 2, "--hyp", "small", "--name", "coco") == 0
    rows = list(csv.DictReader((tmp_path / "runs/train/coco/results.csv").open()))
    assert len(rows) == 2
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    weights = tmp_path / "runs/train/coco/weights/best.pt"
    assert run("val", *common, "--weights", weights) == 0
    given = ["--source", clips, "--device", "cpu"]
    assert run("predict", *given, "--weights", weights, "--img", 96, "--max-frames", 25, "--name", "begun") == 0
    assert [frames(tmp_path / "runs/predict/begun" / name) for name in CLIPS] == [25, 25]
    little = tmp_path / "little.pt"  # to the last frame by a model that takes a tenth of the time
    save(little, create_model(little_model(tmp_path)))
    assert run("predict", *given, "--weights", little, "--img", 32) == 0
    for name in CLIPS:
        assert frames(tmp_path / "runs/predict/exp" / name) == frames(clips / name)
