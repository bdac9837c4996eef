"""What other tools write in place of what was meant: names that are no names, flags beyond 1, objects where none are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data_cases import BOX, write_image, write_yolo
from yolov9k.common.errors import UserError
from yolov9k.data.check import check_data
from yolov9k.data.config import load_split
from yolov9k.data.probe import list_images

OBJECT = "<object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>15</xmax><ymax>15</ymax></bndbox></object>"


def coco(folder: Path, name: object = "dog", **annotation: Any) -> Path:
    write_image(folder / "a.jpg")
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], **annotation}
    images = [{"id": 1, "file_name": "a.jpg"}]
    categories = [{"id": 1, "name": name}, {"id": 2, "name": "cat"}]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": [entry]}))
    return path


def voc(folder: Path, xml: str, name: str = "a.xml") -> Path:
    write_image(folder / "JPEGImages" / "a.jpg")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / name).write_text(xml)
    return folder


@pytest.mark.parametrize("names", ["!!omap [0: a, 1: b]", "[!!binary aGVsbG8=, b]", "[a, !!set {b}]"])
def test_a_yaml_value_that_is_no_name_is_refused(names: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.yaml: name of class [01] is .*; put it in quotes"):
        load_split(write_yolo(tmp_path, {"a": BOX}, names), "train")


@pytest.mark.parametrize("name", [None, True, ["dog"], {"en": "dog"}])
def test_a_category_without_a_name_is_refused(name: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.json: name of category 1 is .*; make it a text"):
        load_split(coco(tmp_path, name), "train")


def test_two_categories_of_one_name_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_split(coco(tmp_path, "cat"), "train")
    assert "several classes have the same name (cat)" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [2, 0.5, "2", "1."])
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_flag_is_on_for_any_number_but_0(key: str, flag: object, tmp_path: Path) -> None:
    (report,) = check_data(coco(tmp_path, **{key: flag})).splits
    assert (report.boxes, report.crowd) == (0, 1)


@pytest.mark.parametrize("flag", ["0", "0.0", 0, False, None, "no", ""])
def test_a_flag_of_0_is_off(flag: object, tmp_path: Path) -> None:
    (report,) = check_data(coco(tmp_path, iscrowd=flag)).splits
    assert (report.boxes, report.crowd) == (1, 0)


@pytest.mark.parametrize("kind", ["capitals", "nested"])
def test_an_object_that_is_not_read_is_an_error(kind: str, tmp_path: Path) -> None:
    xml = f"<annotation>\n{OBJECT}</annotation>"
    xml = f"<annotations>{xml}</annotations>" if kind == "nested" else xml.replace("object>", "Object>")
    (issue,) = check_data(voc(tmp_path, xml)).issues
    assert issue.fatal
    assert issue.line == 2
    assert "put objects as <object> directly into the root" in issue.message


def test_annotations_of_any_case_of_suffix_are_read(tmp_path: Path) -> None:
    assert check_data(voc(tmp_path, f"<annotation>{OBJECT}</annotation>", "a.XML")).splits[0].boxes == 1


@pytest.mark.parametrize("folder", ["@eadir", "$Recycle.Bin", "@Recycle", "#snapshot", "@Recently-Snapshot", "__pycache__"])
def test_folders_of_systems_are_not_looked_into(folder: str, tmp_path: Path) -> None:
    own = write_image(tmp_path / "own.jpg")
    write_image(tmp_path / folder / "own.jpg")
    assert list_images(tmp_path) == [own]


@pytest.mark.parametrize("number", ["0.5_0", "٠.٥", "０.５", "0,5", "0x1", "½"])
def test_a_number_is_one_in_ascii_digits(number: str, tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": f"0 {number} 0.5 0.2 0.4"})
    (issue,) = load_split(path, "train").fatal_issues
    assert f"{number!r} is not a number" in issue.message
    xml = f"<annotation>{OBJECT}</annotation>".replace(">5<", f">{number}<")
    (issue,) = load_split(voc(tmp_path / "voc", xml), "train").fatal_issues
    assert "it needs four numbers" in issue.message


def test_separators_of_other_scripts_still_separate(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, {"a": BOX.replace(" ", "\u3000")})
    assert load_split(path, "train").issues == []


@pytest.mark.parametrize("text", ["1_0", "١٠"])
def test_flags_and_files_of_hyperparameters_keep_to_it(text: str, tmp_path: Path) -> None:
    from yolov9k.config import TrainOptions, load_recipe, option_fields

    fields = {field.name: field for field in option_fields(TrainOptions)}
    for name in ("epochs", "batch", "freeze", "label_smoothing"):
        with pytest.raises(UserError, match=text):
            fields[name].parse(text)
    (tmp_path / "hyp.yaml").write_text(f"lr0: '{text}'\n", encoding="utf-8")
    with pytest.raises(UserError, match=text):
        load_recipe(tmp_path / "hyp.yaml")


@pytest.mark.parametrize(
    ("name", "seen"),
    [("dog\u200b", True), ("\ufeffdog", True), ("dog ", True), ("\u3164", True), ("", True), ("d\u00a0g", True),
     ("d\u202eg", True),
     ("می\u200cخواهم", False), ("犬", False), ("traffic light", False)],
)  # fmt: skip
def test_names_with_characters_that_nobody_sees_are_told(
    name: str, seen: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_split(write_yolo(tmp_path, {"a": BOX}, json.dumps([name, "b"])), "train")
    assert (f"names hold characters that cannot be seen: {name!a};" in capsys.readouterr().err) == seen
