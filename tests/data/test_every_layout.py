"""The same data set in every layout reads the same, and each is checked, loaded and drawn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.command_line import run
from tests.format_cases import LAYOUTS, NAMES, SPLITS, images, labelme_json, put, voc_xml, yolo
from yolov9k.common.errors import UserError
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.check import check_data
from yolov9k.data.config import find_splits, load_split
from yolov9k.data.loader import make_loader


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = LAYOUTS[layout](tmp_path)
    assert find_splits(path) == ["train", "val"]
    for name, stems in SPLITS.items():
        split = load_split(path, name)
        assert split.issues == []
        assert split.names == list(NAMES)
        assert [record.path.stem for record in split.records] == list(stems)
        for record, objects in zip(split.records, stems.values(), strict=True):
            assert record.classes.tolist() == [NAMES.index(name) for name, _ in objects]
            expected = np.array([box for _, box in objects], np.float32).reshape(-1, 4) / np.float32([100, 50, 100, 50])
            np.testing.assert_allclose(record.boxes, expected, atol=1e-6)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("layout", ["voc-beside", "labelme", "csv-kaggle", "darknet", "mit"])
def test_every_layout_is_checked_and_trained_on(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path)
    report = check_data(path)
    assert [(part.name, part.images, part.boxes, part.backgrounds) for part in report.splits] == [
        ("train", 2, 2, 1), ("val", 1, 1, 0)
    ]  # fmt: skip
    assert report.issues == []
    loader = make_loader(load_split(path, "train"), TrainRecipe(), img_size=32, batch=2, augment=True, workers=0, epochs=9)
    assert next(iter(loader)).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("layout", ["voc-beside", "labelme", "csv-retinanet"])
def test_classes_are_those_of_every_split(layout: str, tmp_path: Path) -> None:
    """Val has cats alone; a class that train lacks is one too."""
    path = LAYOUTS[layout](tmp_path)
    bird = [("bird", (1, 1, 9, 9))]
    folder = "val" if layout == "labelme" else "valid"
    images(path / folder, {"d": bird})
    if layout == "voc-beside":
        put(path / folder / "d.xml", voc_xml(bird))
    elif layout == "labelme":
        put(path / folder / "d.json", labelme_json("d", bird))
    else:
        table = path / folder / "_annotations.csv"
        table.write_text(f"{table.read_text()}d.png,1,1,9,9,bird\n")
    assert load_split(path, "train").names == load_split(path, "val").names == ["bird", "cat", "dog"]


@pytest.mark.parametrize("layout", ["voc", "voc-annots", "labelme", "csv-tensorflow"])
def test_a_data_yaml_may_list_it_with_names_in_an_order_of_its_own(layout: str, tmp_path: Path) -> None:
    LAYOUTS[layout](tmp_path / "set")
    entry = {"labelme": "set/train", "csv-tensorflow": "set/train_labels.csv"}.get(layout, "set")
    path = put(tmp_path / "data.yaml", f"train: {entry}\nnames: [dog, cat]\n")
    split = load_split(path, "train")
    assert split.names == ["dog", "cat"]
    assert split.records[0].classes.tolist() == [0, 1]
    put(tmp_path / "data.yaml", f"train: {entry}\nnames: [dog]\n")
    (issue,) = load_split(path, "train").fatal_issues
    assert "class 'cat' is not in names (dog)" in issue.message


@pytest.mark.parametrize("kind", ["xml", "json"])
def test_other_tools_files_beside_images_with_yolo_labels_do_not_count(kind: str, tmp_path: Path) -> None:
    path = yolo(tmp_path)
    text = voc_xml([("x", (1, 1, 9, 9))]) if kind == "xml" else labelme_json("a", [("x", (1, 1, 9, 9))])
    put(tmp_path / "images" / "train" / f"a.{kind}", text)
    assert load_split(path, "train").records[0].objects == 2


@pytest.mark.parametrize("other", ["docker-compose.yml", "hyp.yaml"])
def test_yaml_files_of_other_things_in_the_folder_are_left_alone(other: str, tmp_path: Path) -> None:
    path = LAYOUTS["voc"](tmp_path)
    put(path / other, "services: {web: {image: x}}\nlr0: 0.1\n")
    put(path / "broken.yaml", "a: [")
    assert find_splits(path) == ["train", "val"]
    put(path / "mine.yaml", "train: .\nnames: [dog, cat]\n")
    assert load_split(path, "train").names == ["dog", "cat"]


def test_a_folder_with_other_yaml_files_alone_says_what_it_needs(tmp_path: Path) -> None:
    put(tmp_path / "hyp.yaml", "lr0: 0.1\n")
    with pytest.raises(UserError, match=r"none of its YAML files \(hyp\.yaml\) lists train or val; give a data\.yaml"):
        find_splits(tmp_path)


def test_images_in_folders_of_jpegimages_are_told(tmp_path: Path) -> None:
    path = LAYOUTS["voc"](tmp_path)
    (path / "JPEGImages").rename(path / "part")
    (path / "JPEGImages").mkdir()
    (path / "part").rename(path / "JPEGImages" / "part")
    with pytest.raises(UserError, match=r"JPEGImages: has no images, its folders have \(part\); put the images directly"):
        load_split(path, "train")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coco8.yaml", "fetch https://github.com/ultralytics/assets/releases/download/v0.0.0/coco8.zip, unpack it"),
        ("COCO.yaml", "fetch train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org"),
        ("VOC.yaml", "the archives of 2007 and 2012"),
        ("dota8.yaml", "for another task than detection"),
        ("mine.yaml", "not found; give a data.yaml"),
        ("coco8", "not found; give a data.yaml"),
    ],
)
def test_built_in_names_of_ultralytics_say_what_to_download(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        find_splits(tmp_path / name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"obj.data": "names = obj.names\n"}, "obj.data: neither train nor valid is given"),
        ({"obj.data": "train = train.txt\nnames\n"}, "obj.data:2: 'names' is no 'key = value' line"),
        ({"obj.data": "train = train.txt\n"}, "obj.data: names is not given"),
        ({"obj.data": "train = train.txt\nnames = gone.names\n"}, "names leads to 'gone.names', which is not there"),
        ({"obj.data": "train = train.txt\nnames = obj.names\nclasses = 3\n"}, "classes is '3' but obj.names has 2 names"),
        ({"obj.data": "train = gone.txt\nnames = obj.names\n"}, "obj.data: 'gone.txt' not found"),
        ({"obj.names": " \n"}, "obj.names: holds 0 names"),
    ],
)
def test_a_faulty_darknet_file_is_one_line(change: dict[str, str], words: str, tmp_path: Path) -> None:
    path = LAYOUTS["darknet"](tmp_path)
    for name, text in change.items():
        put(path / name, text)
    with pytest.raises(UserError) as caught:
        load_split(path, "train")
    assert words in str(caught.value)


def test_images_that_a_darknet_list_asks_for_in_vain_are_told_with_their_line(tmp_path: Path) -> None:
    path = LAYOUTS["darknet"](tmp_path)
    (path / "obj_train_data" / "b.png").unlink()
    split = load_split(path, "train")
    assert str(split.fatal_issues[0]).startswith(f"{path / 'train.txt'}:2: image not found")


def test_a_coco_file_goes_by_names_of_other_capitals(tmp_path: Path) -> None:
    path = LAYOUTS["mit-coco"](tmp_path)
    put(path, path.read_text().replace("[cat, dog]", "[Dog, Cat]"))
    split = load_split(path, "train")
    assert (split.names, split.records[0].classes.tolist()) == (["Dog", "Cat"], [0, 1])


@pytest.mark.e2e
@pytest.mark.parametrize("layout", ["voc-beside", "labelme", "csv-tensorflow", "darknet", "mit"])
def test_a_layout_from_the_check_to_the_validation(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = LAYOUTS[layout](tmp_path / "set")
    common = ["--data", data, "--img", 64, "--workers", 0, "--device", "cpu"]
    assert run("data", "check", data, "--plot", tmp_path / "grid.png") == 0
    assert (tmp_path / "grid.png").exists()
    where = ["--project", tmp_path / "runs", "--name", "one"]
    assert run("train", "--cfg", "yolov9-t", "--epochs", 1, "--batch", 2, "--noplots", *common, *where) == 0
    weights = tmp_path / "runs" / "one" / "weights" / "best.pt"
    capsys.readouterr()
    assert run("val", "--weights", weights, *common, "--project", tmp_path / "val") == 0
    text = capsys.readouterr()
    assert "run: " in text.out
    assert "warning" not in text.err
