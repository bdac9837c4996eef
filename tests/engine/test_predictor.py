"""Prediction: sources, coordinates in the original image, and the files that are written."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import yolov9k
from tests import synthetic_samples
from tests.support import little_model, shared
from yolov9k.common.errors import UserError
from yolov9k.data.images import read_image
from yolov9k.engine.predict.predictor import Predictor
from yolov9k.engine.predict.sources import open_source, video_frames
from yolov9k.engine.predict.writers import predict_to_folder


def write_image(path: Path, rectangles: list[tuple[int, int, int, int, int]] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), synthetic_samples.paint((120, 200), rectangles or [(0, 40, 20, 140, 100)]))
    return path


def clip(path: Path, frames: int = 5) -> Path:
    """A red square that moves 20 pixels a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (320, 192))
    for index in range(frames):
        writer.write(synthetic_samples.paint((192, 320), [(0, 20 + 20 * index, 40, 120 + 20 * index, 140)]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def model() -> yolov9k.DetectionModel:
    torch.manual_seed(0)
    made = yolov9k.create_model("yolov9-t", num_classes=3)
    made.names = ["ash", "birch", "cedar"]
    return made


@pytest.fixture
def colors() -> Predictor:
    return Predictor(synthetic_samples.ColorDetector(), img_size=320, device="cpu")


# --- sources


def test_folder_glob_list_and_file_find_the_same(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/c.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.md").write_text("no image")
    (tmp_path / "list.txt").write_text(f"a.jpg\n\n{tmp_path / 'deep' / 'c.png'}\n")
    names = lambda source: [path.name for path in open_source(source).paths]  # noqa: E731
    assert names(tmp_path) == ["a.jpg", "b.PNG"]
    assert names(str(tmp_path / "**" / "*.png")) == ["c.png"]
    assert names(str(tmp_path / "?.*")) == ["a.jpg", "b.PNG"]
    assert names(tmp_path / "list.txt") == ["a.jpg", "c.png"]
    frames = list(open_source(tmp_path / "b.PNG"))
    assert [(f.path.name, f.index, f.total, f.image.shape) for f in frames] == [("b.PNG", None, 1, (120, 200, 3))]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_any_encoding(tmp_path: Path, encoding: str) -> None:
    write_image(tmp_path / "zoë.png")
    (tmp_path / "list.txt").write_bytes("zoë.png\r\n".encode(encoding))
    assert [path.name for path in open_source(tmp_path / "list.txt").paths] == ["zoë.png"]
    (tmp_path / "list.txt").write_bytes(b"zo\xeb.png\n")
    with pytest.raises(UserError, match=r"list\.txt:1: not text \(byte 2 does not belong to UTF-8"):
        open_source(tmp_path / "list.txt")


def test_file_with_a_name_like_a_pattern(tmp_path: Path) -> None:
    assert len(open_source(write_image(tmp_path / "cell [1].png"))) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nowhere.jpg", r"nowhere\.jpg: no such file"),
        (lambda d: d / "*.jpg", "no image or video matches"),
        (lambda d: d / "empty", "the folder has no image or video"),
        (lambda d: d / "table.csv", r"'\.csv' is no known format"),
        (lambda d: d / "list.txt", r"list\.txt:2: no such file .*gone\.png"),
        (lambda d: "rtsp://host/1", "streams are not supported"),
        (lambda d: "0", "streams are not supported"),
    ],
)
def test_nothing_to_read(tmp_path: Path, make, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("1,2")
    write_image(tmp_path / "here.png")
    (tmp_path / "list.txt").write_text("here.png\ngone.png\n")
    with pytest.raises(UserError, match=message):
        open_source(make(tmp_path))


def test_unreadable_image_alone_is_an_error_among_others_a_warning(
    tmp_path: Path, colors: Predictor, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no jpeg")
    with pytest.raises(UserError, match=r"broken\.jpg: the file is not a readable image; replace"):
        list(colors(broken))
    (tmp_path / "zero.png").touch()
    with pytest.raises(UserError, match="none of the 2 files"):
        list(colors(tmp_path))
    write_image(tmp_path / "good.png")
    summary = predict_to_folder(colors, tmp_path, tmp_path / "out", progress=False)
    assert (summary.images, [path.name for path in summary.skipped]) == (1, ["broken.jpg", "zero.png"])
    assert "broken.jpg: the file is not a readable image" in capfd.readouterr().err


def test_corrupt_video(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypmp42 and nothing more")
    with pytest.raises(UserError, match=r"broken\.mp4: (cannot open|no frame)"):
        list(open_source(broken))
    content = shared("data/video/bottle-detection.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # the index at its end is missing
    with pytest.raises(UserError, match=r"cut\.mp4: (cannot open|no frame)"):
        list(open_source(tmp_path / "cut.mp4"))


def test_image_is_turned_upright(tmp_path: Path) -> None:
    """EXIF orientation 6 (turn by 90 degrees): 120 x 200 stored is 200 x 120 seen."""
    content = write_image(tmp_path / "plain.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = tmp_path / "turned.jpg"
    turned.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    assert read_image(tmp_path / "plain.jpg").shape == (120, 200, 3)
    assert read_image(turned).shape == (200, 120, 3)


def test_gray_and_alpha_become_color(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((8, 9), 77, np.uint16))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((8, 9, 4), 77, np.uint8))
    for name in ("gray.png", "alpha.png"):
        image = read_image(tmp_path / name)
        assert (image.shape, image.dtype) == ((8, 9, 3), np.uint8)


def test_real_video_frames() -> None:
    frames = list(video_frames(shared("data/video/car-detection.mp4"), max_frames=3))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].image.shape == (432, 768, 3)
    assert frames[0].fps == pytest.approx(12.5)
    assert frames[0].total == 3


# --- results


@pytest.mark.parametrize("size", [(120, 200), (331, 97), (64, 1000), (700, 900)])
def test_boxes_are_in_original_pixels(colors: Predictor, size: tuple[int, int]) -> None:
    height, width = size
    box = (width // 4, height // 4, width // 4 + width // 2, height // 4 + height // 2)
    (result,) = colors(synthetic_samples.paint(size, [(1, *box)]))
    np.testing.assert_allclose(result.boxes, [box], atol=1 + max(size) / 320)
    assert result.classes.tolist() == [1]
    assert result.names[1] == "blue"
    assert result.scores == pytest.approx([0.9])


@pytest.mark.parametrize("placement", ["center", "topleft"])
def test_images_lie_where_the_models_letterbox_has_them(placement: str) -> None:
    """What is found is where it is, whichever way the image was padded."""
    detector, seen = synthetic_samples.ColorDetector(), []
    detector.letterbox = placement
    predictor, branches = Predictor(detector, img_size=320, device="cpu"), detector.branches
    detector.branches = lambda x, **options: (seen.append(x), branches(x, **options))[1]  # type: ignore[method-assign]
    (result,) = predictor(synthetic_samples.paint((100, 190), [(0, 0, 0, 60, 40)]))
    gray = seen[0].sub(114 / 255).abs().amax(1)[0] < 0.01
    rows = (~gray).any(1).nonzero().flatten()
    assert (int(rows[0]) == 0) == (placement == "topleft")
    assert np.abs(result.boxes[0] - [0, 0, 60, 40]).max() < 2


def test_network_input_is_rectangular(model: yolov9k.DetectionModel) -> None:
    predictor, shapes = Predictor(model, img_size=128, device="cpu"), []
    branches = predictor.model.branches
    predictor.model.branches = lambda x, **options: (shapes.append(tuple(x.shape)), branches(x, **options))[1]
    list(predictor([np.zeros((100, 400, 3), np.uint8), np.zeros((90, 90, 3), np.uint8)]))
    assert shapes == [(1, 3, 32, 128), (1, 3, 128, 128)]


def test_texts_and_json(colors: Predictor, tmp_path: Path) -> None:
    path = write_image(tmp_path / "p.png", [(0, 40, 20, 140, 100)])
    (result,) = colors(path)
    index, *values = result.to_yolo_text(conf=True).split()
    assert index == "0"
    assert [float(v) for v in values] == pytest.approx([0.45, 0.5, 0.5, 80 / 120, 0.9], abs=0.01)
    assert len(result.to_yolo_text().split()) == 5
    content = json.loads(json.dumps(result.to_record()))
    assert content["detections"][0]["name"] == "red"
    assert content["detections"][0]["box"] == pytest.approx([40, 20, 140, 100], abs=1)
    assert (content["width"], content["height"], content["frame"]) == (200, 120, None)
    before = result.image.copy()
    assert (result.draw() != before).any()
    np.testing.assert_array_equal(result.image, before)


def test_a_real_model_is_left_alone_and_lean_for_inference(model: yolov9k.DetectionModel) -> None:
    model.train()
    predictor = Predictor(model, img_size=64, conf=0.0, iou=1.0, max_det=20, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (result,) = predictor(image)
    assert model.training
    assert predictor.model.head.num_branches == 1
    assert len(result) == 20
    assert (np.diff(result.scores) <= 0).all()
    assert result.boxes.min() >= 0
    assert result.boxes.max() <= 64
    model.eval()
    with torch.no_grad():
        raw = model(torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None] / 255)
    assert result.scores[0] == pytest.approx(float(raw[0, 4:].max()), rel=1e-3)


@pytest.mark.long
def test_batches_give_what_single_images_give(model: yolov9k.DetectionModel) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, shape, np.uint8) for shape in [(64, 64, 3)] * 3 + [(32, 64, 3)] + [(64, 64, 3)]]
    one, three = (Predictor(model, 64, conf=0.0, max_det=9, device="cpu", batch=n) for n in (1, 3))
    for single, batched in zip(one(images), three(images), strict=True):
        assert single.image is batched.image
        np.testing.assert_allclose(single.scores, batched.scores, rtol=1e-4)
    assert three.images == 5
    assert three.speed.inference > 0


def test_class_filter(colors: Predictor) -> None:
    both = synthetic_samples.paint((160, 320), [(0, 10, 10, 90, 90), (1, 150, 10, 250, 120)])
    for chosen, expected in [(None, [0, 1]), ([1], [1]), (["red"], [0]), (["0", "blue"], [0, 1])]:
        predictor = Predictor(synthetic_samples.ColorDetector(), 320, classes=chosen, device="cpu")
        assert sorted(next(predictor(both)).classes.tolist()) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["green"]}, r"--classes green: the model knows 0\.\.1: red, blue"),
        ({"classes": [2]}, "--classes 2"),
        ({"classes": ["²"]}, "--classes ²: the model knows"),
        ({"classes": ["9" * 5000]}, "--classes 9{59}…: the model knows"),
        ({"max_det": 10**11}, r"--max-det 1e\+11: expected a number from 1 to 100000"),
        ({"conf": 1.5}, r"--conf 1\.5: expected a number from 0 to 1"),
        ({"img_size": 0}, "--img 0"),
        ({"amp": "int4"}, "--amp int4: expected one of off, fp16, bf16"),
        ({"device": "tpu9"}, "--device tpu9"),
        ({"device": "cuda:77"}, "--device cuda:77: torch sees"),
        ({"batch": 0}, "--batch 0"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictor(synthetic_samples.ColorDetector(), **{"device": "cpu", **options})


def test_arrays_are_checked(colors: Predictor) -> None:
    for bad, message in [
        (np.zeros((4, 4, 5), np.uint8), r"got uint8 \[4, 4, 5\]"),
        ([np.zeros((4, 4, 3), np.float32)], r"got float32 \[4, 4, 3\]"),
        ([np.zeros((0, 4, 3), np.uint8)], "empty"),
        (["a.jpg"], "a.jpg: no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            list(colors(bad))


def test_size_is_rounded_up_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert Predictor(synthetic_samples.ColorDetector(), img_size=100, device="cpu").img_size == 128
    assert "--img 100 is no multiple of 32; 128 is used" in capfd.readouterr().err


# --- files


def test_nothing_overwrites_anything(tmp_path: Path, colors: Predictor) -> None:
    for name in ("x/a.png", "y/a.png", "y/a.jpg", "y/A.png"):
        write_image(tmp_path / name)
    clip(tmp_path / "y" / "a.mp4", frames=2)
    write_image(tmp_path / "y" / "a_4_1.png")
    out = tmp_path / "out"
    source = str(tmp_path / "[xy]" / "*.*")
    summary = predict_to_folder(colors, source, out, save_txt=True, save_json=True, progress=False)
    assert (summary.images, summary.videos, summary.frames) == (5, 1, 7)
    written = [str(p.relative_to(out)) for p in out.rglob("*.*") if p.suffix != ".txt"]
    assert len({name.lower() for name in written}) == 6 + 1  # and predictions.json
    assert {str(path.relative_to(out)) for path in summary.files} == set(written) - {"predictions.json"}
    assert len({str(path).lower() for path in (out / "labels").rglob("*.txt")}) == 7
    assert summary.counts == {"red": 7}
    assert summary.detections == 7
    assert len(json.loads((out / "predictions.json").read_text())) == 7


def test_video_keeps_its_frames_and_size(tmp_path: Path, colors: Predictor) -> None:
    source, out = clip(tmp_path / "moving.mp4"), tmp_path / "out"
    summary = predict_to_folder(colors, source, out, save_txt=True, save_conf=True, save_json=True, progress=False)
    assert [path.name for path in summary.files] == ["moving.mp4"]
    frames = list(video_frames(out / "moving.mp4"))
    assert (len(frames), frames[0].image.shape, frames[0].fps) == (5, (192, 320, 3), pytest.approx(12.0))
    labels = sorted((out / "labels").iterdir())
    assert [path.name for path in labels] == [f"moving_{number}.txt" for number in range(1, 6)]
    centers = [float(path.read_text().split()[1]) * 320 for path in labels]
    assert centers == pytest.approx([70, 90, 110, 130, 150], abs=3)
    assert [row["frame"] for row in json.loads((out / "predictions.json").read_text())] == list(range(5))
    assert {path.name for path in out.iterdir()} == {"moving.mp4", "labels", "predictions.json"}


def test_images_under_their_names(tmp_path: Path, colors: Predictor) -> None:
    for name in ("one.bmp", "two.png", "three.webp"):
        write_image(tmp_path / "in" / name)
    write_image(tmp_path / "in" / "four.ppm")  # a format of bare pixels: annotated as PNG
    out = tmp_path / "out"
    predict_to_folder(colors, tmp_path / "in", out, progress=False)
    assert {path.name for path in out.iterdir()} == {"one.bmp", "two.png", "three.webp", "four.png"}
    drawn = read_image(out / "two.png")
    assert drawn.shape == (120, 200, 3)
    assert (drawn != read_image(tmp_path / "in" / "two.png")).any()


def test_texts_alone(tmp_path: Path, colors: Predictor) -> None:
    write_image(tmp_path / "in" / "full.png")
    cv2.imwrite(str(tmp_path / "in" / "void.png"), np.zeros((50, 60, 3), np.uint8))
    out = tmp_path / "out"
    predict_to_folder(colors, tmp_path / "in", out, save_image=False, save_txt=True, progress=False)
    assert [path.name for path in out.iterdir()] == ["labels"]
    assert (out / "labels" / "void.txt").read_text() == ""
    assert (out / "labels" / "full.txt").read_text().startswith("0 0.4")


def test_an_interruption_leaves_complete_files(tmp_path: Path, colors: Predictor) -> None:
    source = open_source(clip(tmp_path / "moving.mp4"))
    draw, seen = colors._run, []

    def stop_at_third(frames: list) -> list:
        seen.append(frames)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return draw(frames)

    colors._run = stop_at_third  # the user's Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(colors, source, tmp_path / "out", save_json=True, progress=False)
    assert len(list(video_frames(tmp_path / "out" / "moving.mp4"))) == 2
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2


def test_real_images_and_video(tmp_path: Path, model: yolov9k.DetectionModel) -> None:
    predictor = Predictor(model, img_size=96, conf=1e-4, max_det=5, device="cpu")
    images = shared("data/coco-demo/images") / "0000002*.jpg"
    summary = predict_to_folder(predictor, images, tmp_path / "a", save_txt=True, progress=False)
    assert summary.images == len(open_source(images)) == len(list((tmp_path / "a" / "labels").iterdir())) == 6
    video = shared("data/video/bottle-detection.mp4")
    summary = predict_to_folder(predictor, video, tmp_path / "b", max_frames=3, progress=False)
    assert (summary.videos, summary.frames) == (1, 3)
    assert [frame.image.shape for frame in video_frames(summary.files[0])] == [(360, 640, 3)] * 3


def test_weights_by_path(tmp_path: Path) -> None:
    from yolov9k.models.checkpoints import save

    model, path = yolov9k.create_model(little_model(tmp_path), num_classes=3), tmp_path / "m.pt"
    model.names = ["ash", "birch", "cedar"]
    save(path, model)
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    results = [next(Predictor(m, 64, conf=0.0, max_det=5, device="cpu")(image)) for m in (model, path)]
    np.testing.assert_allclose(results[0].boxes, results[1].boxes)
    assert results[1].names == ["ash", "birch", "cedar"]
    with pytest.raises(UserError, match=r"none\.pt"):
        Predictor(tmp_path / "none.pt")
