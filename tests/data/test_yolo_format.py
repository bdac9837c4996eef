"""YOLO labels: what is read, and what is said about each thing that can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_cases import BOX, only_issue, write_image, write_yolo
from yolov9k.data.config import load_split
from yolov9k.data.formats.yolo import RowError, category_ids, label_path, parse_row


def test_yolo_box_and_polygon(tmp_path: Path) -> None:
    split = load_split(write_yolo(tmp_path, {"a": f"{BOX}\n\n1.0 0.1 0.2 0.5 0.2 0.5 0.8\n"}), "train")
    record = split.records[0]
    assert split.issues == []
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
    split = load_split(write_yolo(tmp_path, {"a": f"{BOX}\n{row}\n1 0.5 0.5 0.1 0.1\n"}), "train")
    issue = only_issue(split)
    assert issue.fatal
    assert str(issue).startswith(f"{tmp_path / 'labels' / 'a.txt'}:2: ")
    assert "\n" not in str(issue)
    assert repr(row) in issue.message
    assert [word for word in words if word not in issue.message] == []
    assert split.records[0].classes.tolist() == [0, 1]


def test_yolo_duplicate_rows_are_dropped_and_told(tmp_path: Path) -> None:
    split = load_split(write_yolo(tmp_path, {"a": f"{BOX}\n1{BOX[1:]}\n{BOX}\n"}), "train")
    issue = only_issue(split)
    assert (issue.line, issue.fatal) == (3, True)
    assert "duplicate" in issue.message
    assert split.records[0].classes.tolist() == [0, 1]


def test_yolo_rounding_is_clipped_in_silence_and_more_with_a_notice(tmp_path: Path) -> None:
    split = load_split(write_yolo(tmp_path, {"a": "0 0.5 0.5 1.0009 1\n", "b": "0 0.05 0.5 0.2 0.2\n"}), "train")
    issue = only_issue(split)
    assert (issue.path.name, issue.line, issue.fatal) == ("b.txt", 1, False)
    assert "clipped" in issue.message
    assert split.records[0].boxes.tolist() == [[0, 0, 1, 1]]
    assert split.records[1].boxes[0, 0] == 0


def test_yolo_image_without_label_is_background(tmp_path: Path) -> None:
    split = load_split(write_yolo(tmp_path, {"a": BOX, "b": None, "c": ""}), "train")
    issue = only_issue(split)  # an empty label file says that there is nothing, and is no issue
    assert (issue.path.name, issue.fatal) == ("b.jpg", False)
    assert "background" in issue.message
    assert [len(record.classes) for record in split.records] == [1, 0, 0]
    assert split.records[1].boxes.shape == (0, 4)


def test_yolo_label_without_image_is_told_and_lists_of_names_are_not_labels(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": BOX})
    (tmp_path / "labels" / "lost.txt").write_text(BOX)
    (tmp_path / "labels" / "classes.txt").write_text("cell\ndust\n")
    issue = only_issue(load_split(path, "train"))
    assert (issue.path.name, issue.fatal) == ("lost.txt", False)
    assert "without an image" in issue.message


def test_labels_of_listed_images_are_theirs_whatever_their_suffix(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    (tmp_path / "images" / "b.jpg").rename(tmp_path / "images" / "b.HEIC")
    (tmp_path / "list.txt").write_text("images/a.jpg\nimages/b.HEIC\n")
    path.write_text("train: list.txt\nval: list.txt\nnames: [x]\n")
    split = load_split(path, "train")
    assert [record.objects for record in split.records] == [1, 1]
    assert split.issues == []


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


def test_cocos_classes_keep_cocos_ids() -> None:
    """What is not known of the other 78 names does not matter: these two are at both ends of COCO's list alone."""
    names = ["person", *map(str, range(78)), "toothbrush"]
    ids = category_ids(names)
    assert (len(ids), ids[0], ids[11], ids[-1]) == (80, 1, 13, 90)
    assert category_ids(names[:-1]) == list(range(79))
    assert category_ids(list("ab")) == [0, 1]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_yolo_files_of_any_encoding_and_line_ends(tmp_path: Path, encoding: str) -> None:
    path = write_yolo(tmp_path, {"zoë": BOX, "b": BOX})
    (tmp_path / "labels" / "b.txt").write_bytes(f"{BOX}\r\n1{BOX[1:]}\r\n".encode(encoding))
    (tmp_path / "list.txt").write_bytes("images/zoë.jpg\r\nimages/b.jpg\r\n".encode(encoding))
    path.write_bytes("train: list.txt\r\nnames: [cell, 猫]\r\n".encode(encoding))
    split = load_split(path, "train")
    assert (split.names, split.issues) == (["cell", "猫"], [])
    assert [record.classes.tolist() for record in split.records] == [[0], [0, 1]]
