"""Names of bytes that are no UTF-8, as archives from other systems leave them: every file of ours can be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import yolov9k
from yolov9k.common.errors import UserError
from yolov9k.common.files import plain_path
from yolov9k.data.images import read_image, write_image
from yolov9k.data.synthetic import generate
from yolov9k.engine.predict.sources import open_source
from yolov9k.engine.predict.video_file import VideoFile
from yolov9k.engine.train import run_dir
from yolov9k.models.checkpoints import read, save

PACKAGE = Path(yolov9k.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / os.fsdecode(b"r\xff")
    try:
        made.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    return made


def picture(size: int = 32) -> np.ndarray:
    return np.full((size, size, 3), (20, 90, 160), np.uint8)


def test_a_plain_path_is_a_link_where_it_has_to_be(folder: Path) -> None:
    file = folder / "a.txt"
    with plain_path(file) as name:
        assert name.isascii()
        assert name.endswith(".txt")
        Path(name).write_text("through the link")
    assert file.read_text() == "through the link"
    assert not os.path.lexists(name)
    with plain_path(folder.parent / "猫.txt") as name:
        assert name == str(folder.parent / "猫.txt")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_images(folder: Path, suffix: str) -> None:
    path = folder / "deeper" / os.fsdecode(b"\xe9" + suffix.encode())
    write_image(path, picture())
    assert np.abs(read_image(path).astype(int) - picture()).max() <= 3
    with pytest.raises(UserError, match=r"OpenCV cannot encode a \.what image"):
        write_image(path.with_suffix(".what"), picture())


def test_videos(folder: Path) -> None:
    path = folder / os.fsdecode(b"clip\xff.mp4")
    video = VideoFile(path, 5.0, picture())
    for _ in range(3):
        video.add(picture())
    video.close()
    assert [frame.image.shape for frame in open_source(str(path))] == [(32, 32, 3)] * 3
    assert [file.name for file in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoints(folder: Path, suffix: str) -> None:
    path = folder / os.fsdecode(b"w\xff" + suffix.encode())
    model = yolov9k.create_model("gelan-t", num_classes=2)
    save(path, model)
    assert read(path)["model"].keys() == model.state_dict().keys()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_zero_byte_in_a_name_is_said(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=r"w\\0\S*: cannot be saved, a zero byte is no part of a name"):
        save(f"{tmp_path}/w\0{suffix}", yolov9k.create_model("gelan-t", num_classes=2))


def test_a_log_that_tensorboard_cannot_write_ends_no_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    board = run_dir._tensorboard(folder, 0)
    assert board is not None or "TensorBoard's log cannot be written" in capfd.readouterr().err


def test_validation_and_profile_from_the_command_line(folder: Path) -> None:
    data = generate(folder.parent / "data", train=2, val=2, size=64)
    weights = folder / "w.pt"
    save(weights, yolov9k.create_model("gelan-t", num_classes=4))
    common = ["--data", str(data.parent), "--img", "64", "--workers", "0", "--project", str(folder), "--device", "cpu"]
    name = os.fsdecode(b"v\xff")
    commands = {"val": ["--weights", str(weights)], "profile": ["--cfg", "gelan-t", "--batch", "2"]}
    for command, options in commands.items():
        line = [sys.executable, "-m", "yolov9k", command, "--name", f"{command}{name}", *common, *options]
        done = subprocess.run(line, capture_output=True, cwd=folder.parent, timeout=300)
        assert done.returncode == 0, done.stderr
    assert list((folder / f"val{name}").glob("*pred.png"))
    assert (folder / f"profile{name}" / "trace.json").is_file()


def test_opencv_is_given_no_path_as_it_is() -> None:
    """It dies of one that is no UTF-8: images go through write_image, videos through plain_path."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "cv2.imwrite(" not in text, path
        assert "cv2.imread(" not in text, path
        for call in re.findall(r"cv2\.Video(?:Capture|Writer)\(([^,)]*)", text):
            assert call in ("name", "number"), path


def test_opencvs_own_writer_would_do_for_names_in_utf8(tmp_path: Path) -> None:
    """What we write is what it writes."""
    write_image(tmp_path / "a.jpg", picture())
    cv2.imwrite(str(tmp_path / "b.jpg"), picture())
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
