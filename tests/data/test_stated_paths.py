"""Where paths lead that files state: spelled by other systems, missing beside the file, splits told by names."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run
from tests.data_cases import BOX, train_options, write_image
from yolov9k.common.paths import PathFinder
from yolov9k.data.config import find_splits, load_split
from yolov9k.data.formats.image_finder import split_in
from yolov9k.engine.predict.sources import open_source
from yolov9k.engine.train.trainer import Trainer

WORD = "été한글"
FORMS = [(first, other) for first in ("NFC", "NFD") for other in ("NFC", "NFD") if first != other]


def form(name: str) -> str:
    return unicodedata.normalize(name, WORD)


def put(root: Path, image: str, label: str | None = None) -> None:
    """An image at root/images/`image`.jpg and its label file under another name, of the image's unless given."""
    write_image(root / "images" / f"{image}.jpg", 96, 64)
    path = root / "labels" / f"{label or image}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BOX)


def yolo(root: Path, train: str, **keys: str) -> Path:
    lines = [f"train: {train}", "val: images", "names: [x]", *(f"{key}: {value}" for key, value in keys.items())]
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.yaml").write_text("\n".join(lines), encoding="utf-8")
    return root / "data.yaml"


def coco(root: Path, file_names: list[str], name: str = "train.json") -> Path:
    images = [{"id": n, "file_name": file_name} for n, file_name in enumerate(file_names, 1)]
    notes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 10, 10]} for n in range(1, len(images) + 1)]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": [{"id": 1, "name": "x"}]}))
    return path


def voc(root: Path, stem: str, listed: str) -> Path:
    write_image(root / "JPEGImages" / f"{stem}.jpg", 100, 50)
    (root / "Annotations").mkdir(exist_ok=True)
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
    (root / "Annotations" / f"{listed}.xml").write_text(f"<annotation><object><name>x</name>{box}</object></annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text(f"{listed}\n", encoding="utf-8")
    return root


def complete(data: Path, number: int = 1) -> None:
    """Every image is found with its object, and nothing is said."""
    split = load_split(data, "train")
    assert [record.objects for record in split.records] == [1] * number
    assert split.issues == []


@pytest.mark.parametrize(("stated", "there"), FORMS)
def test_names_in_another_normal_form_are_found(tmp_path: Path, stated: str, there: str) -> None:
    name, other = form(stated), form(there)
    put(tmp_path / "labels", other, name)
    complete(yolo(tmp_path / "labels", "images"))
    put(tmp_path / "list" / other, other)
    (tmp_path / "list" / "list.txt").write_text(f"{name}/images/{name}.jpg\n", encoding="utf-8")
    complete(yolo(tmp_path / "list", "list.txt"))
    put(tmp_path / "folder" / other, "a")
    complete(yolo(tmp_path / "folder", f"{name}/images"))
    complete(yolo(tmp_path / "folder", "images", path=name))
    write_image(tmp_path / "coco" / "images" / other / f"{other}.jpg")
    complete(coco(tmp_path / "coco", [f"{name}/{name}.jpg"]))
    complete(voc(tmp_path / "voc", other, name))


@pytest.mark.parametrize(("stated", "there"), FORMS)
def test_names_on_the_command_line_are_found_in_another_normal_form(tmp_path: Path, stated: str, there: str) -> None:
    name, other = form(stated), form(there)
    put(tmp_path / other, other)
    yolo(tmp_path / other, "images")
    complete(tmp_path / name / "data.yaml")
    (path,) = open_source(tmp_path / name / "images" / f"{name}.jpg").paths
    assert path.samefile(tmp_path / other / "images" / f"{other}.jpg")


def test_two_names_that_look_alike_are_two(tmp_path: Path) -> None:
    for name in ("NFC", "NFD"):
        put(tmp_path, form(name))
    complete(yolo(tmp_path, "images"), 2)


def test_backslashes_divide_folders_where_no_name_has_them(tmp_path: Path) -> None:
    put(tmp_path / "data" / "part", "a")
    (tmp_path / "data" / "list.txt").write_text("part\\images\\a.jpg\n.\\part\\images\\a.jpg\n")
    assert len(load_split(yolo(tmp_path / "data", "list.txt"), "train", repeats=False).records) == 1
    complete(yolo(tmp_path / "data", "part\\images"))
    complete(yolo(tmp_path / "data", "..\\part\\images"))  # as Roboflow means it
    complete(yolo(tmp_path / "data", "part\\images\\*.jpg"))
    complete(yolo(tmp_path / "data", "images", path=".\\part"))
    write_image(tmp_path / "coco" / "images" / "sub" / "a.jpg")
    complete(coco(tmp_path / "coco", ["sub\\a.jpg"]))
    complete(voc(tmp_path / "voc", "a", "a"))


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put(tmp_path / "home" / "part", "a")
    complete(yolo(tmp_path / "data", "~/part/images"))
    complete(yolo(tmp_path / "data", "images", path="~/part"))
    (tmp_path / "data" / "list.txt").write_text("~/part/images/a.jpg\n")
    complete(yolo(tmp_path / "data", "list.txt"))
    assert open_source(tmp_path / "data" / "list.txt").paths == [tmp_path / "home" / "part" / "images" / "a.jpg"]


def test_a_backslash_in_a_name_is_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a\\b.jpg")
    write_image(tmp_path / "a" / "b.jpg")
    assert PathFinder().find("a\\b.jpg", [tmp_path]) == tmp_path / "a\\b.jpg"


@pytest.mark.parametrize("path", ["\0", "x" * 300, "a\0b/é", "é" * 300, "é/" * 3000])
def test_paths_that_cannot_be_are_not_found(tmp_path: Path, path: str) -> None:
    assert PathFinder().find(path, [tmp_path]) is None


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two exports, A with one image and B with two, both saying ../train/images; one works in B/work."""
    for name, count in (("A", 1), ("B", 2)):
        for number in range(count):
            put(tmp_path / name / "train", f"{name}{number}")
        yolo(tmp_path / name, "../train/images")
    (tmp_path / "B" / "work").mkdir()
    monkeypatch.chdir(tmp_path / "B" / "work")
    return tmp_path


@pytest.mark.parametrize("where", [".", "A", "B", "B/work"])
def test_the_files_own_folder_comes_first(
    beside: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(beside / where)
    complete(beside / "A" / "data.yaml", 1)
    complete(beside / "B" / "data.yaml", 2)
    assert capsys.readouterr().err == ""


def test_the_working_folder_is_last_and_named(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete(yolo(beside / "C", "../train/images"), 2)
    assert f"'../train/images' is not beside the file; taken from the working folder, {beside / 'B/train/images'}" in (
        capsys.readouterr().err
    )
    complete(yolo(beside / "C", "images", path="../train"), 2)
    assert capsys.readouterr().err.count("taken from the working folder") == 1
    put(beside / "C", "mine")
    complete(yolo(beside / "C", "images", path="../train"), 1)  # the file's own folder again
    assert capsys.readouterr().err == ""


def test_lines_of_a_list_follow_the_same_order(beside: Path) -> None:
    put(beside / "C", "mine")
    write_image(beside / "B" / "work" / "images" / "mine.jpg", 20, 20)
    put(beside / "B" / "work", "theirs")
    (beside / "C" / "list.txt").write_text("images/mine.jpg\nimages/theirs.jpg\n")
    split = load_split(yolo(beside / "C", "list.txt"), "train")
    assert [record.path for record in split.records] == [
        beside / "C" / "images" / "mine.jpg", beside / "B" / "work" / "images" / "theirs.jpg"
    ]  # fmt: skip
    (issue,) = split.issues
    assert "1 of 2 images are not beside the list; taken from the working folder" in str(issue)


def test_images_of_a_coco_file_are_looked_for_in_one_order(tmp_path: Path) -> None:
    """What the one before was found in does not matter."""
    for place in ("images/a.jpg", "images/b.jpg", "val/b.jpg", "val/c.jpg"):
        write_image(tmp_path / place)
    for names in (["a", "b", "c"], ["c", "b", "a"]):
        found = load_split(coco(tmp_path, [f"{name}.jpg" for name in names], "x.json"), "train").records
        places = {record.path.stem: record.path.parent.name for record in found}
        assert places == {"a": "images", "b": "images", "c": "val"}


def test_images_of_a_coco_file_that_tells_its_split_are_looked_for_in_its_folders_first(tmp_path: Path) -> None:
    for place in ("a.jpg", "images/a.jpg", "images/b.jpg", "images/val/a.jpg", "images/train/b.jpg"):
        write_image(tmp_path / place)
    for name, places in (("val.json", ["images/val/a.jpg", "images/b.jpg"]), ("x.json", ["a.jpg", "images/b.jpg"])):
        found = load_split(coco(tmp_path, ["a.jpg", "b.jpg"], name), "val").records
        assert [record.path.relative_to(tmp_path).as_posix() for record in found] == places


def test_a_folder_that_is_not_there_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "a")
    options = train_options(yolo(tmp_path, "images", path="gone"), tmp_path)
    options.img = 64  # one image of 32 pixels is too little for BatchNorm
    Trainer(options)
    assert capsys.readouterr().err.count("path 'gone' is not there") == 1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017.json", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("instances_minival.json", "val"),
        ("valves_train.json", "train"),
        ("tests_val.json", "val"),
        ("TrainStations-test.json", "test"),
        ("val/valves.json", "val"),
        ("train/valid.coco.json", "val"),
        ("trainval.json", "train"),
        ("validation.json", "val"),
        ("image_info_test-dev2017.json", "test"),
        ("valley_defects.json", None),
        ("contest.json", None),
        ("trained.json", None),
        ("TrainSet.json", "train"),
        ("valSet.json", "val"),
        ("latest.json", None),
    ],
)
def test_a_split_is_a_whole_word_the_last_one(name: str, split: str | None) -> None:
    assert split_in(name) == split


@pytest.mark.parametrize("project", ["valves", "tests", "trainstations", "stuff_toys", "captions", "instancesofx"])
def test_coco_folders_of_projects_with_such_names(tmp_path: Path, project: str) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / f"{split}.jpg")
        coco(tmp_path, [f"{split}.jpg"], f"annotations/{project}_{split}.json")
    if project != "captions":  # COCO's own name for another task
        assert find_splits(tmp_path) == ["train", "val"]
        assert [record.path.stem for record in load_split(tmp_path, "val").records] == ["val"]


def test_a_file_with_such_a_name_finds_its_images(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.jpg")
    path = coco(tmp_path, ["a.jpg"], "valley_defects.json")
    complete(path)
    assert find_splits(path) == ["train"]


@pytest.mark.parametrize("missing", ["val", "train"])
def test_data_check_exits_with_3_where_a_split_is_missing(
    tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "a")
    splits: dict[str, Any] = {"train": "images", "val": "images"} | {missing: "gone"}
    path = tmp_path / "data.yaml"
    path.write_text(f"train: {splits['train']}\nval: {splits['val']}\nnames: [x]")
    assert run("data", "check", path, "--plot", tmp_path / "grid.png") == 3
    assert f"{missing}: {path}: 'gone' not found" in capsys.readouterr().out
    assert (tmp_path / "grid.png").exists()
    assert run("data", "check", path, "--strict") == 3
    shutil.copytree(tmp_path / "images", tmp_path / "gone")
    os.rename(tmp_path / "labels", tmp_path / "lables")
    assert run("data", "check", path) == 0  # errors and warnings are no missing split
