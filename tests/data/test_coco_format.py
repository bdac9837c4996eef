"""COCO JSON: what is read, and what is said about each thing that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.data_cases import only_issue, write_image
from tests.support import shared
from tests.tolerances import OUTLINE_TO_BOX
from yolov9k.common.errors import UserError
from yolov9k.data.config import load_split
from yolov9k.data.formats.coco import read_coco
from yolov9k.data.formats.outlines import join_outlines


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
    assert split.issues == []
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
    issue = only_issue(split)
    assert (issue.path, issue.fatal) == (path, True)
    assert "annotation 7" in issue.message
    assert words in issue.message
    assert len(split.records[0].classes) == 1


def test_coco_notices(tmp_path: Path) -> None:
    path = coco(tmp_path, [annotation(bbox=[90, 10, 20, 30]), annotation(id=9, image_id=1)])
    split = load_split(path, "val")
    assert sorted((issue.fatal, issue.message[:12]) for issue in split.issues) == [
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
    assert [issue.fatal for issue in split.issues] == [True, True, False, True]
    for issue, words in zip(split.issues, ["stands twice", "lacks its id", "50 x 100 pixels", "gone.jpg"], strict=True):
        assert words in issue.message
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
    found = read_coco(path).images[0].path
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


def test_coco_outlines_are_joined_at_the_nearest_corners() -> None:
    left = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    right = left + np.array([3, 0], np.float32)
    outline = join_outlines([left, right])
    x, y = outline.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == 2  # the bridge adds nothing
    assert {tuple(corner) for corner in outline.tolist()} == {tuple(c) for c in [*left.tolist(), *right.tolist()]}


def test_coco_demo() -> None:
    split = load_split(shared("data/coco-demo"), "val")
    assert split.issues == []
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
