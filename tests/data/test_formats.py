"""YOLO, COCO and VOC annotations: what is read, and what is said about each thing that can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import shared
from tests.tolerances import OUTLINE_TO_BOX
from yolov9k.common.errors import UserError
from yolov9k.data import probe
from yolov9k.data.config import load_split
from yolov9k.data.formats.base import _LEAST_SIDE, check_box
from yolov9k.data.formats.coco import join_parts, read_coco
from yolov9k.data.formats.voc import read_voc
from yolov9k.data.formats.yolo import RowError, category_ids, label_path, parse_row
from yolov9k.data.records import Fault, Split

BOX = "0 0.5 0.5 0.2 0.4"


def write_image(path: Path, width: int = 40, height: int = 20, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def yolo(root: Path, labels: dict[str, str | None], names: str = "[cell, dust]") -> Path:
    """A YOLO dataset of one part with an image for each label text; None leaves the label file out."""
    for stem, text in labels.items():
        write_image(root / "images" / f"{stem}.jpg")
        if text is not None:
            (root / "labels").mkdir(exist_ok=True)
            (root / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames: {names}\n")
    return root / "data.yaml"


def only_fault(split: Split) -> Fault:
    assert len(split.faults) == 1, [str(fault) for fault in split.faults]
    return split.faults[0]


# YOLO


def test_yolo_box_and_polygon(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path, {"a": f"{BOX}\n\n1.0 0.1 0.2 0.5 0.2 0.5 0.8\n"}), "train")
    record = split.records[0]
    assert split.faults == []
    assert split.names == ["cell", "dust"]
    assert (record.height, record.width, record.image_id) == (20, 40, 1)
    assert record.result_id == record.path.stem
    assert record.classes.tolist() == [0, 1]
    assert record.classes.dtype == np.int64
    assert record.boxes.dtype == np.float32
    np.testing.assert_array_equal(record.boxes, np.array([[0.4, 0.3, 0.6, 0.7], [0.1, 0.2, 0.5, 0.8]], np.float32))
    assert record.polygons[0] is None
    polygon = record.polygons[1]
    assert polygon is not None
    np.testing.assert_array_equal(polygon, np.array([[0.1, 0.2], [0.5, 0.2], [0.5, 0.8]], np.float32))
    assert record.areas.round().tolist() == [64, 192]
    assert not record.crowd.any()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("2 0.5 0.5 0.2 0.2", ["class 2", "0..1", "names"]),
        ("-1 0.5 0.5 0.2 0.2", ["class -1"]),
        ("0.5 0.5 0.5 0.2 0.2", ["class 0.5"]),
        ("0 1.5 0.5 0.2 0.2", ["1.5", "outside 0..1", "divide"]),
        ("0 -0.2 0.5 0.2 0.2", ["-0.2", "outside 0..1"]),
        ("0 0.5 0.5 0.2 -0.2", ["-0.2", "outside 0..1"]),
        ("0 nan 0.5 0.2 0.2", ["nan", "finite"]),
        ("inf 0.5 0.5 0.2 0.2", ["inf", "finite"]),
        ("0 0.5 0.5 0 0.2", ["no area"]),
        ("0 0.1 0.1 0.1 0.5 0.1 0.9", ["no area"]),
        ("0 0.5 0.5 0.2", ["4 columns", "5", "7"]),
        ("0 0.5 0.5 0.2 0.2 0.9", ["6 columns"]),
        ("0 0.5 0.5 0.2 0.2 0.9 0.9 0.9", ["8 columns"]),
        ("0 0.5 x 0.2 0.2", ["'x'", "not a number"]),
        ("0,0.5,0.5,0.2,0.2", ["not a number", "spaces"]),
    ],
)
def test_yolo_bad_row_is_told_with_its_line_and_costs_no_other(tmp_path: Path, row: str, words: list[str]) -> None:
    split = load_split(yolo(tmp_path, {"a": f"{BOX}\n{row}\n1 0.5 0.5 0.1 0.1\n"}), "train")
    fault = only_fault(split)
    assert fault.fatal
    assert str(fault).startswith(f"{tmp_path / 'labels' / 'a.txt'}:2: ")
    assert "\n" not in str(fault)
    assert repr(row) in fault.message
    assert [word for word in words if word not in fault.message] == []
    assert split.records[0].classes.tolist() == [0, 1]


def test_yolo_duplicate_rows_are_dropped_and_told(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path, {"a": f"{BOX}\n1{BOX[1:]}\n{BOX}\n"}), "train")
    fault = only_fault(split)
    assert (fault.line, fault.fatal) == (3, True)
    assert "duplicate" in fault.message
    assert split.records[0].classes.tolist() == [0, 1]


def test_yolo_rounding_is_clipped_in_silence_and_more_with_a_notice(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path, {"a": "0 0.5 0.5 1.0009 1\n", "b": "0 0.05 0.5 0.2 0.2\n"}), "train")
    fault = only_fault(split)
    assert (fault.path.name, fault.line, fault.fatal) == ("b.txt", 1, False)
    assert "clipped" in fault.message
    assert split.records[0].boxes.tolist() == [[0, 0, 1, 1]]
    assert split.records[1].boxes[0, 0] == 0


def test_yolo_image_without_label_is_background(tmp_path: Path) -> None:
    split = load_split(yolo(tmp_path, {"a": BOX, "b": None, "c": ""}), "train")
    fault = only_fault(split)  # an empty label file says that there is nothing, and is no fault
    assert (fault.path.name, fault.fatal) == ("b.jpg", False)
    assert "background" in fault.message
    assert [len(record.classes) for record in split.records] == [1, 0, 0]
    assert split.records[1].boxes.shape == (0, 4)


def test_yolo_label_without_image_is_told_and_lists_of_names_are_not_labels(tmp_path: Path) -> None:
    path = yolo(tmp_path, {"a": BOX})
    (tmp_path / "labels" / "lost.txt").write_text(BOX)
    (tmp_path / "labels" / "classes.txt").write_text("cell\ndust\n")
    fault = only_fault(load_split(path, "train"))
    assert (fault.path.name, fault.fatal) == ("lost.txt", False)
    assert "without an image" in fault.message


def test_yolo_label_beside_the_image(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.png")
    (tmp_path / "train" / "a.txt").write_text(BOX)
    (tmp_path / "data.yaml").write_text("train: train\nnames: [cell]")
    assert load_split(tmp_path, "train").records[0].classes.tolist() == [0]


def test_label_path_replaces_the_last_images_folder() -> None:
    assert label_path(Path("/images/x/images/train/a.b.jpg")) == Path("/images/x/labels/train/a.b.txt")
    assert label_path(Path("/data/images.jpg")) == Path("/data/images.txt")


@given(st.text(alphabet="0123456789.-+einfa ,\t", max_size=40))
def test_yolo_row_is_an_annotation_or_a_row_error(row: str) -> None:
    try:
        annotation = parse_row(row, 3)
    except RowError:
        return
    assert 0 <= annotation.label < 3
    assert all(np.isfinite(annotation.box))


@given(st.tuples(*[st.floats(-50, 150)] * 4), st.sampled_from([(1, 1), (100, 60)]))
def test_checked_box_lies_in_the_image(box: tuple[float, float, float, float], unit: tuple[int, int]) -> None:
    (x1, y1, x2, y2), problem, fatal = check_box(box, unit)
    if not fatal:
        assert 0 <= np.float32(x1) < np.float32(x2) <= 1
        assert 0 <= np.float32(y1) < np.float32(y2) <= 1
    else:
        assert problem
        clipped = np.clip(np.array(box).reshape(2, 2) / unit, 0, 1)
        assert (clipped[1] - clipped[0]).min() <= _LEAST_SIDE  # only what has no area inside the image is ruled out


# images


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_truncated_image_is_left_out_and_told(tmp_path: Path, suffix: str) -> None:
    path = yolo(tmp_path, {"a": BOX})
    broken = write_image(tmp_path / "images" / f"b.{suffix}", 64, 64)
    (tmp_path / "labels" / "b.txt").write_text(BOX)
    broken.write_bytes(broken.read_bytes()[:-20])
    split = load_split(path, "train")
    fault = only_fault(split)
    assert (fault.path, fault.fatal) == (broken, True)
    assert "truncated" in fault.message or "cannot be read" in fault.message or "not a readable" in fault.message
    assert [record.path.stem for record in split.records] == ["a"]


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"<html>404</html>", "not a readable image")])
def test_file_that_is_no_image(tmp_path: Path, content: bytes, words: str) -> None:
    path = yolo(tmp_path, {"a": BOX, "b": BOX})
    (tmp_path / "images" / "b.jpg").write_bytes(content)
    assert words in only_fault(load_split(path, "train")).message


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_bytes_behind_the_end_marker_do_no_harm(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"a.{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 100)
    assert probe.probe_image(path) == (20, 40, None)
    path.write_bytes(whole + b"appended by a camera" * 9)
    assert probe.probe_image(path) == (20, 40, None)


def test_jpeg_lacking_only_its_end_marker(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-2])
    assert "end marker" in (probe.probe_image(path).fault or "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_size_is_that_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write_image(tmp_path / f"a.{suffix}", exif=exif)
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert probe.probe_image(path) == (*decoded.shape[:2], None)


def test_probe_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_CACHE_FROM", 1)
    path = write_image(tmp_path / "a.png")
    cache = tmp_path / "cache" / "yolov9k" / "images.json"
    assert probe.probe_images([path]) == [(20, 40, None)]
    stored = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({key: [7, 9] for key in stored}))
    assert probe.probe_images([path]) == [(7, 9, None)]  # remembered
    os.utime(path, (1, 1))
    assert probe.probe_images([path]) == [(20, 40, None)]  # changed since
    cache.write_text("{ not json")
    assert probe.probe_images([path, tmp_path / "gone.png"])[0] == (20, 40, None)
    assert len(json.loads(cache.read_bytes())) == 1  # the absent image is not remembered
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file where the folder should be
    assert probe.probe_images([path]) == [(20, 40, None)]


# COCO


def coco(root: Path, annotations: list[dict[str, Any]], name: str = "instances_val2017.json", **changes: Any) -> Path:
    write_image(root / "images" / "sub" / "a.jpg", 100, 50)
    data: dict[str, Any] = {
        "images": [{"id": 42, "file_name": "sub/a.jpg", "height": 50, "width": 100}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": annotations,
    }
    path = root / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data | changes))
    return path


def annotation(**changes: Any) -> dict[str, Any]:
    return {"id": 7, "image_id": 42, "category_id": 18, "bbox": [10, 10, 20, 30]} | changes


def test_coco_categories_polygons_and_crowds(tmp_path: Path) -> None:
    triangle = [10, 10, 30, 10, 30, 40]
    split = load_split(
        coco(
            tmp_path,
            [
                annotation(segmentation=[triangle], area=300.5),
                annotation(id=8, category_id=3, iscrowd=1, segmentation={"counts": [3, 4], "size": [50, 100]}),
            ],
        ),
        "val",
    )
    record = split.records[0]
    assert split.faults == []
    assert (split.names, split.category_ids) == (["car", "dog"], [3, 18])
    assert (record.image_id, record.height, record.width) == (42, 50, 100)
    assert record.classes.tolist() == [1, 0]
    np.testing.assert_array_equal(record.boxes[0], np.array([0.1, 0.2, 0.3, 0.8], np.float32))
    assert record.crowd.tolist() == [False, True]
    assert record.areas.tolist() == [300.5, 600]
    polygon = record.polygons[0]
    assert polygon is not None
    np.testing.assert_array_equal(polygon, np.array([[0.1, 0.2], [0.3, 0.2], [0.3, 0.8]], np.float32))
    assert record.polygons[1] is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (annotation(bbox=[1, 2, 3]), "bbox [1, 2, 3]"),
        (annotation(bbox=[1, 2, 3, float("nan")]), "finite"),
        (annotation(bbox=[1, 2, 3, "4"]), "bbox"),
        (annotation(bbox=[10, 10, 0, 30]), "no area"),
        (annotation(bbox=[110, 10, 20, 30]), "lies outside the image"),
        (annotation(category_id=5), "category_id 5"),
        ({"id": 7, "image_id": 42, "category_id": 3}, "bbox None"),
    ],
)
def test_coco_bad_annotation_is_told_with_its_id(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    path = coco(tmp_path, [annotation(id=6), entry])
    split = load_split(path, "val")
    fault = only_fault(split)
    assert (fault.path, fault.fatal) == (path, True)
    assert "annotation 7" in fault.message
    assert words in fault.message
    assert len(split.records[0].classes) == 1


def test_coco_notices(tmp_path: Path) -> None:
    path = coco(tmp_path, [annotation(bbox=[90, 10, 20, 30]), annotation(id=9, image_id=1)])
    split = load_split(path, "val")
    assert sorted((fault.fatal, fault.message[:12]) for fault in split.faults) == [
        (False, "annotation 7"),  # clipped
        (False, "annotation 9"),  # of no image
    ]
    assert split.records[0].boxes[0, 2] == 1


def test_coco_image_that_is_missing_or_of_another_size(tmp_path: Path) -> None:
    images = [
        {"id": 42, "file_name": "sub/a.jpg", "height": 100, "width": 50},
        {"id": 43, "file_name": "gone.jpg"},
        {"id": 42, "file_name": "again.jpg"},
        {"id": 44},
    ]
    split = load_split(coco(tmp_path, [annotation()], images=images), "val")
    assert [fault.fatal for fault in split.faults] == [True, True, False, True]
    for fault, words in zip(split.faults, ["stands twice", "lacks its id", "50 x 100 pixels", "gone.jpg"], strict=True):
        assert words in fault.message
    assert len(split.records) == 1


@pytest.mark.parametrize(
    ("json_at", "image_at"),
    [
        ("instances.json", "a.jpg"),
        ("instances.json", "images/a.jpg"),
        ("annotations/instances_val2017.json", "val2017/a.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/a.jpg"),
        ("annotations/instances_val.json", "images/val2017/a.jpg"),
        ("annotations/val.json", "images/val/a.jpg"),
        ("valid/_annotations.coco.json", "valid/a.jpg"),
    ],
)
def test_coco_layouts(tmp_path: Path, json_at: str, image_at: str) -> None:
    write_image(tmp_path / "root" / image_at)
    decoy = write_image(tmp_path / "root" / "train" / "a.jpg")
    path = tmp_path / "root" / json_at
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "x"}]}))
    found = read_coco(path).samples[0].path
    assert found == tmp_path / "root" / image_at
    assert found != decoy


def test_coco_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{\n"images": [,\n')
    with pytest.raises(UserError, match=r"x\.json:2: not valid JSON"):
        load_split(path, "val")
    path.write_text('{"info": 1}')
    with pytest.raises(UserError, match="no COCO detection file"):
        load_split(path, "val")


def test_coco_parts_are_joined_at_the_nearest_corners() -> None:
    left = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    right = left + np.array([3, 0], np.float32)
    outline = join_parts([left, right])
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == 2  # the bridge adds nothing
    assert {tuple(corner) for corner in outline.tolist()} == {tuple(c) for c in [*left.tolist(), *right.tolist()]}


def test_coco_demo() -> None:
    split = load_split(shared("data/coco-demo"), "val")
    assert split.faults == []
    assert len(split.records) == 27
    assert sum(len(record.classes) for record in split.records) == 149
    assert sum(record.crowd.sum() for record in split.records) == 1
    assert (len(split.names), split.category_ids[-1]) == (80, 90)
    for record in split.records:
        image = cv2.imread(str(record.path))
        assert image is not None
        assert image.shape[:2] == (record.height, record.width)
        for box, polygon in zip(record.boxes, record.polygons, strict=True):
            if polygon is not None:
                assert np.abs(np.concatenate([polygon.min(0), polygon.max(0)]) - box).max() < OUTLINE_TO_BOX


# VOC

OBJECT = "<object>\n<name>{}</name>\n<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>\n"


def voc(root: Path, objects: dict[str, str | None], lists: dict[str, str] | None = None) -> Path:
    for stem, body in objects.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg", 100, 50)
        (root / "Annotations").mkdir(exist_ok=True)
        if body is not None:
            text = f"<annotation>\n<size><width>100</width><height>50</height></size>\n{body}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text)
    for part, text in (lists or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text(text)
    return root


def test_voc_boxes_stand_as_they_are_and_names_span_all_parts(tmp_path: Path) -> None:
    objects: dict[str, str | None] = {
        "a": OBJECT.format("dog", 10, 10, 30, 40) + OBJECT.format("cat", 1, 1, 100, 50),
        "b": OBJECT.format("bird", 5, 5, 10, 10),
    }
    root = voc(tmp_path, objects, {"train": "a\n", "val": "b  1\n", "bird_val": "b 1\n"})
    train, val = load_split(root, "train"), load_split(root, "val")
    assert train.names == val.names == ["bird", "cat", "dog"]
    assert train.faults == val.faults == []
    assert [record.path.stem for record in train.records] == ["a"]
    assert [record.path.stem for record in val.records] == ["b"]
    assert train.records[0].classes.tolist() == [2, 1]
    expected = np.array([[0.1, 0.2, 0.3, 0.8], [0.01, 0.02, 1, 1]], np.float32)
    np.testing.assert_array_equal(train.records[0].boxes, expected)
    assert train.records[0].pixel_boxes[0].round(2).tolist() == [10, 10, 30, 40]


@pytest.mark.parametrize(
    ("body", "words", "fatal"),
    [
        (OBJECT.format("dog", 10, 10, 10, 40), "dog box 10 10 10 40 has no area", True),
        (OBJECT.format("dog", 40, 10, 10, 40), "has no area", True),
        (OBJECT.format("dog", "nan", 10, 10, 40), "not a finite number", True),
        (OBJECT.format("dog", "", 10, 10, 40), "? 10 10 40", True),
        (OBJECT.format("dog", 90, 10, 120, 40), "clipped", False),
        (OBJECT.format("dog", 1, 1, 9, 9), "duplicate", True),
    ],
)
def test_voc_bad_object_is_told_with_its_line(tmp_path: Path, body: str, words: str, fatal: bool) -> None:
    fault = only_fault(load_split(voc(tmp_path, {"a": OBJECT.format("dog", 1, 1, 9, 9) + body}), "train"))
    assert str(fault).startswith(f"{tmp_path / 'Annotations' / 'a.xml'}:6: ")
    assert words in fault.message
    assert fault.fatal == fatal


def test_voc_class_outside_given_names(tmp_path: Path) -> None:
    voc(tmp_path / "voc", {"a": OBJECT.format("dog", 1, 1, 9, 9) + OBJECT.format("cow", 1, 1, 9, 9)})
    (tmp_path / "data.yaml").write_text("train: voc\nnames: [cat, dog]")
    split = load_split(tmp_path / "data.yaml", "train")
    assert "'cow' is not in names (cat, dog)" in only_fault(split).message
    assert split.records[0].classes.tolist() == [1]


def test_voc_broken_xml_missing_image_and_label(tmp_path: Path) -> None:
    objects: dict[str, str | None] = {"a": "<object>\n</wrong>", "b": None, "c": OBJECT.format("dog", 1, 1, 9, 9)}
    root = voc(tmp_path, objects, {"train": "a\nb\nc\ngone\n"})
    (root / "Annotations" / "lost.xml").write_text("<annotation/>")
    split = load_split(root, "train")
    told = {str(fault).removeprefix(f"{root}{os.sep}").replace(os.sep, "/"): fault.fatal for fault in split.faults}
    starts = [
        ("Annotations/a.xml:4: not valid XML", True),
        ("JPEGImages/b.jpg: image without a label", False),
        ("ImageSets/Main/train.txt:4: image not found", True),
        ("Annotations/lost.xml: label without an image", False),
    ]
    assert len(told) == len(starts)
    for start, fatal in starts:
        assert [fatal] == [value for text, value in told.items() if text.startswith(start)], (start, told)
    assert [record.path.stem for record in split.records] == ["b", "c"]


def test_bccd() -> None:
    root = shared("data/bccd")
    splits = [load_split(root, name) for name in ("train", "val", "test")]
    assert [len(split.records) for split in splits] == [205, 87, 72]
    assert all(split.names == ["Platelets", "RBC", "WBC"] for split in splits)
    faults = [fault for split in splits for fault in split.faults]
    assert sorted(fault.path.stem for fault in faults) == ["BloodImage_00338", "BloodImage_00343"]
    assert all(fault.fatal and fault.line and "no area" in fault.message for fault in faults)
    assert sum(len(record.classes) for split in splits for record in split.records) + len(faults) == 4888
    assert len(read_voc(root, "trainval").samples) == 292


def test_cocos_classes_keep_cocos_ids() -> None:
    """What is not known of the other 78 names does not matter: these two are at both ends of COCO's list alone."""
    names = ["person", *map(str, range(78)), "toothbrush"]
    ids = category_ids(names)
    assert (len(ids), ids[0], ids[11], ids[-1]) == (80, 1, 13, 90)
    assert category_ids(names[:-1]) == list(range(79))
    assert category_ids(list("ab")) == [0, 1]
