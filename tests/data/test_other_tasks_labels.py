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
    [("{'0': x, 0: y}", "of which two are the same"), ("{'1': x, 2: y}", "without gaps"), ("{a: x, b: y}", "without gaps")],
)
def test_numbers_of_names_that_are_no_row(tmp_path: Path, names: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_split(write_yolo(tmp_path, {"a": BOX}, names), "train")
