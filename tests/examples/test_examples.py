"""Every example runs as a reader would run it, in a process and a folder of its own, at a small size."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.tools

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SMALL = {
    "train_own_data.py": ["--images", "8", "--batch", "4"],
    "predict_video.py": ["--frames", "3", "--img", "64"],
    "own_augmentation.py": ["--images", "8"],
    "callbacks.py": ["--images", "8"],
    "custom_loop.py": [],
    "operator_in_your_model.py": [],
    "add_operator.py": [],
}


def run(name: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / name), *SMALL[name]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_every_example_is_run_and_listed() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(SMALL)
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f"`{name}`" not in index] == []


def test_training_leaves_weights_that_load(tmp_path: Path) -> None:
    out = run("train_own_data.py", tmp_path)
    assert "8 images" in out
    import yolov9k

    model = yolov9k.load(tmp_path / "runs/example/train/weights/best.pt")
    assert list(model.names) == ["circle", "square", "triangle", "star"]


def test_training_with_an_augmentation_of_ones_own(tmp_path: Path) -> None:
    out = run("own_augmentation.py", tmp_path)
    assert ("augmented by Albumentations" in out) == (importlib.util.find_spec("albumentations") is not None)
    assert (tmp_path / "runs/example-augment/train/weights/best.pt").is_file()


def test_callbacks_print_a_line_an_epoch_and_end_the_run(tmp_path: Path) -> None:
    lines = run("callbacks.py", tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1 of 9", "epoch 2 of 9"]
    assert lines[-1].startswith("AP ")


def test_every_frame_of_the_video_is_drawn(tmp_path: Path) -> None:
    assert "3 frames" in run("predict_video.py", tmp_path)
    frames = sorted((tmp_path / "runs/example-video").glob("frame-*.jpg"))
    assert [cv2.imread(str(frame)).shape for frame in frames] == [(64, 64, 3)] * 3


def test_the_loop_prints_its_parts_and_learns(tmp_path: Path) -> None:
    """The total is the batch's size times the parts' sum; it falls, not at every step: assignments change."""
    lines = run("custom_loop.py", tmp_path).splitlines()
    rows = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in lines]
    assert len(rows) == 12
    assert all(total == pytest.approx(4 * sum(parts), abs=0.01) for total, *parts in rows)
    assert sum(total for total, *_ in rows[-3:]) / 3 < 0.8 * rows[0][0]


@pytest.mark.parametrize("name", ["operator_in_your_model.py", "add_operator.py"])
def test_operators_equal_their_reference(name: str, tmp_path: Path) -> None:
    out = run(name, tmp_path)
    wanted = {
        "operator_in_your_model.py": ["reference: True"],
        "add_operator.py": ["equal", "gradcheck passed", "opcheck passed"],
    }
    assert [text for text in wanted[name] if text not in out] == []
