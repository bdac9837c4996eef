"""labelme: which shapes are read and how, where images are looked for, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_cases import only_issue, write_image
from tests.format_cases import labelme_json, put
from yolov9k.data.config import find_splits, load_split, read_split

TRIANGLE = [[10, 10], [30, 10], [30, 40]]


def shape(points: Any = TRIANGLE, kind: Any = "polygon", label: Any = "dog", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, **more}


def labelme(root: Path, *shapes: Any, **changes: Any) -> Path:
    """A folder of one image with these shapes."""
    write_image(root / "a.png", 100, 50)
    put(root / "a.json", labelme_json("a", [], shapes=list(shapes), **changes))
    return root


def test_polygons_keep_their_outline_and_rectangles_take_any_two_corners(tmp_path: Path) -> None:
    split = load_split(labelme(tmp_path, shape(), shape([[90, 45], [50, 5]], "rectangle")), "train")
    assert split.issues == []
    record = split.records[0]
    np.testing.assert_allclose(record.boxes, [[0.1, 0.2, 0.3, 0.8], [0.5, 0.1, 0.9, 0.9]], atol=1e-6)
    polygon, none = record.polygons
    assert none is None
    np.testing.assert_allclose(polygon, np.array(TRIANGLE) / [100, 50], atol=1e-6)  # type: ignore[arg-type]


def test_a_circle_is_a_center_and_a_point_on_it(tmp_path: Path) -> None:
    split = load_split(labelme(tmp_path, shape([[50, 25], [53, 29]], "circle")), "train")
    np.testing.assert_allclose(split.records[0].boxes, [[0.45, 0.4, 0.55, 0.6]], atol=1e-6)
    assert (split.issues, split.records[0].polygons[0]) == ([], None)


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    right = [[60, 10], [80, 10], [80, 40]]
    parts = [shape(group_id=1), shape(right, group_id=1), shape(right, group_id=2), shape(right, group_id=1, label="cat")]
    record = load_split(labelme(tmp_path, *parts), "train").records[0]
    np.testing.assert_allclose(record.boxes[0], [0.1, 0.2, 0.8, 0.8], atol=1e-6)
    assert record.classes.tolist() == [1, 1, 0]
    assert len(record.polygons[0]) > 6  # type: ignore[arg-type]


def test_a_shape_that_is_marked_difficult_is_as_in_voc(tmp_path: Path) -> None:
    root = labelme(tmp_path, shape(difficult=True))
    assert load_split(root, "train").records[0].objects == 0
    assert load_split(root, "train", difficult=True).records[0].objects == 1


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (
            shape([[5, 5], [9, 9]], "line"),
            "shape 2: dog is a 'line', which is not read; draw it as a rectangle or a polygon",
        ),
        (shape([[5, 5]], "point"), "dog is a 'point'"),
        (shape(TRIANGLE, "circle"), "circle of dog has points"),
        (shape([[5, 5], [5, 5]], "circle"), "shape 2: circle of dog has no area"),
        (shape(TRIANGLE[:2]), "polygon of dog has points [[10, 10], [30, 10]]; it needs pairs of numbers"),
        (shape([[5, 5]], "rectangle"), "rectangle of dog has points [[5, 5]]"),
        (shape([[5, 5], [9]], "rectangle"), "it needs pairs of numbers"),
        (shape([[5, 5], [9, "9"]], "rectangle"), "it needs pairs of numbers"),
        (shape([[5, 5], [9, float("nan")]], "rectangle"), "it needs pairs of numbers"),
        (shape({"x": 1}, "rectangle"), "it needs pairs of numbers"),
        (shape([[5, 5], [5, 9]], "rectangle"), "shape 2: rectangle of dog has no area"),
        (shape(label=None), "shape 2: has no label; name its class"),
        ([1], "shape 2: has no label"),
    ],
)
def test_a_shape_that_cannot_be_read_is_told_by_its_number(faulty: Any, words: str, tmp_path: Path) -> None:
    split = load_split(labelme(tmp_path, shape(), faulty), "train")
    issue = only_issue(split)
    assert (issue.path, issue.fatal) == (tmp_path / "a.json", True)
    assert words in issue.message
    assert split.records[0].objects == 1


@pytest.mark.parametrize("stated", ["a.png", "..\\pictures\\a.png", "C:\\work\\a.png", "gone.png", None])
def test_images_are_found_where_they_are_stated_or_beside_the_file(stated: str | None, tmp_path: Path) -> None:
    assert load_split(labelme(tmp_path, shape(), imagePath=stated), "train").records[0].path == tmp_path / "a.png"


def test_files_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    image = write_image(tmp_path / "pictures" / "a.png", 100, 50)
    put(tmp_path / "json" / "a.json", labelme_json("a", [], shapes=[shape()], imagePath="..\\pictures\\a.png"))
    assert load_split(tmp_path / "json", "train").records[0].path == image
    assert load_split(tmp_path / "json" / "a.json", "train").records[0].path == image  # a single file too


def test_what_is_missing_or_broken_costs_no_other(tmp_path: Path) -> None:
    labelme(tmp_path, shape())
    for stem in ("b", "c", "d", "e"):
        write_image(tmp_path / f"{stem}.png", 100, 50)
    put(tmp_path / "b.json", '{"version": "5",\n"shapes": [,')
    put(tmp_path / "c.json", '{"imagePath": "c.png", "shapes": 1}')
    put(tmp_path / "e.json", labelme_json("e", [], imageHeight=60))
    put(tmp_path / "gone.json", labelme_json("gone", []))
    put(tmp_path / "settings.json", '{"window": [1, 2]}')  # another tool's
    split = load_split(tmp_path, "train")
    told = {issue.path.name: (issue.line, issue.fatal, issue.message) for issue in split.issues}
    assert told["b.json"][:2] == (2, True)
    assert "not valid JSON" in told["b.json"][2]
    assert "has no list 'shapes'" in told["c.json"][2]
    assert "it is used as background" in told["d.png"][2]
    assert "states 100 x 60 pixels for e.png" in told["e.json"][2]
    assert told["gone.json"][2].startswith("image not found")
    assert len(told) == 5
    assert [record.path.stem for record in split.records] == ["a", "e", "d"]


def test_embedded_images_are_not_held_in_memory(tmp_path: Path) -> None:
    from yolov9k.data.formats.labelme import _parse_all

    labelme(tmp_path, shape(), imageData="A" * 100_000)
    (document,) = _parse_all(tmp_path).values()
    assert "imageData" not in document  # type: ignore[operator]


def test_a_coco_file_is_none_of_labelmes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": [{"id": 1, "name": "shapes"}]}
    put(tmp_path / "train.json", json.dumps(content))
    assert find_splits(tmp_path) == ["train"]
    assert read_split(tmp_path, "train").names == ["shapes"]
