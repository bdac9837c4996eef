"""Crops, every so many-th frame, and a window where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests import synthetic_samples
from tests.command_line import run
from tests.synthetic_samples import write_painted as write
from tests.tolerances import JPEG_LEVELS
from yolov9k.common.errors import UserError
from yolov9k.common.window import why_no_window
from yolov9k.config import PredictOptions
from yolov9k.data.draw import crop
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import open_source, video_frames
from yolov9k.engine.predict.writers import folder_name, predict_to_folder

RED, BLUE = (0, 40, 20, 140, 100), (1, 150, 10, 190, 60)


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


def clip(path: Path, frames: int = 7) -> Path:
    """A red box that moves 10 pixels a frame, ten frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (200, 120))
    for number in range(frames):
        video.write(synthetic_samples.paint((120, 200), [(0, 20 + 10 * number, 20, 80 + 10 * number, 100)]))
    video.release()
    return path


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((40, 20, 140, 100), slice(14, 105), slice(34, 146)),  # a fiftieth and ten pixels wider in all
        ((0, 0, 200, 120), slice(0, 120), slice(0, 200)),
        ((195, 115, 200, 120), slice(109, 120), slice(189, 200)),
        ((0, 0, 0, 0), slice(0, 5), slice(0, 5)),
        ((np.nan, 0, np.nan, 0), slice(0, 5), slice(0, 0)),
    ],
)
def test_a_crop_is_a_little_larger_than_its_box(box: tuple[float, ...], rows: slice, columns: slice) -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    found = crop(image, np.array(box))
    assert np.array_equal(found, image[rows, columns])
    assert found.flags.c_contiguous


def test_crops_lie_in_a_folder_a_class(tmp_path: Path, colors: Predictor) -> None:
    write(tmp_path / "s" / "a.png", [RED, BLUE])
    write(tmp_path / "s" / "a_1.png", [RED])
    write(tmp_path / "s" / "b.png", [])
    clip(tmp_path / "s" / "c.mp4", 2)
    colors.names[:] = ["red/car", "blue"]
    out = tmp_path / "out"
    predict_to_folder(colors, tmp_path / "s", out, save_crop=True, save_image=False, progress=False)
    found = {str(path.relative_to(out / "crops")) for path in out.rglob("*.jpg")}
    assert found == {"red_car/a_1.jpg", "blue/a_2.jpg", "red_car/a_1_1.jpg", "red_car/c_1_1.jpg", "red_car/c_2_1.jpg"}
    assert sorted(path.name for path in out.iterdir()) == ["crops"]
    image = cv2.imread(str(out / "crops" / "blue" / "a_2.jpg"))
    original = synthetic_samples.paint((120, 200), [RED, BLUE])
    x1, y1, x2, y2 = BLUE[1:]
    middle = image[image.shape[0] // 2, image.shape[1] // 2].astype(int)
    assert np.abs(middle - original[(y1 + y2) // 2, (x1 + x2) // 2]).max() <= JPEG_LEVELS
    assert abs(image.shape[0] - (y2 - y1) * 1.02 - 10) <= 2


@pytest.mark.parametrize(
    ("name", "folder"),
    [("car", "car"), ("a/b\\c", "a_b_c"), ("..", "_"), ("", "_"), (" x. ", "x"), ("\0\n", "__"), ("犬" * 90, "犬" * 66)],
)
def test_a_class_is_a_folder_on_any_system(name: str, folder: str) -> None:
    assert folder_name(name) == folder


@pytest.mark.parametrize("stride", [1, 2, 3, 9])
def test_every_so_many_th_frame(tmp_path: Path, stride: int, capsys: pytest.CaptureFixture[str]) -> None:
    frames = list(video_frames(clip(tmp_path / "a.mp4"), stride=stride))
    assert [frame.index for frame in frames] == list(range(0, 7, stride))
    everything = list(video_frames(tmp_path / "a.mp4"))
    assert all(np.array_equal(frame.image, everything[frame.index or 0].image) for frame in frames)
    assert {frame.fps for frame in frames} == {10 / stride}
    assert frames[0].total == open_source(tmp_path / "a.mp4", None, stride).frame_count() == len(frames)
    assert [frame.index for frame in video_frames(tmp_path / "a.mp4", 2, stride)] == [0, stride][: len(frames)]
    assert capsys.readouterr().err == ""


def test_a_video_of_every_other_frame_plays_as_long(tmp_path: Path, colors: Predictor) -> None:
    source = open_source(clip(tmp_path / "in" / "a.mp4", 8), None, 2)
    out = tmp_path / "out"
    summary = predict_to_folder(colors, source, out, save_txt=True, progress=False)
    assert {path.name for path in (out / "labels").iterdir()} == {"a_1.txt", "a_3.txt", "a_5.txt", "a_7.txt"}
    assert summary.frames == 4
    frames = list(video_frames(summary.files[0]))
    assert (len(frames), frames[0].fps) == (4, 5)
    with pytest.raises(UserError, match=r"^--vid-stride 0: expected at least 1$"):
        PredictOptions("x", "y", vid_stride=0).check()


def test_without_a_display_one_line_says_so(
    tmp_path: Path, colors: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    write(tmp_path / "a.png", [RED])
    summary = predict_to_folder(colors, tmp_path / "a.png", tmp_path / "out", view=True, progress=False)
    assert summary.files == [tmp_path / "out" / "a.png"]
    assert capsys.readouterr().err == "warning: --view-img: there is no display; look at the images in the run directory\n"


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="needs a display, and an OpenCV that has windows")
def test_a_window_shows_images(colors: Predictor, tmp_path: Path) -> None:
    if reason := why_no_window():
        pytest.skip(reason)
    write(tmp_path / "a.png", [RED])
    predict_to_folder(colors, tmp_path / "a.png", tmp_path / "out", view=True, save_image=False, progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_class_names_with_commas(colors: Predictor) -> None:
    def chosen(*classes: int | str, names: tuple[str, ...] = ("red, dark", "blue")) -> list[int]:
        model = synthetic_samples.ColorDetector()
        model.names = list(names)
        return list(Predictor(model, 320, classes=classes, device="cpu").options.classes or ())

    assert chosen("red, dark") == [0]
    assert chosen("red, dark,blue") == [0, 1]
    assert chosen("blue, red, dark") == [1, 0]
    assert chosen("0,1") == chosen("0, 1") == chosen(0, "blue") == [0, 1]
    assert chosen("a,b", names=("a", "b")) == [0, 1]
    assert chosen("a,b", "b", names=("a,b", "b")) == [0, 1]
    with pytest.raises(UserError, match=r"^--classes dark: the model knows 0\.\.1: red, dark, blue$"):
        chosen("1,dark")


def test_flags_of_a_class_with_a_comma(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", "--source", "gone", "--weights", "w", "--classes", "red, dark", "0") == 3
    assert "gone: no such file or folder" in capsys.readouterr().err
