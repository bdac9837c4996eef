"""What a path is taken for, what data.yaml may say, and which split of a dataset stands in for another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import shared
from yolov9k.common.errors import UserError
from yolov9k.data.config import find_splits, load_split


def images(folder: Path, *stems: str) -> Path:
    """Images with a label of class 0 each, laid out as folder/images and folder/labels."""
    for stem in stems:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images" / f"{stem}.png")
        (folder / "labels" / f"{stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    return folder


def stems(data: Path, split: str = "train") -> list[str]:
    return [record.path.stem for record in load_split(data, split).records]


def write(root: Path, text: str, name: str = "data.yaml") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return root / name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders one (a, b) and two (c)."""
    images(tmp_path / "one", "a", "b")
    images(tmp_path / "two", "c")
    return tmp_path


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("one/images", "ab"),
        ("one", "ab"),
        ("./one/images/", "ab"),
        ("[one, two/images]", "abc"),
        ("'*/images'", "abc"),
        ("'**/*.png'", "abc"),
        ("one/images/b.png", "b"),
        ("list.txt", "cab"),
        ("[list.txt, two]", "cabc"),
    ],
)
def test_entries(root: Path, entry: str, expected: str) -> None:
    (root / "list.txt").write_text(f"./two/images/c.png\none/images/a.png\n\n{root / 'one/images/b.png'}\n")
    split = load_split(write(root, f"train: {entry}\nnames: [x]"), "train")
    assert "".join(record.path.stem for record in split.records) == expected
    assert [record.image_id for record in split.records] == list(range(1, len(expected) + 1))
    assert all(len(record.classes) == 1 for record in split.records)
    assert [issue.kind for issue in split.issues] == ["images listed more than once, trained on as often"] * (
        expected == "cabc"
    )


def test_glob_leaves_labels_beside_the_images_alone(root: Path) -> None:
    (root / "one" / "images" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert stems(write(root, "train: one/images/*\nnames: [x]")) == ["a", "b"]


def test_absent_line_of_a_list_is_told_with_its_line(root: Path) -> None:
    (root / "list.txt").write_text("one/images/a.png\none/images/gone.png\n")
    split = load_split(write(root, "train: list.txt\nnames: [x]"), "train")
    assert [str(issue).startswith(f"{root / 'list.txt'}:2: image not found") for issue in split.issues] == [True]
    assert [record.path.stem for record in split.records] == ["a"]


@pytest.mark.parametrize("path", ["..", "../one/..", "absolute"])
def test_path_is_relative_to_the_file(root: Path, path: str) -> None:
    path = str(root) if path == "absolute" else path
    assert stems(write(root / "conf", f"path: {path}\ntrain: one/images\nnames: [x]")) == ["a", "b"]


def test_path_from_the_working_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert stems(write(root / "conf", "path: ./two\ntrain: images\nnames: [x]")) == ["c"]
    assert stems(write(root / "conf", "train: ./two/images\nnames: [x]")) == ["c"]
    relative = load_split(Path("conf/data.yaml"), "train")
    assert relative.records[0].path.is_absolute()


def test_absent_path_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stems(write(root, "path: /nowhere/data\ntrain: one/images\nnames: [x]")) == ["a", "b"]
    assert "'/nowhere/data' is not there" in capsys.readouterr().err


def test_roboflow_export(tmp_path: Path) -> None:
    root = tmp_path / "export"
    images(root / "train", "a")
    images(root / "valid", "b")
    text = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['x']\nroboflow:\n  license: MIT\n"
    path = write(root, text)
    assert (stems(path), stems(path, "val")) == (["a"], ["b"])
    images(tmp_path / "train", "really")  # where the entry is right it is obeyed
    assert stems(path) == ["really"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [x, y]", ["x", "y"]),
        ("names: {1: y, 0: x}", ["x", "y"]),
        ("names:\n  0: x\n  1: y\nnc: 2", ["x", "y"]),
        ("nc: 2", ["0", "1"]),
        ("names: [1, 2.5]", ["1", "2.5"]),
    ],
)
def test_names(root: Path, text: str, expected: list[str]) -> None:
    path = write(root, f"train: one\n{text}")
    assert load_split(path, "train").names == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: one\nnames: [x]\nnc: 2", "nc is 2 but there are 1 names"),
        ("train: one\nnames: [x]\nnc: two", "nc is 'two'"),
        ("train: one\nnames: {0: x, -2: y}", "number the classes 0, 1, 2 ..."),
        ("train: one\nnames: {0: x, 2: y}\nnc: 1", "nc is 1 but there are 3 names"),
        ("train: one\nnames: [yes, no]", "name of class 0 is True; put it in quotes"),
        ("train: one\nnames: x", "names is 'x'"),
        ("train: one\nnames: []", "names is"),
        ("train: one", "no names"),
        ("train: one\nnmaes: [x]", "no names for the classes of train"),
        ("train: one\nnames: [x\nnc: 1", "data.yaml:3: not a YAML file (while parsing a flow sequence"),
        ("names: [x]", "neither train nor val"),
        ("train: 5\nnames: [x]", "train holds 5"),
        ("train: gone/images\nnames: [x]", "'gone/images' not found, looked in"),
        ("train: empty\nnames: [x]", "train is empty: no image found"),
        ("train: list.doc\nnames: [x]", "not a folder, a .txt list"),
        ("path: 3\ntrain: one\nnames: [x]", "path is 3"),
        ("- one", "holds no keys"),
    ],
)
def test_bad_yaml_is_one_line_that_names_the_fault(root: Path, text: str, words: str) -> None:
    (root / "empty").mkdir()
    (root / "list.doc").write_text("")
    with pytest.raises(UserError) as caught:
        load_split(write(root, text), "train")
    assert words in str(caught.value)
    assert "data.yaml" in str(caught.value) or str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected", "warned"),
    [
        ("names: {0: x, 2: y}", "x 1 y", "names has no class 1; classes without a name are called by their number"),
        ("names: {1: x, 2: y}\nnc: 2", "0 x y", "names has no class 0;"),  # numbered from 1, nc counts names
        ("names: {0: x, 7: y}\nnc: 10", "x 1 2 3 4 5 6 y 8 9", "names has no class 1, 2, 3, 4, 5 and 3 more;"),
        ("names: [x]\nzzz: 1", "x", "key 'zzz' unknown and without effect; known are path, train"),
        ("names: [x]\nnc: 1\naugment: {a: 1}\nvla: two", "x", "keys 'augment', 'vla' unknown and without effect; did you mean"),
    ],
)
def test_gaps_and_keys_that_nobody_knows_are_told(
    root: Path, text: str, expected: str, warned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(root, f"train: one\n{text}")
    assert load_split(path, "train").names == expected.split()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: {warned}")


def test_two_classes_of_one_name_are_told_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(root, "train: one\nnames: [x, y, x, z, y]")
    assert load_split(path, "train").names == ["x", "y", "x", "z", "y"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: several classes have the same name (x, y)")


def test_keys_of_other_tools_are_read_past(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = "download: |\n  wget x\nkpt_shape: [17, 3]\nlicense: MIT\nauthor: me"
    path = write(root, f"train: one\nval: two\ntest:\nnames: [x]\n{others}")
    assert find_splits(path) == ["train", "val"]
    assert stems(path) == ["a", "b"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("parts", "split", "expected", "warned"),
    [
        ("train: one\nval: two", "val", ["c"], False),
        ("train: one\nvalid: two", "val", ["c"], False),
        ("train: one\ntest: two", "val", ["c"], True),
        ("train: one", "val", ["a", "b"], True),
        ("val: two", "train", ["c"], True),
    ],
)
def test_splits_stand_in(
    root: Path, capsys: pytest.CaptureFixture[str], parts: str, split: str, expected: list[str], warned: bool
) -> None:
    loaded = load_split(write(root, f"{parts}\nnames: [x]"), split)
    assert loaded.name == split
    assert [record.path.stem for record in loaded.records] == expected
    assert ("warning" in capsys.readouterr().err) == warned


def test_splits_that_nothing_stands_in_for(root: Path) -> None:
    path = write(root, "train: one\nval: two\nnames: [x]")
    with pytest.raises(UserError, match="no split 'test', there is train, val"):
        load_split(path, "test")
    with pytest.raises(UserError, match="'trian' is not one of train, val, test"):
        load_split(path, "trian")


def test_what_a_path_is_taken_for(root: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        load_split(root / "gone.yaml", "train")
    with pytest.raises(UserError, match="not a dataset"):
        load_split(root, "train")
    write(root, "train: one\nnames: [x]", "mine.yaml")
    assert stems(root) == ["a", "b"]
    write(root, "train: two\nnames: [x]", "other.yml")
    with pytest.raises(UserError, match=r"several YAML files \(mine.yaml, other.yml\)"):
        load_split(root, "train")
    write(root, "train: two\nnames: [x]")
    assert stems(root) == ["c"]


def coco(path: Path, image: Path, name: str = "dog") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    box = {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 1, 4, 4]}
    entry = {"id": 5, "file_name": image.name}
    categories = [{"id": 9, "name": name}, {"id": 2, "name": "z"}]
    path.write_text(json.dumps({"images": [entry], "annotations": [box], "categories": categories}))
    return path


def test_coco_folder_finds_its_splits_by_file_name(root: Path) -> None:
    coco(root / "annotations" / "instances_train2017.json", images(root / "a", "i") / "i.png")
    coco(root / "annotations" / "instances_val2017.json", images(root / "a", "j") / "j.png")
    for name in ("captions_val2017.json", "image_info_test2017.json"):
        (root / "annotations" / name).write_text("{}")
    (root / "a" / "images").rename(root / "images")
    assert find_splits(root) == ["train", "val"]
    assert load_split(root, "train").names == ["z", "dog"]
    assert stems(root) == ["i"]
    assert stems(root, "val") == ["j"]
    coco(root / "annotations" / "instances_minival.json", Path("i.png"))
    with pytest.raises(UserError, match="several COCO files for val"):
        load_split(root, "val")


def test_coco_in_yaml_goes_by_name(root: Path) -> None:
    coco(root / "val.json", images(root, "i") / "i.png")
    split = load_split(write(root, "val: val.json\nnames: [cat, dog]"), "val")
    assert (split.names, split.records[0].classes.tolist(), split.records[0].image_id) == (["cat", "dog"], [1], 5)
    assert split.category_ids == [10, 9]  # dog keeps its id, cat gets one that is free
    assert load_split(write(root, "val: val.json"), "val").names == ["z", "dog"]
    with pytest.raises(UserError, match="none of its categories"):
        load_split(write(root, "val: val.json\nnames: [cow]"), "val")


def test_roboflow_coco_export(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        images(tmp_path / "export", part)
        (tmp_path / "export" / part).mkdir()
        (tmp_path / "export" / "images" / f"{part}.png").rename(tmp_path / "export" / part / f"{part}.png")
        coco(tmp_path / "export" / part / "_annotations.coco.json", Path(f"{part}.png"))
    assert find_splits(tmp_path / "export") == ["train", "val"]
    assert stems(tmp_path / "export", "val") == ["valid"]


def test_single_cls(root: Path) -> None:
    (root / "one" / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.1 0.1")
    split = load_split(write(root, "train: one\nnames: [x, y]"), "train", single_cls=True)
    assert (split.names, len(split.category_ids)) == (["object"], 1)
    assert [record.classes.tolist() for record in split.records] == [[0, 0], [0]]
    assert load_split(write(root, "train: two\nnames: [only]"), "train", single_cls=True).names == ["only"]


def test_strict_counts_fatal_issues_and_shows_the_first(root: Path) -> None:
    (root / "one" / "labels" / "a.txt").write_text("7 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.1\n0 x 0 0 0\n9 0.5 0.5 0.5 0.5")
    path = write(root, "train: one\nval: two\nnames: [x]")
    assert len(load_split(path, "train").fatal_issues) == 4
    with pytest.raises(UserError) as caught:
        load_split(path, "train", strict=True)
    assert "4 errors in train" in str(caught.value)
    assert "a.txt:3" in str(caught.value)
    assert "a.txt:4" not in str(caught.value)
    (root / "two" / "labels" / "c.txt").unlink()
    assert load_split(path, "val", strict=True).issues  # a warning is no error


def test_no_label_at_all_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "two" / "labels").rename(root / "two" / "lables")
    assert stems(write(root, "train: two\nnames: [x]")) == ["c"]
    assert "none of the 1 images of train has a label" in capsys.readouterr().err


def test_splits_and_names_of_folders() -> None:
    assert load_split(shared("data/bccd"), "val").names == ["Platelets", "RBC", "WBC"]
    assert find_splits(shared("data/bccd")) == ["train", "val", "test"]
    assert load_split(shared("data/coco-demo"), "train").names[:2] == ["person", "bicycle"]
