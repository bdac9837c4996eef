"""What a program may hand over to be predicted on: tensors, bytes, cameras; addresses are refused."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import yolov9k
from tests import synthetic_samples
from yolov9k.common.errors import UserError
from yolov9k.engine.predict import sources
from yolov9k.engine.predict.inputs import frames_of, is_endless
from yolov9k.engine.predict.predictor import Predictor

IMAGE = synthetic_samples.paint((120, 200), [(0, 40, 20, 140, 100), (1, 150, 10, 190, 60)])
RGB = torch.from_numpy(IMAGE[..., ::-1].copy()).permute(2, 0, 1)


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


@pytest.mark.parametrize(
    "source",
    [
        RGB, RGB / 255, (RGB / 255).half(), RGB[None].double() / 255, [RGB], (one for one in [RGB / 255]),
        cv2.imencode(".png", IMAGE)[1].tobytes(), bytearray(cv2.imencode(".png", IMAGE)[1].tobytes()),
        io.BytesIO(cv2.imencode(".png", IMAGE)[1].tobytes()), [cv2.imencode(".bmp", IMAGE)[1].tobytes()],
    ],
    ids=["uint8", "float", "half", "batch", "list", "generator", "bytes", "bytearray", "file", "list of bytes"],
)  # fmt: skip
def test_all_of_them_are_the_same_image(colors: Predictor, source: object) -> None:
    (wanted,), (found,) = list(colors(IMAGE)), list(colors(source))
    assert (found.image == IMAGE).all()
    assert found.boxes.tolist() == wanted.boxes.tolist()
    assert (found.path.name, found.orig_shape) == ("image0", (120, 200))
    assert len(found) == 2


def test_a_batch_of_tensors_is_several_images(colors: Predictor) -> None:
    results = list(colors(torch.stack([RGB, torch.zeros_like(RGB), RGB])))
    assert [(result.path.name, len(result)) for result in results] == [("image0", 2), ("image1", 0), ("image2", 2)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(1, 2, 4, 4), r"got float32 \[1, 2, 4, 4\]"),
        (torch.zeros(4, 4), r"got float32 \[4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"got int64 \[3, 4, 4\]"),
        (torch.zeros(3, 0, 4), r"the tensor is empty, its shape is \[3, 0, 4\]"),
        (torch.full((3, 4, 4), 114.0), r"values must lie in 0\.\.1, they reach from 114 to 114"),
        (torch.full((3, 4, 4), float("nan")), "values must lie in 0..1"),
        (b"GIF99", "image0: the content is not a readable image"),
        (b"", "image0: the content"),
        (["a.png", b"x"], r"a\.png: no such file"),
        (3.5, "image: expected a path, a Pillow image, a file's bytes, .* got float"),
        (None, "got NoneType"),
        (True, "got bool"),
        ("https://host/bus.jpg", "https://host/bus.jpg: nothing is fetched from the network; download it and give the file"),
        ("rtsp://host/1", "streams are not supported"),
    ],
)
def test_what_is_no_image_is_one_line(colors: Predictor, source: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(colors(source))


def test_a_number_is_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No camera here: a video stands behind its number, as OpenCV reads both alike."""
    clip, real = str(tmp_path / "clip.mp4"), cv2.VideoCapture
    writer = cv2.VideoWriter(clip, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (320, 192))
    for _ in range(3):
        writer.write(np.zeros((192, 320, 3), np.uint8))
    writer.release()
    with pytest.raises(UserError, match="camera 97: OpenCV cannot open it; give another number, or a video file"):
        frames_of(97)
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda number: real(clip) if number == 1 else None)
    frames = list(frames_of("1"))
    assert [(frame.path.name, frame.index, frame.image.shape) for frame in frames] == [
        ("camera1", n, (192, 320, 3)) for n in range(3)
    ]
    assert [is_endless(source) for source in (0, "0", "12", True, "a.png", "1234", RGB, [0])] == [
        True, True, True, False, False, False, False, False,
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("7").mkdir()
    assert not is_endless("7")


def test_predictions_lost_to_nan_are_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    model = yolov9k.create_model("gelan-t", num_classes=2)
    with torch.no_grad():
        model.head.cv3[0][-1].bias.fill_(float("nan"))
    predictor = Predictor(model, img_size=64, device="cpu")
    found = list(predictor([np.zeros((48, 64, 3), np.uint8)] * 3))
    assert [len(result) for result in found] == [0, 0, 0]
    assert capfd.readouterr().err.count("NaN or infinity") == 1
