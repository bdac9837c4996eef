"""Keys of data.yaml that change what a row means are obeyed or refused, and names by numbers are read in any spelling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import BOX, write_yolo
from yolov9k.common.errors import UserError
from yolov9k.data.config import load_split

WANTED = np.array([[0.4, 0.3, 0.6, 0.7]], np.float32)


def pose(root: Path, points: str, keys: str, box: str = BOX) -> Path:
    path = write_yolo(root, {"a": f"{box} {points}\n"})
    path.write_text(f"train: images\nval: images\nnames: [x]\n{keys}\n")
    return path


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        ("[4, 2]", "0.2 0.3 0.4 0.3 0.4 0.6 0.2 0.6"),
        ("[2, 3]", "0.2 0.3 1 0.4 0.3 0"),
        ("[1, 3]", "0.2 0.3 2"),  # visibility reaches beyond 1
        ("[2, 2]", "0 0 -1 -1"),  # points that are not labeled, as tools write them
        ("[2, 2]", ""),
    ],
)
def test_a_row_with_key_points_is_its_box(tmp_path: Path, shape: str, points: str, capsys: pytest.CaptureFixture[str]) -> None:
    split = load_split(pose(tmp_path, points, f"kpt_shape: {shape}\nflip_idx: [0, 1]\ntask: pose"), "train")
    np.testing.assert_array_equal(split.records[0].boxes, WANTED)
    assert split.records[0].polygons == [None]
    assert split.fatal_issues == []
    assert capsys.readouterr().err.count("1 rows have key points (kpt_shape), which are left out") == bool(points)


@pytest.mark.parametrize("points", ["0.2 0.3", "0.2 0.3 0.4 0.3 0.4 0.6 0.2 0.6", "0.1"])
def test_a_row_with_other_key_points_is_refused(tmp_path: Path, points: str) -> None:
    (issue,) = load_split(pose(tmp_path, points, "kpt_shape: [3, 2]"), "train").fatal_issues
    assert "with the data set's kpt_shape a row has 5 or 11" in issue.message
    assert issue.line == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("kpt_shape: 17", "kpt_shape is 17"),
        ("kpt_shape: [17]", "kpt_shape is [17]"),
        ("kpt_shape: [17, 4]", "kpt_shape is [17, 4]"),
        ("kpt_shape: [0, 2]", "kpt_shape is [0, 2]"),
        ("kpt_shape: [true, 2]", "kpt_shape is"),
        ("kpt_shape: [1.0, 2]", "kpt_shape is"),
        ("flip_idx: [0, 2, 1]", "flip_idx is of key points, but there is no kpt_shape"),
        ("kpt_names: {0: [nose]}", "kpt_names is of key points, but there is no kpt_shape"),
        ("task: classify", "task is 'classify', whose labels are no boxes"),
        ("channels: 10", "channels is 10, but images are read in color"),
    ],
)
def test_keys_that_cannot_be_obeyed_are_refused(tmp_path: Path, keys: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_split(pose(tmp_path, "", keys), "train")
    assert words in str(caught.value)
    assert "data.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "keys", ["task: detect", "task: segment", "task: birds", "channels: 3", "kpt_shape:", "flip_idx: []", "kpt_shape: [2, 3]"]
)
def test_keys_that_change_nothing_are_read_past(tmp_path: Path, keys: str) -> None:
    split = load_split(pose(tmp_path, "", keys), "train")
    assert split.issues == []


@pytest.mark.parametrize("names", ["{'0': x, '1': y}", '{"1": y, "0": x}', "{0: x, '1': y}", "{0.0: x, 1: y}", "{1: y, 0: x}"])
def test_numbers_of_names_may_stand_in_quotes(tmp_path: Path, names: str) -> None:
    assert load_split(write_yolo(tmp_path, {"a": BOX}, names), "train").names == ["x", "y"]


@pytest.mark.parametrize(
    ("names", "words"),
    [("{'0': x, 0: y}", "of which two are the same"), ("{a: x, b: y}", "number the classes 0, 1, 2")],
)
def test_numbers_of_names_that_are_no_row(tmp_path: Path, names: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_split(write_yolo(tmp_path, {"a": BOX}, names), "train")


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (f"{BOX} 0.5 0.5 2 0.45 0.4 1\n{BOX} 0 0 0 0.6 0.6 2", [2, 3]),  # as many numbers as an outline of five corners
        (f"{BOX} 0.5 0.5 2", [1, 3]),  # no outline has an even number of columns
        (f"{BOX} 0.45 0.4 0.5 0.6 0.55 0.5 0.45 0.65", [4, 2]),
        (f"{BOX} 0.5 0.5 2\n{BOX}", None),
        (f"{BOX} 0.5 0.5 0.5", None),
        ("0 0.0 0.0 0.5 0.0 0.5 1.0 0.0 1.0 0.0 0.0", None),  # an outline along the edges
        (f"{BOX} 0.1 0.1 1 0.9 0.9 1", None),  # far from what would be the box
        (f"{BOX} 0.45 0.4 0.5 0.6 0.55 0.5 0.45 0.75", None),  # a corner outside of it
        ("0 0.2 0.3 0.4 0.3 0.4 0.6 0.2 0.6 0.1 0.5", None),
    ],
)
def test_rows_that_look_like_key_points_without_a_key_are_told_once(rows: str, shape: list[int] | None, tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": rows, "b": rows})
    told = [str(issue) for issue in load_split(path, "train").issues if "key points" in issue.message]
    words = (
        "a.txt: rows look like boxes with {} key points each, those of 1 more label files too; add kpt_shape: {} to data.yaml"
    )
    assert [words.format(shape[0], shape) in text for text in told if shape] == [True] * bool(shape)
    assert len(told) == bool(shape)


@pytest.mark.parametrize("number", [3, 5])
def test_several_boxes_on_one_line_are_no_outline(tmp_path: Path, number: int) -> None:
    """Of two and of four the row has a number of columns that no outline has."""
    path = write_yolo(tmp_path, {"a": " ".join([BOX] * number), "b": "0 0 0 0.5 0 0 0.5 0.2 1 1 0 0.3 0.3 0.1 0.1"})
    (issue,) = load_split(path, "train").fatal_issues
    assert f"{number} boxes on one line; write each on a line of its own" in issue.message
