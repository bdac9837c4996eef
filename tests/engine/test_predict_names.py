"""Results bear names that belong to their source alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import synthetic_samples
from tests.synthetic_samples import write_painted as write
from yolov9k.common.result_names import output_names
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.loader import make_loader
from yolov9k.data.records import Split
from yolov9k.engine.evaluate.validator import validate
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import is_video
from yolov9k.engine.predict.writers import predict_to_folder

RED, NOTHING = [(0, 40, 20, 140, 100)], []


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["deep/a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "a_2.jpg"], ["a", "a.png", "a_2"]),
        (["a.jpg", "a.png", "a.png.bmp"], ["a", "a.png_2", "a.png"]),
        (["x/a.jpg", "y/a.jpg", "y/b.jpg"], ["x/a", "y/a", "y/b"]),
        (["x/a.jpg", "x/a.png", "y/a.jpg"], ["x/a", "x/a.png", "y/a"]),
        (["a.jpg", "A.jpg"], ["a", "A.jpg"]),
        (["x/a.jpg", "y/A.jpg"], ["x/a", "y/A"]),
        (["a.jpg", "a.jpg", "a.jpg"], ["a", "a.jpg", "a.jpg_2"]),
        (["clip.mp4", "clip_1.jpg"], ["clip.mp4", "clip_1"]),
        (["clip.mp4", "clip.jpg", "clip.avi"], ["clip", "clip.jpg", "clip.avi"]),
        (["a.png.mp4", "a.jpg", "a.png", "a.png"], ["a.png", "a", "a.png-2", "a.png-3"]),
        (["a.jpg", "a.png", "a.png", "a.png.mp4"], ["a", "a.png-2", "a.png-3", "a.png"]),
        (["clip.mp4", "clip.mp4", "clip.mp4"], ["clip", "clip.mp4", "clip.mp4-2"]),
        ([], []),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert output_names([Path(path) for path in paths], is_video) == names


@given(st.lists(st.from_regex(r"([xy]/)?[abA](_[12])?(\.png)?\.(png|jpg|ppm|mp4)", fullmatch=True), max_size=12))
def test_names_differ_and_none_is_another_sources_own(paths: list[str]) -> None:
    names = output_names([Path(path) for path in paths], is_video)
    assert len({name.casefold() for name in names}) == len(names)
    labels = [
        label.casefold()
        for path, name in zip(paths, names, strict=True)
        for label in ([f"{name}_{frame}" for frame in range(1, 4)] if path.endswith("mp4") else [name])
    ]
    assert len(set(labels)) == len(labels)  # a video's frames are no other source's
    for path, name in zip(paths, names, strict=True):
        others = {str(Path(other).with_suffix("")).casefold() for other in paths if other != path}
        assert name.casefold() not in others or Path(name).name == Path(path).stem


def test_each_label_file_is_that_of_its_image(tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    for name, rectangles in (("a.jpg", RED), ("a.png", NOTHING), ("a_2.jpg", RED), ("a.ppm", NOTHING)):
        write(tmp_path / "s" / name, rectangles)
    out = tmp_path / "out"
    predict_to_folder(colors, tmp_path / "s", out, save_txt=True, progress=False)
    found = {path.name: bool(path.read_text()) for path in (out / "labels").iterdir()}
    assert found == {"a.txt": True, "a.png.txt": False, "a.ppm.txt": False, "a_2.txt": True}
    assert {path.name for path in out.iterdir()} == {"a.jpg", "a.png", "a.ppm.png", "a_2.jpg", "labels"}
    told = capfd.readouterr().err
    assert "sources share their names: results of some have longer ones, such as a.png for " in told


def test_so_is_each_label_file_of_a_validation(tmp_path: Path) -> None:
    rectangles = {"a.jpg": RED, "a.png": NOTHING}
    records = [
        synthetic_samples.record(tmp_path / name, number, (120, 200), rows)
        for number, (name, rows) in enumerate(rectangles.items())
    ]
    split = Split("val", synthetic_samples.NAMES, [0, 1], records)
    loader = make_loader(split, TrainRecipe(), img_size=320, batch=2, augment=False, rect=True, workers=0)
    validate(synthetic_samples.ColorDetector(), loader, split=split, save_txt=tmp_path / "labels", progress=False)
    found = {path.name: bool(path.read_text()) for path in (tmp_path / "labels").iterdir()}
    assert found == {"a.txt": True, "a.png.txt": False}


def test_subfolders_are_kept(tmp_path: Path, colors: Predictor) -> None:
    for name, rectangles in (("x/a.jpg", RED), ("y/a.jpg", NOTHING), ("y/deep/b.png", RED)):
        write(tmp_path / "s" / name, rectangles)
    out = tmp_path / "out"
    summary = predict_to_folder(colors, str(tmp_path / "s" / "**" / "*.*"), out, save_txt=True, progress=False)
    found = {str(path.relative_to(out / "labels")): bool(path.read_text()) for path in (out / "labels").rglob("*.txt")}
    assert found == {"x/a.txt": True, "y/a.txt": False, "y/deep/b.txt": True}
    assert {str(path.relative_to(out)) for path in summary.files} == {"x/a.jpg", "y/a.jpg", "y/deep/b.png"}


def test_no_more_is_said_than_needed(tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "s" / "a.jpg", RED)
    write(tmp_path / "s" / "b.jpg", RED)
    predict_to_folder(colors, tmp_path / "s", tmp_path / "out", progress=False)
    assert capfd.readouterr().err.strip() == ""  # older versions of rich end the bar by a line


def test_frames_do_not_take_an_images_labels(tmp_path: Path, colors: Predictor) -> None:
    write(tmp_path / "s" / "clip_1.png", RED)
    writer = cv2.VideoWriter(str(tmp_path / "s" / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (64, 64))
    for _ in range(2):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    out = tmp_path / "out"
    predict_to_folder(colors, tmp_path / "s", out, save_txt=True, progress=False)
    assert (out / "labels" / "clip_1.txt").read_text()
    assert {path.name for path in (out / "labels").iterdir()} == {"clip_1.txt", "clip.mp4_1.txt", "clip.mp4_2.txt"}
    assert {path.name for path in out.iterdir()} == {"clip.mp4", "clip_1.png", "labels"}
