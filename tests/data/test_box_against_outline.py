"""A COCO object states its box, its outline and its area: training and evaluation believe the box, and the rest is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.command_line import run
from tests.data_cases import write_image
from tests.tolerances import BOX_SHARE
from yolov9k.config.recipe import TrainRecipe, load_recipe
from yolov9k.data.config import load_split
from yolov9k.data.loader import make_loader

BOX = [10, 20, 40, 40]  # x y w h
ELSEWHERE = {
    "of the image before it was halved": [[120, 10, 180, 10, 180, 60, 120, 60]],
    "zeros": [[0, 0, 0, 0, 0, 0]],
    "visible half of an amodal box": [[10, 20, 30, 20, 30, 60, 10, 60]],
    "of two parts one has four numbers": [[10, 20, 20, 20, 20, 60, 10, 60], [49, 30, 50, 40]],
    "of two parts one has a text in it": [[10, 20, 20, 20, 20, 60, 10, 60], [40, 20, 50, 30, "x", 40]],
    "a box twice as large": [[0, 0, 80, 0, 80, 60, 0, 60]],
    "a point": [[30, 30, 30, 30, 30, 30]],
    "numbers beyond float32": [[1e39, 20, 50, 20, 50, 60]],
}
HERE = {
    "exactly": [[10, 20, 50, 20, 50, 60, 10, 60]],
    "rounded inwards": [[10.6, 20.4, 49.3, 20.4, 49.3, 59.1, 10.6, 59.1]],
    "last pixel counted once more": [[10, 20, 51, 20, 51, 61, 10, 61]],
    "of two parts together": [[10, 20, 20, 20, 20, 60, 10, 60], [40, 30, 50, 30, 50, 40]],
}


def coco(root: Path, **changes: Any) -> Path:
    """Four images of 96 x 64 with one object each."""
    entry = {"category_id": 1, "bbox": BOX, "area": 1600, "iscrowd": 0} | changes
    numbers = range(1, 5)
    for number in numbers:
        write_image(root / "images" / f"{number}.png", 96, 64)
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 96, "height": 64} for n in numbers],
        "annotations": [{"id": n, "image_id": n, **entry} for n in numbers],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root / "train.json"


def still() -> TrainRecipe:
    """A recipe that warps by a millionth: boxes are made of outlines, but stay where they are."""
    nothing = dict.fromkeys(("degrees", "scale", "shear", "flipud", "fliplr", "mosaic", "mixup", "copy_paste"), 0)
    return load_recipe("small").override("test", translate=1e-6, hsv_h=0, hsv_s=0, hsv_v=0, **nothing)


@pytest.mark.parametrize("outline", ELSEWHERE.values(), ids=ELSEWHERE.keys())
@pytest.mark.parametrize("augment", [True, False])
def test_an_outline_elsewhere_is_not_used(tmp_path: Path, outline: list[Any], augment: bool) -> None:
    split = load_split(coco(tmp_path, segmentation=outline), "train")
    assert [issue.kind for issue in split.issues] == ["outlines elsewhere than their box"] * 4
    loader = make_loader(split, still(), img_size=96, batch=4, augment=augment, workers=0)
    (batch,) = list(loader)
    assert batch.counts.tolist() == [1] * 4
    wanted = [0, 30 / 96, (40 + 16) / 96, 40 / 96, 40 / 96]  # class and center, width, height; letterboxed to 96 x 96
    np.testing.assert_allclose(batch.boxes[:, 0].numpy(), [wanted] * 4, atol=BOX_SHARE)


@pytest.mark.parametrize("outline", HERE.values(), ids=HERE.keys())
def test_an_outline_within_rounding_is_used(tmp_path: Path, outline: list[Any]) -> None:
    split = load_split(coco(tmp_path, segmentation=outline), "train")
    assert split.issues == []
    assert all(polygon is not None for record in split.records for polygon in record.polygons)


def test_outlines_and_boxes_that_leave_the_image_alike_agree(tmp_path: Path) -> None:
    outline = [[80, 20, 120, 20, 120, 60, 80, 60]]
    split = load_split(coco(tmp_path, bbox=[80, 20, 40, 40], segmentation=outline), "train")
    assert {issue.kind for issue in split.issues} == {"boxes clipped to their image"}
    assert split.records[0].polygons[0] is not None


def test_an_outline_is_held_to_the_part_of_its_box_that_is_in_the_image(tmp_path: Path) -> None:
    split = load_split(coco(tmp_path, bbox=[80, 20, 40, 40], segmentation=[[80, 20, 96, 20, 96, 60, 80, 60]]), "train")
    assert {issue.kind for issue in split.issues} == {"boxes clipped to their image"}


@pytest.mark.parametrize(("area", "told"), [(1600, False), (1601, False), (6400, True), (100, False)])
def test_an_area_larger_than_its_box_is_told(tmp_path: Path, area: float, told: bool) -> None:
    split = load_split(coco(tmp_path, area=area), "train")
    assert [issue.kind for issue in split.issues] == ["areas larger than their box"] * 4 * told
    assert split.records[0].areas.tolist() == [area]  # sizes are counted as pycocotools counts them


def test_the_disagreement_is_told_with_its_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco(tmp_path, segmentation=ELSEWHERE["zeros"])
    load_split(path, "train")
    assert "train (4 images): 4 outlines elsewhere than their box; list them with" in capsys.readouterr().err
    assert run("data", "check", path) == 0
    assert "annotation 1: bbox [10, 20, 40, 40] is 60 pixels off its outline, which is not used" in capsys.readouterr().out
