"""Which listed images are one image, and whose label a file is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.data_cases import BOX, train_options, write_image, write_yolo
from tests.format_cases import LAYOUTS
from tests.support import little_model
from tests.tiers import slow_case
from yolov9k.config import ValOptions
from yolov9k.data.check import check_data
from yolov9k.data.config import load_split, open_dataset, warn_of_training_images
from yolov9k.engine.facade.validation import run_validation
from yolov9k.engine.train.setup import load_splits
from yolov9k.models import create_model
from yolov9k.models.checkpoints import save
from yolov9k.tasks.detect.coco import CocoEvaluator

OTHER = "1 0.5 0.5 0.4 0.4"
ENTRIES = {
    "a list that repeats": "list.txt",
    "overlapping folders": "[images, images/s, ./images/../images/s]",
    "a folder and an image": "[images, images/s/a.jpg]",
    "a link to the folder": "[images, linked]",
    "a link to the image": "[images, more]",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images, one of which is listed several times by each of ENTRIES."""
    path = write_yolo(tmp_path, dict.fromkeys("bcd"))
    write_image(tmp_path / "images" / "s" / "a.jpg")
    (tmp_path / "labels" / "s").mkdir(parents=True)
    for label in ("s/a", "b", "c", "d"):
        (tmp_path / "labels" / f"{label}.txt").write_text(BOX)
    rows = [f"images/{name}.jpg" for name in ("s/a", "b", "c", "d", "s/a", "./s/../s/a")]
    (tmp_path / "list.txt").write_text("\n".join([*rows, str(tmp_path / "images/s/a.jpg")]))
    os.symlink(tmp_path / "images" / "s", tmp_path / "linked")
    (tmp_path / "more" / "images").mkdir(parents=True)
    os.symlink(tmp_path / "images" / "s" / "a.jpg", tmp_path / "more" / "images" / "a.jpg")
    (tmp_path / "more" / "labels").mkdir()
    (tmp_path / "more" / "labels" / "a.txt").write_text(BOX)
    (tmp_path / "linked" / "a.txt").write_text(BOX)
    return path


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_an_image_is_validated_once(data: Path, entry: str) -> None:
    data.write_text(f"train: images\nval: {entry}\nnames: [x, y]")
    split = load_split(data, "val")
    assert sorted(record.path.stem for record in split.records) == ["a", "b", "c", "d"]
    assert [record.objects for record in split.records] == [1] * 4
    kinds = [issue.kind for issue in split.issues if issue.kind != "labels without an image"]
    assert kinds == ["images listed more than once, counted once"]


def test_average_precision_and_results_count_an_image_once(data: Path, tmp_path: Path) -> None:
    """Of four images one is found: 0.25 and a bit of COCO's interpolation, however often it is listed."""
    data.write_text("train: images\nval: list.txt\nnames: [x, y]")
    split = load_split(data, "val")
    evaluator = CocoEvaluator(split.names, split.category_ids, split.records)
    record = next(record for record in split.records if record.path.stem == "a")
    evaluator.update(record.image_id, np.array([[*record.pixel_boxes[0], 0.9, 0]]))
    assert evaluator.compute().per_class[0].ap == pytest.approx(26 / 101)  # recall 0.25 is 26 of the 101 points
    evaluator.save_json(tmp_path / "r.json")
    assert len(json.loads((tmp_path / "r.json").read_text())) == 1


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_in_training_repeats_stay_and_are_told(data: Path, entry: str) -> None:
    data.write_text(f"train: {entry}\nval: images\nnames: [x, y]")
    split = load_split(data, "train")
    assert sum(record.path.stem == "a" for record in split.records) > 1
    assert len({record.image_id for record in split.records}) == len(split.records) > 4
    assert "images listed more than once, trained on as often" in [issue.kind for issue in split.issues]
    assert len(load_split(data, "train", repeats=False).records) == 4


def test_an_absent_image_that_is_listed_twice_is_told_for_each_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("images/gone.jpg\nimages/b.jpg\nimages/gone.jpg\n")
    data.write_text("train: images\nval: list.txt\nnames: [x, y]")
    assert [issue.line for issue in load_split(data, "val").fatal_issues] == [1, 3]


def coco(root: Path, images: list[dict[str, Any]], boxes: list[tuple[Any, list[int]]], name: str = "train.json") -> Path:
    write_image(root / "images" / "a.png", 96, 64)
    notes = [{"id": n, "image_id": key, "category_id": 1, "bbox": box} for n, (key, box) in enumerate(boxes)]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "x"}]}
    (root / name).write_text(json.dumps(content))
    return root / name


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_file_under_two_ids_gets_all_its_boxes(tmp_path: Path, split: str) -> None:
    images = [{"id": key, "file_name": "a.png"} for key in (1, 99)]
    path = coco(tmp_path, images, [(1, [10, 10, 20, 20]), (99, [60, 5, 20, 20]), (99, [10, 10, 20, 20])])
    loaded = load_split(path, split)
    (record,) = loaded.records
    assert (record.objects, record.result_id) == (2, 1)
    assert "images labeled in several places, put together" in [issue.kind for issue in loaded.issues]
    assert loaded.fatal_issues == []


def test_classes_in_files_of_their_own_are_put_together(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}]
    coco(tmp_path, images, [(1, [10, 10, 20, 20])], "one.json")
    coco(tmp_path, images, [(1, [60, 5, 20, 20])], "two.json")
    (tmp_path / "data.yaml").write_text("train: [one.json, two.json]")
    (record,) = load_split(tmp_path / "data.yaml", "train").records
    assert record.objects == 2


def test_images_to_validate_on_that_are_trained_on_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text("train: images\nval: [images/s, more]\nnames: [x, y]")
    load_splits(train_options(data, tmp_path), Console())
    words = "1 of 1 images of val are in train too, such as "
    assert capsys.readouterr().err.count(words) == 1
    assert [words in str(issue) for issue in check_data(data).issues].count(True) == 1


def test_a_split_that_stands_in_for_another_is_not_told_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text("train: images\nnames: [x, y]")
    load_splits(train_options(data, tmp_path), Console())
    text = capsys.readouterr().err
    assert "no val split; using train as val" in text
    assert "are in train too" not in text


def test_a_label_file_of_two_images_is_told(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": BOX, "b": BOX})
    write_image(tmp_path / "images" / "a.png")
    split = load_split(path, "val")
    assert len(split.records) == 3
    (issue,) = [issue for issue in split.issues if issue.kind == "label files of several images each"]
    assert (issue.path.name, "(a.jpg, a.png)" in issue.message) == ("a.txt", True)


@pytest.mark.parametrize(
    ("named", "chosen"), [("", "a.jpg"), ("a.png", "a.png"), ("VOC2007\\JPEGImages\\a.png", "a.png"), ("gone.gif", "a.jpg")]
)
@pytest.mark.parametrize("listed", [None, "a\nb\n", "a.png\nb.jpg\n", "JPEGImages\\a.jpg\n./JPEGImages/b\n"])
def test_of_images_of_one_stem_voc_takes_the_one_that_is_named(
    tmp_path: Path, named: str, chosen: str, listed: str | None
) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        write_image(tmp_path / "JPEGImages" / name, 100, 50)
    (tmp_path / "Annotations").mkdir()
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    for stem, filename in (("a", named), ("b", "b.jpg")):
        text = f"<annotation><filename>{filename}</filename><object><name>x</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
    if listed:
        (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text(listed)
    split = load_split(tmp_path, "train")
    assert [record.path.name for record in split.records] == [chosen, "b.jpg"]
    (issue,) = split.issues
    assert issue.fatal
    assert issue.path.name == {"a.jpg": "a.png", "a.png": "a.jpg"}[chosen]
    assert f"shares its label file ({tmp_path / 'Annotations' / 'a.xml'}) with {chosen}" in issue.message


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco", "labelme", "csv-tensorflow"])
def test_validation_alone_tells_of_images_that_are_trained_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = LAYOUTS[kind](tmp_path)
    layout = open_dataset(root)
    warn_of_training_images(layout, load_split(layout, "val"))
    assert capsys.readouterr().err == ""
    warn_of_training_images(layout, replace(load_split(layout, "train"), name="val", origin="val"))
    assert capsys.readouterr().err.count("2 of 2 images of val are in train too, such as ") == 1
    layout.splits["train"] = ["gone"]  # a machine that only validates
    warn_of_training_images(layout, load_split(layout, "val"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("split", ["val", slow_case("train")])
def test_the_command_val_counts_an_image_once_and_tells_of_those_that_are_trained_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    other = "train" if split == "val" else "val"
    data.write_text(f"{split}: list.txt\n{other}: images\nnames: [x, y]")
    save(tmp_path / "m.pt", create_model(little_model(tmp_path), 2))
    options = {"weights": str(tmp_path / "m.pt"), "img": 64, "workers": 0, "device": "cpu", "project": str(tmp_path)}
    result, _ = run_validation(ValOptions(data=str(data), task=split, **options), Console(quiet=True))
    assert result.metrics.images == 4
    assert capsys.readouterr().err.count("4 of 4 images of val are in train too, such as ") == (split == "val")
