"""Roboflow's COCO exports begin with a category that groups the others: no class, unless a box is of it or one asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run
from tests.data_cases import train_options, write_image
from yolov9k.data.check import check_data
from yolov9k.data.config import load_split
from yolov9k.engine.train.trainer import Trainer

GROUP = {"id": 0, "name": "cells", "supercategory": "none"}
CLASSES = [{"id": 1, "name": "rbc", "supercategory": "cells"}, {"id": 2, "name": "wbc", "supercategory": "cells"}]


def export(root: Path, categories: list[dict[str, Any]], train: int = 1, val: int = 2) -> Path:
    """An export of an image a split, with one box of the category of this id."""
    for part, category in (("train", train), ("valid", val)):
        write_image(root / part / f"{part}.jpg")
        box = {"id": 0, "image_id": 0, "category_id": category, "bbox": [5, 5, 10, 10]}
        content = {"images": [{"id": 0, "file_name": f"{part}.jpg"}], "annotations": [box], "categories": categories}
        (root / part / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def test_the_group_is_no_class_and_that_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(tmp_path, [GROUP, *CLASSES])
    for part, label in (("train", 0), ("val", 1)):
        split = load_split(path, part)
        assert (split.names, split.category_ids, split.records[0].classes.tolist()) == (["rbc", "wbc"], [1, 2], [label])
    words = "category 0, 'cells', groups the others and has no box: it is no class; --keep-empty-classes makes it one"
    assert capsys.readouterr().err.count(words) == 2
    assert sum(words in str(issue) for issue in check_data(path).issues) == 2


def test_it_is_kept_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export(tmp_path, [GROUP, *CLASSES])
    split = load_split(path, "train", keep_empty_classes=True)
    assert (split.names, split.records[0].classes.tolist()) == (["cells", "rbc", "wbc"], [1])
    assert run("data", "check", path, "--keep-empty-classes") == 0
    assert "cells" in capsys.readouterr().out
    options = train_options(path, tmp_path, keep_empty_classes=True)
    options.img = 64  # one image of 32 pixels is too little for BatchNorm
    assert len(Trainer(options).model.names) == 3


@pytest.mark.parametrize(
    ("categories", "names"),
    [
        ([GROUP], ["cells"]),
        ([GROUP, {"id": 1, "name": "rbc", "supercategory": "none"}], ["cells", "rbc"]),
        ([{"id": 0, "name": "cells", "supercategory": "cells"}, *CLASSES], ["cells", "rbc", "wbc"]),
        ([{"id": 0, "name": "unused"}, {"id": 1, "name": "rbc"}, {"id": 2, "name": "wbc"}], ["unused", "rbc", "wbc"]),
    ],
)
def test_other_categories_without_a_box_are_classes(categories: list[dict[str, Any]], names: list[str], tmp_path: Path) -> None:
    path = export(tmp_path, categories, *[min(1, len(categories) - 1)] * 2)
    assert load_split(path, "train").names == names


def test_a_box_of_it_in_any_split_keeps_it_in_all(tmp_path: Path) -> None:
    path = export(tmp_path, [GROUP, *CLASSES], val=0)
    assert load_split(path, "train").names == load_split(path, "val").names == ["cells", "rbc", "wbc"]
