"""Results of detection: the arrays that they are, and the names and meanings that users of Ultralytics know."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov9k.common import window
from yolov9k.common.errors import UserError
from yolov9k.tasks.detect.boxes import Boxes, Names
from yolov9k.tasks.detect.result import Result

CORNERS = np.array([[10, 20, 50, 80], [0, 0, 30, 10], [100, 50, 200, 120]], np.float32)
SCORES, CLASSES = np.array([0.9, 0.5, 0.25], np.float32), np.array([1, 0, 1])


def result(count: int = 3) -> Result:
    """Two birches and an ash in an image of 200 x 120 pixels."""
    image = np.zeros((120, 200, 3), np.uint8)
    image[20:80, 10:50] = 255
    return Result(Path("wood/a.png"), image, CORNERS[:count], SCORES[:count], CLASSES[:count], ["ash", "birch"])


# --- the boxes are the array that they were


def test_boxes_are_an_array_of_corners() -> None:
    boxes = result().boxes
    assert isinstance(boxes, np.ndarray)
    assert boxes.shape == (3, 4)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == CORNERS.tolist()
    assert str(boxes) == str(CORNERS)
    x1, y1, x2, y2 = boxes[0]
    assert (x1, y1, x2, y2) == (10, 20, 50, 80)
    assert [tuple(box) for box in boxes] == [tuple(row) for row in CORNERS]
    assert torch.as_tensor(boxes).tolist() == CORNERS.tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[:, :2], lambda a: a[:, 2] - a[:, 0], lambda a: a * 2, lambda a: a[..., None], lambda a: a[a > 30],
        lambda a: a.sum(), lambda a: a.max(0), lambda a: np.concatenate([a, a]), lambda a: a == a, lambda a: a[0, 1],
        lambda a: np.hypot(a[:, 0], a[:, 1]), lambda a: -a, lambda a: a[np.argsort(a[:, 0])][:, 1], lambda a: a.clip(0, 40),
    ],
)  # fmt: skip
def test_numpy_makes_of_boxes_what_it_makes_of_the_array(make) -> None:
    made, wanted = make(result().boxes), make(CORNERS)
    np.testing.assert_array_equal(np.asarray(made), wanted)
    assert np.asarray(made).dtype == np.asarray(wanted).dtype


def test_what_is_written_in_place_shows_in_the_fields() -> None:
    one = result()
    one.boxes *= 2
    one.boxes[0, 0] = 7
    assert one.boxes.xyxy[0].tolist() == [7, 40, 100, 160]
    assert one.boxes.conf.tolist() == SCORES.tolist()


def test_what_numpy_made_has_no_scores_and_says_so() -> None:
    for made in (result().boxes.copy(), result().boxes.astype(np.float64), result().boxes.reshape(-1)):
        with pytest.raises(AttributeError, match=r"has no scores or classes; take result\.boxes"):
            _ = made.conf
    assert type(result().boxes * 2) is np.ndarray


# --- fields


def test_fields_are_tensors_of_a_row_a_box() -> None:
    boxes = result().boxes
    assert isinstance(boxes, Boxes)
    assert boxes.xyxy.tolist() == CORNERS.tolist()
    assert boxes.xywh.tolist() == [[30, 50, 40, 60], [15, 5, 30, 10], [150, 85, 100, 70]]
    np.testing.assert_allclose(boxes.xyxyn, CORNERS / [200, 120, 200, 120], rtol=1e-6)
    np.testing.assert_allclose(boxes.xywhn[0], [0.15, 50 / 120, 0.2, 0.5], rtol=1e-6)
    assert boxes.conf.tolist() == SCORES.tolist()
    assert boxes.cls.tolist() == [1, 0, 1]
    assert boxes.data.shape == (3, 6)
    assert (boxes.id, boxes.is_track) == (None, False)
    assert all(isinstance(part, torch.Tensor) for part in (boxes.data, boxes.xyxyn, boxes.conf, boxes.cls))


def test_the_usual_loops_run() -> None:
    lines = []
    for found in result():
        for box in found.boxes:
            x1, y1, x2, y2 = box.xyxy[0].tolist()
            lines.append((found.names[int(box.cls[0])], round(float(box.conf), 2), x1, y1, x2, y2, int(box.cls)))
    assert lines[0] == ("birch", 0.9, 10, 20, 50, 80, 1)
    assert [box.xyxy[0].cpu().numpy().astype(int).tolist() for box in result().boxes] == CORNERS.astype(int).tolist()
    assert [len(result().boxes), bool(result().boxes), bool(result(0).boxes)] == [3, True, False]


@given(index=st.one_of(st.slices(3), st.lists(st.integers(-3, 2), max_size=5), st.lists(st.booleans(), min_size=3, max_size=3)),
       tensor=st.booleans(), numpy=st.booleans())  # fmt: skip
def test_choosing_boxes_chooses_their_fields(index, tensor: bool, numpy: bool) -> None:
    wanted = np.arange(3)[index if isinstance(index, slice) or index else slice(0)]
    boxes = result().boxes.numpy() if numpy else result().boxes
    if not isinstance(index, slice):
        index = torch.tensor(index, dtype=None if index else torch.int64) if tensor else np.array(index or np.zeros(0, int))
    chosen = boxes[index]
    np.testing.assert_array_equal(np.asarray(chosen), CORNERS[wanted])
    np.testing.assert_array_equal(np.asarray(chosen.conf), SCORES[wanted])
    np.testing.assert_array_equal(np.asarray(chosen.xyxy), CORNERS[wanted])
    if len(wanted):
        assert result()[index].found() == [["ash", "birch"][CLASSES[number]] for number in wanted]


def test_results_are_chosen_like_their_boxes() -> None:
    sure = result()[result().boxes.conf > 0.4]
    assert (len(sure), sure.classes.tolist(), sure.scores.tolist()) == (2, [1, 0], [np.float32(0.9), np.float32(0.5)])
    assert len(result()[1]) == len(result()[-1]) == 1
    assert [one.found() for one in result()] == [["birch"], ["ash"], ["birch"]]
    with pytest.raises(IndexError):
        _ = result()[3]


def test_tracks_have_numbers() -> None:
    rows = np.concatenate([CORNERS, [[7], [8], [9]], SCORES[:, None], CLASSES[:, None]], 1)
    boxes = Boxes(torch.from_numpy(rows.astype(np.float32)), (120, 200))
    assert boxes.id.int().tolist() == [7, 8, 9]
    assert (boxes.is_track, boxes.conf.tolist(), boxes.cls.tolist()) == (True, SCORES.tolist(), [1, 0, 1])
    assert boxes[1].id.tolist() == [8]


def test_fields_travel() -> None:
    arrays = result().numpy()
    assert isinstance(arrays.boxes.xywhn, np.ndarray)
    assert isinstance(arrays.boxes[0].conf, np.ndarray)
    np.testing.assert_array_equal(arrays.boxes.xywh, result().boxes.xywh)
    assert isinstance(arrays.cpu().boxes.xyxy, np.ndarray)  # they are on the host already
    back = arrays.to(torch.float64)
    assert (back.boxes.xyxy.dtype, np.asarray(back.boxes).dtype) == (torch.float64, np.float32)
    assert result().to("cpu").boxes[2].numpy().conf.tolist() == [0.25]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_are_whole(again) -> None:
    twin = again(result())
    assert twin.boxes.conf.tolist() == SCORES.tolist()
    assert again(result().boxes).cls.tolist() == [1, 0, 1]
    assert again(result().boxes[:, :2]).tolist() == CORNERS[:, :2].tolist()


# --- the result


def test_names_are_a_list_and_a_dictionary() -> None:
    names = result().names
    assert (names[1], list(names), dict(names)) == ("birch", ["ash", "birch"], {0: "ash", 1: "birch"})
    assert (list(names.items()), list(names.values()), list(names.keys())) == (
        [(0, "ash"), (1, "birch")],
        ["ash", "birch"],
        [0, 1],
    )
    assert (names.get(1), names.get(2), names.get(-1, "?")) == ("birch", None, "?")
    assert isinstance(names, Names)
    assert 0 in names and 0.0 in names and np.int64(len(names) - 1) in names  # noqa: PT018
    assert len(names) not in names and -1 not in names and 0.5 not in names and "nothing" not in names  # noqa: PT018


def test_facts_of_the_image() -> None:
    one = result()
    assert one.orig_img is one.image
    assert one.orig_shape == (120, 200)
    assert (one.masks, one.probs, one.keypoints, one.obb) == (None, None, None, None)
    assert one.verbose() == "1 ash, 2 birchs, "
    assert result(0).verbose() == "(no detections), "


def test_tables() -> None:
    rows = json.loads(result().to_json())
    assert rows == result().summary()
    assert rows[0] == {
        "name": "birch", "class": 1, "confidence": 0.9, "box": {"x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 80.0},
    }  # fmt: skip
    assert result().summary(normalize=True, decimals=2)[2]["box"] == {"x1": 0.5, "y1": 0.42, "x2": 1.0, "y2": 1.0}
    assert json.loads(result(0).to_json()) == []
    plain = result().to_dict()
    assert {key: (value.dtype, tuple(value.shape)) for key, value in plain.items()} == {
        "boxes": (torch.float32, (3, 4)), "labels": (torch.int64, (3,)), "scores": (torch.float32, (3,)),
    }  # fmt: skip
    assert tuple(result(0).to_dict()["boxes"].shape) == (0, 4)


def test_a_data_frame_where_there_is_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UserError, match="pandas is not installed; pip install pandas"):
        result().to_df()
    monkeypatch.undo()
    frame = pytest.importorskip("pandas") and result().to_df()
    assert frame["name"].tolist() == ["birch", "ash", "birch"]


def test_plot_draws_on_a_copy() -> None:
    one = result()
    drawn = one.plot()
    assert drawn.shape == one.image.shape
    assert (drawn != one.image).any()
    assert not result().image[:20].any()
    assert (one.plot(boxes=False) == one.image).all()
    assert (one.plot(labels=False, conf=False) == one.draw(labels=False, confidences=False)).all()
    assert one.plot(pil=True).size == (200, 120)
    other = np.full((120, 200, 3), 9, np.uint8)
    assert (one.plot(img=other)[0, 190] == 9).all()
    assert (other == 9).all()


def test_arguments_of_plot_without_effect_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    result().plot(font_size=12, line_width=2.0)
    assert "plot: font_size: without effect" in capsys.readouterr().err


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert result().save() == "results_a.png"
    assert cv2.imread("results_a.png").shape == (120, 200, 3)
    assert cv2.imread(result().save(tmp_path / "deep" / "b.jpg")).shape == (120, 200, 3)
    text = Path(result().save_txt("labels/a.txt", save_conf=True))
    assert text.read_text().splitlines()[0] == "1 0.150000 0.416667 0.200000 0.500000 0.900000"
    result().save_txt(text)
    assert len(text.read_text().splitlines()) == 6
    assert result(0).save_txt("none.txt") == "none.txt"
    assert not Path("none.txt").exists()
    with pytest.raises(UserError, match=r"x\.what: OpenCV cannot encode a \.what image"):
        result().save("x.what")
    with pytest.raises(UserError, match=r"a\.txt/b\.txt: cannot be written"):
        result().save_txt(text / "b.txt")


def test_crops_are_somewhat_larger_than_their_boxes(tmp_path: Path) -> None:
    one = Result(Path("a.png"), result().image, CORNERS, SCORES, CLASSES, ["../ash", "birch"])
    files = one.save_crop(tmp_path / "crops", "a.jpg")
    assert [str(file.relative_to(tmp_path / "crops")) for file in files] == ["birch/a.jpg", "_ash/a.jpg", "birch/a2.jpg"]
    assert [(name, crop.shape[:2]) for name, crop in one.crops()] == [
        ("birch", (71, 51)), ("../ash", (15, 35)), ("birch", (76, 106)),
    ]  # fmt: skip
    assert cv2.imread(str(files[0])).shape == (71, 51, 3)
    outside = Result(
        Path("a.png"), one.image, np.array([[300, 300, 300, 300]], np.float32), SCORES[:1], CLASSES[:1], ["a", "b"]
    )
    assert outside.save_crop(tmp_path) == []


def test_show_says_where_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "why_no_window", lambda: "there is no display")
    with pytest.raises(UserError, match=r"wood/a\.png: cannot be shown, there is no display; save it instead"):
        result().show()
    shown: list[object] = []
    monkeypatch.setattr(window, "why_no_window", lambda: "")
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    result().show(conf=False)
    assert shown == [("wood/a.png", (120, 200, 3))]


def test_supervision_reads_it_by_its_attributes() -> None:
    """What `supervision.Detections.from_ultralytics` asks for; the slow tier asks the real package."""
    one = result()
    numbers = one.boxes.cls.cpu().numpy().astype(int)
    assert np.array([one.names[i] for i in numbers]).tolist() == ["birch", "ash", "birch"]
    assert one.boxes.xyxy.cpu().numpy().shape == (3, 4)
    assert one.boxes.conf.cpu().numpy().dtype == np.float32
    assert one.boxes.id is None
    assert not one.masks
    assert one.obb is None


@pytest.mark.tools
def test_the_real_supervision_takes_results() -> None:
    supervision = pytest.importorskip("supervision", reason="needs supervision: pip install supervision")
    detections = supervision.Detections.from_ultralytics(result())
    np.testing.assert_array_equal(detections.xyxy, CORNERS)
    np.testing.assert_array_equal(detections.confidence, SCORES)
    assert detections.class_id.tolist() == [1, 0, 1]
    assert detections["class_name"].tolist() == ["birch", "ash", "birch"]
    assert (detections.tracker_id, detections.mask) == (None, None)
    assert len(supervision.Detections.from_ultralytics(result(0))) == 0
    drawn = supervision.BoxAnnotator().annotate(result().orig_img.copy(), detections)
    assert drawn.shape == (120, 200, 3)
    tracked = Boxes(
        np.concatenate([CORNERS, [[7], [8], [9]], SCORES[:, None], CLASSES[:, None]], 1, dtype=np.float32), (120, 200)
    )
    with_tracks = Result(Path("a.png"), result().image, tracked, SCORES, CLASSES, ["ash", "birch"]).to("cpu")
    assert supervision.Detections.from_ultralytics(with_tracks).tracker_id.tolist() == [7, 8, 9]


THEIRS = """
import json, pathlib, sys, numpy, torch
from ultralytics.engine.results import Results
corners, scores, classes = json.loads(sys.argv[1])
rows = torch.tensor([[*box, score, index] for box, score, index in zip(corners, scores, classes)])
one = Results(numpy.zeros((120, 200, 3), numpy.uint8), path="wood/a.png", names={0: "ash", 1: "birch"}, boxes=rows)
one.save_txt("a.txt", save_conf=True)
fields = {name: getattr(one.boxes, name).tolist() for name in "xyxy xywh xyxyn xywhn conf cls data".split()}
print(json.dumps({
    "fields": fields, "one": one.boxes[1].xywhn.tolist(), "lengths": [len(one), len(one[0]), len(one[1:])],
    "tables": [one.summary(), one.summary(normalize=True), json.loads(one.to_json())], "words": one.verbose(),
    "numbers": [float(value) for value in pathlib.Path("a.txt").read_text().split()], "shape": list(one.orig_shape),
}))
"""


@pytest.mark.tools
def test_fields_and_tables_are_those_of_the_real_ultralytics(tmp_path: Path) -> None:
    """By the interpreter in the folder that YOLOV9K_PEERS names."""
    peers = Path(os.environ.get("YOLOV9K_PEERS", "")) / "bin" / "python"
    if not os.environ.get("YOLOV9K_PEERS") or not peers.exists():
        pytest.skip("needs Ultralytics; set YOLOV9K_PEERS to an environment that has it")
    numbers = json.dumps([CORNERS.tolist(), SCORES.tolist(), CLASSES.tolist()])
    settings = {**os.environ, "YOLO_CONFIG_DIR": str(tmp_path), "PYTHONPATH": ""}
    command = [str(peers), "-W", "ignore", "-c", THEIRS, numbers]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, check=True)
    theirs, ours = json.loads(done.stdout.splitlines()[-1]), result()
    for name, values in theirs["fields"].items():
        np.testing.assert_allclose(getattr(ours.boxes, name), values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(ours.boxes[1].xywhn, theirs["one"], rtol=1e-6)
    assert [len(ours), len(ours[0]), len(ours[1:])] == theirs["lengths"]
    assert [ours.summary(), ours.summary(normalize=True), json.loads(ours.to_json())] == theirs["tables"]
    assert (ours.verbose(), list(ours.orig_shape)) == (theirs["words"], theirs["shape"])
    assert [float(value) for value in ours.to_yolo_text(conf=True).split()] == pytest.approx(theirs["numbers"], abs=1e-6)
