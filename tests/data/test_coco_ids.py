"""Ids of images and categories: compared by one rule, and in results as the file has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_cases import BOX, write_image, write_yolo
from yolov9k.data.config import load_split
from yolov9k.data.ids import id_key
from yolov9k.data.records import Split
from yolov9k.tasks.detect.coco import CocoEvaluator


def coco(root: Path, ids: list[Any], **changes: Any) -> Path:
    """An image for each id with one object; `changes` are of the annotations."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 3, "name": "b"}]}
    for number, key in enumerate(ids):
        write_image(root / "images" / f"{number}.png", 96, 64)
        content["images"].append({"id": key, "file_name": f"{number}.png"})
        entry = {"id": number + 1, "image_id": key, "category_id": 3, "bbox": [10, 20, 40, 40], "area": 1600}
        content["annotations"].append(entry | changes)
    root.mkdir(exist_ok=True)
    (root / "val.json").write_text(json.dumps(content))
    return root / "val.json"


def found(split: Split, folder: Path) -> list[dict[str, Any]]:
    """Saved results where all objects are found."""
    evaluator = CocoEvaluator(split.names, split.category_ids, split.records)
    for record in split.records:
        rows = [[*box, 0.9, label] for box, label in zip(record.pixel_boxes, record.classes, strict=True)]
        evaluator.update(record.image_id, np.array(rows, np.float64).reshape(-1, 6))
    assert evaluator.compute().ap == pytest.approx(1)
    evaluator.save_json(folder / "results.json")
    return list(json.loads((folder / "results.json").read_text()))


@pytest.mark.parametrize(
    "ids", [["img0", "img1"], ["1", "2"], [1.0, 2.0], [7, 3], ["a", 5], [2**70, 1], ["001", "1"], [-1, 0], ["x y", "é"]]
)
def test_results_call_images_as_the_file_does(tmp_path: Path, ids: list[Any]) -> None:
    path = coco(tmp_path, ids)
    split = load_split(path, "val")
    assert split.issues == []
    results = found(split, tmp_path)
    assert [row["image_id"] for row in results] == ids
    assert [type(row["image_id"]) for row in results] == list(map(type, ids))
    for evaluator in (CocoEvaluator.from_json(path), CocoEvaluator(split.names, split.category_ids, split.records)):
        evaluator.add_results(results)
        assert evaluator.compute().ap == pytest.approx(1)
        evaluator.save_json(tmp_path / "again.json")
        again = [row["image_id"] for row in json.loads((tmp_path / "again.json").read_text())]
        assert (again, list(map(type, again))) == (ids, list(map(type, ids)))


@pytest.mark.parametrize(("images", "annotations"), [("1", 1), (1, "1"), (1, 1.0), (1.0, 1), (" 1", 1), ("a", " a ")])
def test_ids_of_one_value_are_one_id(tmp_path: Path, images: Any, annotations: Any) -> None:
    path = coco(tmp_path, [images], image_id=annotations)
    split = load_split(path, "val")
    retyped = isinstance(images, str) != isinstance(annotations, str)
    assert ["1 annotations write image_id as text" in str(issue) for issue in split.issues] == [True] * retyped
    assert split.records[0].objects == 1
    evaluator = CocoEvaluator.from_json(path)
    evaluator.add_results(found(split, tmp_path))
    assert evaluator.compute().ap == pytest.approx(1)


@pytest.mark.parametrize(("image", "other"), [("01", 1), ("1.5", 1), (True, 1), ("", 1), (None, 1)])
def test_ids_of_other_values_are_others(tmp_path: Path, image: Any, other: Any) -> None:
    split = load_split(coco(tmp_path, [other, 2], image_id=image), "val")
    assert [record.objects for record in split.records] == [0, 0]
    assert [issue.kind for issue in split.issues] == ["labels without an image"] * 2


def test_ids_that_differ_in_their_spelling_alone_stand_twice(tmp_path: Path) -> None:
    split = load_split(coco(tmp_path, [1, "1"]), "val")
    assert "stands twice" in split.fatal_issues[0].message
    assert len(split.records) == 1


@pytest.mark.parametrize("category", [3, 3.0, "3", " 3 "])
def test_category_ids_go_by_the_same_rule(tmp_path: Path, category: Any) -> None:
    path = coco(tmp_path, [1], category_id=category)
    split = load_split(path, "val")
    assert (split.issues, split.records[0].classes.tolist(), split.category_ids) == ([], [1], [1, 3])
    evaluator = CocoEvaluator.from_json(path)
    evaluator.add_results(found(split, tmp_path) and [{**row, "category_id": category} for row in found(split, tmp_path)])
    assert evaluator.compute().ap == pytest.approx(1)


def test_categories_are_called_as_the_file_calls_them(tmp_path: Path) -> None:
    path = coco(tmp_path, [1], category_id="cell")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"categories": [{"id": "cell", "name": "x"}, {"id": "10", "name": "y"}]}))
    split = load_split(path, "val")
    assert (split.names, split.category_ids) == (["y", "x"], ["10", "cell"])
    results = found(split, tmp_path)
    assert [row["category_id"] for row in results] == ["cell"]
    evaluator = CocoEvaluator.from_json(path)
    evaluator.add_results(results)
    assert evaluator.compute().ap == pytest.approx(1)
    evaluator.add_results([{**results[0], "category_id": called} for called in (10, " 10")])
    evaluator.save_json(tmp_path / "results.json")
    assert [row["category_id"] for row in json.loads((tmp_path / "results.json").read_text())] == ["cell", "10", "10"]


@given(st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.none(), st.booleans(), st.lists(st.integers())))
def test_a_key_is_its_own_key(value: object) -> None:
    key = id_key(value)
    assert key is None or (id_key(key) == key and isinstance(key, (int, str)))
    if isinstance(value, int) and not isinstance(value, bool):
        assert key == value == id_key(str(value) if abs(value) < 10**18 else value)


def test_images_of_one_stem_are_told_apart_in_results(tmp_path: Path) -> None:
    """In subfolders, of another suffix, and 1 beside 001, which are one number."""
    path = write_yolo(tmp_path, {"x/a": None, "y/a": None, "1": None, "001": None, "7": None})
    write_image(tmp_path / "images" / "7.png")
    write_image(tmp_path / "images" / "8.png")
    for image in (tmp_path / "images").rglob("*.*"):
        label = tmp_path / "labels" / image.relative_to(tmp_path / "images").with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(BOX)
    split = load_split(path, "val")
    called = {record.path.relative_to(tmp_path / "images").as_posix(): record.result_id for record in split.records}
    expected = {n: n for n in ("001.jpg", "1.jpg", "7.jpg", "7.png", "x/a.jpg", "y/a.jpg")}
    assert called == expected | {"8.png": 8}
    assert ["6 images share their name or id with another" in str(issue) for issue in split.issues].count(True) == 1
    assert len({row["image_id"] for row in found(split, tmp_path)}) == 7


def test_images_of_several_files_under_one_id_are_told_apart(tmp_path: Path) -> None:
    for part in ("p", "q"):
        coco(tmp_path / part, [1, 2])
    (tmp_path / "data.yaml").write_text("val: [p/val.json, q/val.json]")
    split = load_split(tmp_path / "data.yaml", "val")
    assert [record.result_id for record in split.records] == ["p/images/0", "p/images/1", "q/images/0", "q/images/1"]
    assert "4 images share their name or id" in str(split.issues)


@pytest.mark.parametrize(("box", "told"), [([0.1, 0.3, 0.5, 0.6], True), ([0, 0, 1, 1], True), ([0.1, 0.3, 0.5, 40], False)])
def test_boxes_that_look_like_fractions_are_told_once(tmp_path: Path, box: list[float], told: bool) -> None:
    split = load_split(coco(tmp_path, [1, 2, 3], bbox=box, area=None), "val")
    told_of = [str(issue) for issue in split.issues if "all 3 boxes lie within 0..1, as fractions do" in str(issue)]
    assert len(told_of) == told
    assert split.fatal_issues == []


def test_boxes_of_a_voc_folder_that_look_like_fractions_are_told(tmp_path: Path) -> None:
    write_image(tmp_path / "JPEGImages" / "a.jpg", 100, 50)
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>0.1</xmin><ymin>0.1</ymin><xmax>0.5</xmax><ymax>0.9</ymax></bndbox>"
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation><object><name>x</name>{box}</object></annotation>")
    assert "all 1 boxes lie within 0..1" in str(load_split(tmp_path, "train").issues)
