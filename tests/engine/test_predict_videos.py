"""Videos of any rate and size: written as they are, played as long as they were recorded, none ends the others."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests import synthetic_samples
from yolov9k.common.errors import UserError
from yolov9k.data.headers import pixel_limit
from yolov9k.engine.predict import video_file
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import Frame, Source, video_frames
from yolov9k.engine.predict.video_file import VideoFile, writable_rate
from yolov9k.engine.predict.writers import predict_to_folder


def picture(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.full((height, width, 3), 20 + 10 * (number % 20), np.uint8)


@pytest.mark.parametrize(
    "fps", [211.222, 105611 / 500, 23.976, 30000 / 1001, 59.94, 119.88, 240.005, 655.3599, 0.1, 90000, 1e9]
)
def test_every_rate_can_be_written(tmp_path: Path, fps: float) -> None:
    video = VideoFile(tmp_path / "a.mp4", fps, picture(0))
    for number in range(12):
        video.add(picture(number))
    video.close()
    frames = list(video_frames(tmp_path / "a.mp4"))
    assert len(frames) == 12
    assert frames[0].fps == pytest.approx(min(fps, 65535), rel=1e-3)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_no_rate_is_the_usual_one(fps: float) -> None:
    assert writable_rate(fps) == 25


@pytest.mark.parametrize("shape", [(65, 97), (65, 96), (64, 97), (1, 1), (3, 5)])
def test_odd_sizes_keep_every_row(tmp_path: Path, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 2, (*shape, 1), np.uint8) * 0 + np.uint8(40)
    image = np.repeat(image, 3, -1)
    image[-1], image[:, -1] = 230, 230
    video = VideoFile(tmp_path / "a.mp4", 25, image)
    for _ in range(3):
        video.add(image)
    video.close()
    frame = next(video_frames(tmp_path / "a.mp4"))
    height, width = (side + side % 2 for side in shape)
    assert frame.image.shape == (height, width, 3)
    assert frame.image[-1].mean() > 150
    assert frame.image[:, -1].mean() > 150


def write(tmp_path: Path, times: list[float | None], fps: float = 30) -> tuple[VideoFile, list[Frame]]:
    video = VideoFile(tmp_path / "a.mp4", fps, picture(0))
    for number, seconds in enumerate(times):
        video.add(picture(number), seconds)
    video.close()
    return video, list(video_frames(tmp_path / "a.mp4"))


def test_a_varying_rate_plays_as_long(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ten frames at 30 a second, then ten at two: 0.3 and 5 seconds."""
    times = [5 + number / 30 for number in range(10)] + [5.8 + number / 2 for number in range(10)]
    video, frames = write(tmp_path, times)
    assert len(frames) == 9 + 5 * 30 + 1
    assert video.repeated == len(frames) - 20
    shown = [round((frame.image.mean() - 20) / 10) for frame in frames]
    assert shown == [max(n for n, time in enumerate(times) if time - 5 <= index / 30 + 1e-6) for index in range(len(frames))]
    assert f"{video.repeated} frames are repeated so that it plays as long as the source" in capfd.readouterr().err


def test_a_constant_rate_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, 40)
    jitter[0] = 0
    for times in (
        [(n + j) / 30 for n, j in enumerate(jitter)],
        [None] * 40,
        [math.nan] * 40,
        [0.0] * 40,
        [n / 60 for n in range(40)],
    ):
        video, frames = write(tmp_path, list(times))
        assert (len(frames), video.repeated) == (40, 0)
    assert capfd.readouterr().err == ""


def test_damaged_times_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_file, "_LONGEST_GAP", 1.0)
    video, frames = write(tmp_path, [0, 1e12, 1e12 + 1 / 30, 5, 1e12 + 2 / 30])
    assert len(frames) == 5 + 30
    assert video.repeated == 30


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


def clip(path: Path, fps: float, size: tuple[int, int], frames: int = 4, codec: str = "MJPG") -> Path:
    """An AVI, which holds any rate and size."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size)
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number, size[1], size[0]))
    writer.release()
    return path


def test_a_folder_goes_on_behind_any_video(tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "s"
    source.mkdir()
    clip(source / "a.avi", 211.222, (96, 64))
    clip(source / "b.avi", 25, (9000, 16))  # wider than MPEG-4 can be
    cv2.imwrite(str(source / "c.png"), picture(0))
    out = tmp_path / "out"
    summary = predict_to_folder(colors, source, out, save_txt=True, save_json=True, progress=False)
    assert (summary.images, summary.videos, summary.frames, summary.skipped) == (1, 2, 9, [])
    assert [path.name for path in summary.files] == ["a.mp4", "c.png"]
    assert {path.name for path in (out / "labels").iterdir()} >= {"a_1.txt", "a_4.txt", "b_1.txt", "b_4.txt", "c.txt"}
    told = capfd.readouterr().err
    assert "b.mp4: OpenCV cannot write an mp4 video of 9000 x 16 pixels at 25 frames a second here; it is left out" in told


def held(path: Path, frame: int, times: int) -> Path:
    """An mp4 of which one frame is shown for so many frames' time."""
    video = VideoFile(path, 10, picture(0))
    for number in range(4):
        video.add(picture(number))
    video.close()
    data = bytearray(path.read_bytes().replace(b"edts", b"free"))
    at = data.index(b"stts")
    _, entries, count, length = struct.unpack_from(">4I", data, at + 4)
    assert (entries, count) == (1, 4)
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        place = data.index(box) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + 16)
    data[at + 8 : at + 20] = struct.pack(">7I", 3, frame, length, 1, times * length, 3 - frame, length)
    path.write_bytes(data)
    return path


def test_a_video_of_a_varying_rate_is_written_as_long(tmp_path: Path, colors: Predictor) -> None:
    """By the average rate, 4.4 a second: the second frame's 0.6 seconds are more than two frames."""
    predict_to_folder(colors, held(tmp_path / "a.mp4", frame=1, times=6), tmp_path / "out", progress=False)
    levels = [frame.image.mean() for frame in video_frames(tmp_path / "out" / "a.mp4")]
    assert [round((level - levels[0]) / 10) for level in levels] == [0, 1, 1, 2, 3]


def test_frames_know_their_time(tmp_path: Path) -> None:
    frames = list(Source([clip(tmp_path / "a.avi", 10, (96, 64))]))
    assert [frame.time - frames[0].time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.01)


def test_a_video_of_vast_frames_is_refused(tmp_path: Path, colors: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    clip(tmp_path / "a.avi", 10, (96, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2 - 1)
    assert pixel_limit() < 96 * 64
    with pytest.raises(UserError, match=r"a\.avi: a frame has more than 6,142 pixels; scale the video down"):
        list(colors(tmp_path / "a.avi"))
