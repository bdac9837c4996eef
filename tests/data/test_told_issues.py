"""What was refused, is missing or is not an object reaches everyone who reads a split, from one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.command_line import run
from tests.data_cases import BOX, train_options, write_image, write_yolo
from tests.engine_cases import TINY
from yolov9k.common.errors import UserError
from yolov9k.data.check import check_data
from yolov9k.data.config import load_split
from yolov9k.engine.train.resume import data_facts
from yolov9k.engine.train.setup import load_splits
from yolov9k.engine.train.trainer import Trainer
from yolov9k.models import create_model
from yolov9k.models.checkpoints import save


def coco(root: Path, *annotations: dict[str, Any]) -> Path:
    """A COCO file of one image for each annotation; what an annotation does not say is ordinary."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number, changes in enumerate(annotations, 1):
        write_image(root / "images" / f"{number}.png", 100, 50)
        content["images"].append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 50})
        entry = {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 10, 20, 30]}
        content["annotations"].append(entry | changes)
    path = root / "train.json"
    path.write_text(json.dumps(content))
    return path


def voc(root: Path, **marks: str) -> Path:
    """A VOC folder of one image with one object for each text that follows the object's name."""
    (root / "Annotations").mkdir(parents=True)
    for stem, mark in marks.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg", 100, 50)
        box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
        text = f"<annotation><object><name>cell</name>{mark}{box}</object></annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    return root


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Of four images one has a refused row, one no label file; one label file has no image."""
    path = write_yolo(tmp_path, {"a": BOX, "b": BOX.replace(" ", ","), "c": None, "d": ""})
    (tmp_path / "labels" / "lost.txt").write_text(BOX)
    return path


def told(text: str, path: Path, split: str) -> bool:
    """Whether both warnings stand there, each in one line."""
    hint = f"list them with 'yolov9k data check {path}'"
    refused = [line for line in text.splitlines() if f"{split}: 1 faulty labels or images are left out, the first: " in line]
    missing = f"{split} (4 images): 1 images without a label file, used as background, 1 labels without an image; {hint}"
    return len(refused) == 1 and refused[0].endswith(hint) and text.count(missing) == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_reading_a_split_tells_what_is_wrong(faulty: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    load_split(faulty, split)
    assert told(capsys.readouterr().err, faulty, split)


def test_training_tells_it_for_both_splits(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trainer(train_options(faulty, tmp_path))
    text = capsys.readouterr().err
    assert told(text, faulty, "train")
    assert told(text, faulty, "val")


@pytest.mark.long
def test_validation_and_profile_tell_it(faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "w.pt", create_model("yolov9-t", 2))
    common = ["--data", faulty, "--img", 32, "--workers", 0, "--device", "cpu", "--project", tmp_path / "runs"]
    assert run("val", "--weights", tmp_path / "w.pt", *common) == 0
    assert told(capsys.readouterr().err, faulty, "val")
    assert run("profile", "--cfg", "yolov9-t", "--batch", 5, *common) == 2  # four images: it ends before the profile
    assert told(capsys.readouterr().err, faulty, "train")


def test_data_check_lists_what_it_would_tell(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", faulty) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("b.txt:1: row ", "c.jpg: image without a label file", "lost.txt: label without an image"):
        assert captured.out.count(words) == 1


@pytest.mark.parametrize("mark", [1, 1.0, True, "1", "true"])
def test_training_on_crowds_alone_is_refused(tmp_path: Path, mark: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco(tmp_path, *[{"iscrowd": mark, "segmentation": {"counts": [0, 10, 4990], "size": [50, 100]}}] * 2)
    with pytest.raises(UserError, match="no training image has an object"):
        Trainer(train_options(path, tmp_path))
    text = capsys.readouterr().err
    assert "none of the 2 images of train has a label that can be used" in text
    assert "2 of 2 boxes are crowd regions" in text


@pytest.mark.parametrize("mark", [0, 0.0, False, None, "0", "false", ""])
def test_no_crowd_is_an_object(tmp_path: Path, mark: object, capsys: pytest.CaptureFixture[str]) -> None:
    record = load_split(coco(tmp_path, {"iscrowd": mark}), "train").records[0]
    assert (record.crowd.tolist(), record.objects) == ([False], 1)
    assert capsys.readouterr().err == ""


def test_counts_leave_crowds_out(tmp_path: Path) -> None:
    path = coco(tmp_path, {"bbox": [10, 10, 40, 40]}, {"iscrowd": 1}, {"iscrowd": 1})
    report = check_data(path)
    (split,) = report.splits
    assert (split.images, split.boxes, split.crowd, split.backgrounds) == (3, 1, 2, 2)
    assert (split.class_boxes, split.class_images, split.sizes) == ([1], [1], (0, 1, 0))
    assert split.widths.high == 40
    assert [str(issue).partition(": ")[2][:22] for issue in report.issues] == ["2 of 3 boxes are crowd"]
    with pytest.raises(UserError, match="--min-items 2: none of 3 training images"):
        Trainer(train_options(path, tmp_path, min_items=2))


def test_each_image_counts_its_objects_without_its_crowds(tmp_path: Path) -> None:
    """The first image has two objects, the third an object and a crowd region."""
    other = {"bbox": [50, 10, 20, 30]}
    path = coco(tmp_path, {}, {"image_id": 1, **other}, {}, {"image_id": 3, "iscrowd": 1, **other})
    train, val = load_splits(train_options(path, tmp_path, min_items=2), Console(quiet=True))
    assert [record.path.stem for record in train.records] == ["1"]
    facts = data_facts(train, val)
    assert [(facts[split]["images"], facts[split]["objects"]) for split in ("train", "val")] == [(1, 2), (4, 3)]


DIFFICULT = "<difficult>1</difficult>"


def test_a_profile_takes_them_as_training_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, refused = voc(tmp_path / "d", a=DIFFICULT, b=DIFFICULT), "none of the 2 images of train has a label"
    load_split(data, "train")
    assert refused in capsys.readouterr().err
    (tmp_path / "tiny.yaml").write_text(TINY)
    size = ("--cfg", tmp_path / "tiny.yaml", "--img", 64, "--batch", 2, "--steps", 1, "--device", "cpu", "--project", tmp_path)
    assert run("profile", *size, "--data", data, "--workers", 0, "--difficult") == 0
    assert refused not in capsys.readouterr().err


def test_difficult_objects_are_as_crowds_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path, a=DIFFICULT, b="<difficult>0</difficult>", c="")
    split = load_split(root, "train")
    assert [record.crowd.tolist() for record in split.records] == [[True], [False], [False]]
    text = capsys.readouterr().err
    assert text.count("1 of 3 objects are marked difficult: not trained on, ignored in evaluation; --difficult makes") == 1
    assert len(text.splitlines()) == 1
    split = load_split(root, "train", difficult=True)
    assert [record.objects for record in split.records] == [1, 1, 1]
    assert (capsys.readouterr().err, split.issues) == ("", [])


def test_difficult_objects_are_neither_misses_nor_needed(tmp_path: Path) -> None:
    """Of two objects the detector finds the ordinary one, then the difficult one with a higher score: no false alarm."""
    from yolov9k.tasks.detect.coco import CocoEvaluator

    root = voc(tmp_path, a=DIFFICULT, b="")
    for difficult, expected in ((False, 1), (True, 2)):
        split = load_split(root, "train", difficult=difficult)
        evaluator = CocoEvaluator(split.names, split.category_ids, split.records)
        for record in split.records:
            evaluator.update(record.image_id, np.array([[10, 10, 30, 40, 0.5 + 0.4 * (record.path.stem == "a"), 0]]))
        metrics = evaluator.compute()
        assert metrics.per_class[0].instances == expected
        assert metrics.ap == pytest.approx(1)


@pytest.mark.parametrize("key", ["difficult", "ignore"])
def test_coco_files_made_of_voc_keep_the_mark(tmp_path: Path, key: str) -> None:
    path = coco(tmp_path, {key: 1}, {key: 0}, {key: "1"})
    assert [record.objects for record in load_split(path, "train").records] == [0, 1, 0]
    assert [record.objects for record in load_split(path, "train", difficult=True).records] == [1, 1, 1]


@pytest.mark.long
def test_difficult_is_a_flag_of_every_command_that_reads_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "voc", a=DIFFICULT, b=DIFFICULT)
    assert run("data", "check", root) == 0
    assert "2 of 2 objects are marked difficult" in capsys.readouterr().out
    assert run("data", "check", root, "--difficult") == 0
    assert "marked difficult" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no training image has an object"):
        Trainer(train_options(root, tmp_path))
    trainer = Trainer(train_options(root, tmp_path, difficult=True))
    assert [record.objects for record in trainer.train_split.records] == [1, 1]
    save(tmp_path / "w.pt", create_model("yolov9-t", 1))
    capsys.readouterr()
    common = ["--data", root, "--img", 32, "--workers", 0, "--device", "cpu", "--project", tmp_path / "runs"]
    assert run("val", "--weights", tmp_path / "w.pt", *common, "--difficult") == 0
    assert "marked difficult" not in capsys.readouterr().err
