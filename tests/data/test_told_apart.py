"""Files that say one thing in two ways, names that look alike, and files beside them that no one put there: in every format."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from tests.data_cases import only_issue, write_image
from tests.format_cases import LAYOUTS, TRAIN, coco_json, labelme_json, put, voc_xml
from yolov9k.common.errors import UserError
from yolov9k.data.config import find_splits, load_split

DOG = "<object><name>dog</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)
BOXES = "filename,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train = a.txt\ntrain = b.txt\nnames = obj.names\n", "obj.data:2: key 'train' stands twice, first in line 1"),
        (
            "train = a.txt\n#\nnames = obj.names\nNames = b.names\n",
            "obj.data:4: key 'names' stands twice, first in line 3",
        ),
        ("train = a.txt\nvalid = a.txt\nval = b.txt\nnames = obj.names\n", "val and valid are one split and state different"),
    ],
)
def test_darknet_keys_that_stand_twice(text: str, words: str, tmp_path: Path) -> None:
    put(tmp_path / "obj.names", "dog\n")
    with pytest.raises(UserError) as caught:
        find_splits(put(tmp_path / "obj.data", text))
    assert words in str(caught.value)


@pytest.mark.parametrize("other", ["valid", "validation"])
def test_two_spellings_of_a_split_in_a_data_yaml(other: str, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png", 100, 50)
    text = "train: images\nval: images\n{}: {}\nnames: [dog]\n"
    with pytest.raises(UserError, match=f"val and {other} are one split and state different files; keep one of them"):
        find_splits(put(tmp_path / "data.yaml", text.format(other, "elsewhere")))
    assert find_splits(put(tmp_path / "data.yaml", text.format(other, "images")))


@pytest.mark.parametrize(
    ("change", "tag"),
    [
        (("<name>dog</name>", "<name>dog</name><name>bird</name>"), "name"),
        (("</bndbox>", "</bndbox><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"), "bndbox"),
        (("<xmin>10</xmin>", "<xmin>10</xmin><xmin>20</xmin>"), "xmin"),
    ],
)
def test_an_object_of_voc_that_states_a_thing_twice(change: tuple[str, str], tag: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    put(tmp_path / "a.xml", f"<annotation>{DOG}{DOG.replace(*change)}</annotation>")
    split = load_split(tmp_path, "train")
    assert f"<{tag}> stands twice in one object" in str(only_issue(split))
    assert split.records[0].objects == 1


def test_parts_of_an_object_of_voc_have_names_and_boxes_of_their_own(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    put(tmp_path / "a.xml", f"<annotation>{DOG.replace('</object>', part * 2 + '</object>')}</annotation>")
    split = load_split(tmp_path, "train")
    assert (split.issues, split.names) == ([], ["dog"])


@pytest.mark.parametrize(
    ("head", "column"),
    [(f"{BOXES},class", "class"), (f"{BOXES},Class", "class"), (f"{BOXES},x_min", "xmin"), (f"{BOXES},FileName", "filename")],
)
def test_a_column_that_stands_twice(head: str, column: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    path = put(tmp_path / "train.csv", f"{head}\na.png,dog,10,10,30,40,bird\n")
    with pytest.raises(UserError, match=f"train.csv:1: column '{column}' stands twice"):
        load_split(path, "train")


def test_other_columns_may_stand_twice(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    path = put(tmp_path / "train.csv", f"{BOXES},note,note\na.png,dog,10,10,30,40,x,y\n")
    assert load_split(path, "train").records[0].objects == 1


@pytest.mark.parametrize(("column", "crowd"), [("IsGroupOf", True), ("iscrowd", True), ("difficult", False)])
def test_a_tables_flags_are_what_they_are_elsewhere(column: str, crowd: bool, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    path = put(tmp_path / "train.csv", f"{BOXES},{column}\na.png,dog,10,10,30,40,1\na.png,dog,50,10,70,40,0\n")
    assert load_split(path, "train").records[0].crowd.tolist() == [True, False]
    assert load_split(path, "train", difficult=True).records[0].crowd.tolist() == [crowd, False]


def test_two_images_of_one_labelme_file(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        write_image(tmp_path / name, 100, 50)
    put(tmp_path / "a.json", labelme_json("a", [("dog", (10, 10, 30, 40))], imagePath="a.jpg"))
    split = load_split(tmp_path, "train")
    assert [record.path.name for record in split.records] == ["a.jpg"]
    assert "a.png: image shares its label file" in str(only_issue(split))


def test_labelme_points_that_are_fractions_are_told(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 100, 50)
    put(tmp_path / "a.json", labelme_json("a", [("dog", (0.1, 0.2, 0.3, 0.4))]))
    issues = [str(issue) for issue in load_split(tmp_path, "train").issues]
    assert any("lie within 0..1, as fractions do, and are taken as pixels" in issue for issue in issues)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_copies_that_macos_leaves_beside_every_file(name: str, tmp_path: Path) -> None:
    place = LAYOUTS[name](tmp_path)
    wanted = {split: load_split(place, split) for split in find_splits(place)}
    for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(APPLE_DOUBLE)
    assert find_splits(place) == list(wanted)
    for split, before in wanted.items():
        after = load_split(place, split)
        assert [str(issue) for issue in after.issues] == [str(issue) for issue in before.issues]
        assert [record.path for record in after.records] == [record.path for record in before.records]
        assert [record.objects for record in after.records] == [record.objects for record in before.records]


@pytest.mark.parametrize(("kept", "stated"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("kind", ["labelme", "csv", "csv without suffix"])
def test_names_in_another_normal_form(kind: str, kept: str, stated: str, tmp_path: Path) -> None:
    name, other = (unicodedata.normalize(form, "é.png") for form in (kept, stated))
    write_image(tmp_path / name, 100, 50)
    if kind == "labelme":
        place = tmp_path
        text = json.loads(labelme_json("a", [("dog", (10, 10, 30, 40))]))
        put(tmp_path / "b.json", json.dumps(text | {"imagePath": f"..\\x\\{other}"}))
    else:
        shown = other if kind == "csv" else other.removesuffix(".png")
        place = put(tmp_path / "train.csv", f"{BOXES}\n{shown},dog,10,10,30,40\n")
    split = load_split(place, "train")
    assert ([record.path.name for record in split.records], split.issues) == ([name], [])
    assert split.records[0].objects == 1


def test_darknet_names_of_the_working_folder_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Darknet's own paths are relative to the folder that it is started in."""
    write_image(tmp_path / "d" / "a.png", 100, 50)
    put(tmp_path / "d" / "a.txt", "0 0.5 0.5 0.2 0.2\n")
    put(tmp_path / "d" / "train.txt", "a.png\n")
    put(tmp_path / "obj.names", "dog\n")
    path = put(tmp_path / "d" / "obj.data", "train = train.txt\nnames = obj.names\n")
    monkeypatch.chdir(tmp_path)
    assert load_split(path, "train").names == ["dog"]
    assert "'obj.names' is not beside the file; taken from the working folder" in capfd.readouterr().err
    put(tmp_path / "d" / "obj.names", "bird\n")
    assert load_split(path, "train").names == ["bird"]
    assert "working folder" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["pipe.json", "pipe.yaml", "pipe.csv", "pipe.data", "pipe.txt", "pipe"])
def test_a_pipe_is_no_data_set(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: no regular file and no folder; give"):
        load_split(tmp_path / name, "train")
    (tmp_path / "data.yaml").write_text(f"train: {name}\nnames: [dog]\n")
    with pytest.raises(UserError, match=name):
        load_split(tmp_path / "data.yaml", "train")


@pytest.mark.parametrize("ours", ["names: [x, y]", "nc: 2\nnames: [x, y]"])
def test_two_spellings_of_the_names_in_a_data_yaml(ours: str, tmp_path: Path) -> None:
    place = LAYOUTS["mit"](tmp_path)
    text = place.read_text()
    with pytest.raises(UserError, match="class_list and names are one key and state different things; keep one of them"):
        load_split(put(place, f"{text}{ours}\n"), "train")
    for same in ("[cat, dog]", "{0: cat, 1: dog}", "{'0': cat, '1': dog}"):
        assert load_split(put(place, f"{text}names: {same}\n"), "train").names == ["cat", "dog"]
    with pytest.raises(UserError, match="class_list and names are one key"):
        load_split(put(place, f"{text}names: {{0: dog, 1: cat}}\n"), "train")


@pytest.mark.parametrize("name", ["labelme", "voc-beside"])
def test_two_folders_of_one_split(name: str, tmp_path: Path) -> None:
    place = LAYOUTS[name](tmp_path)
    there = "valid" if (tmp_path / "valid").is_dir() else "val"
    shutil.copytree(tmp_path / "train", tmp_path / "validation")
    with pytest.raises(UserError, match=f"{there} and validation are one split and state different files; keep one of them"):
        load_split(place, "val")


@pytest.mark.parametrize("hidden", [".train", "@eaDir", "__MACOSX"])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_hidden_folders_beside_the_images(name: str, hidden: str, tmp_path: Path) -> None:
    place = LAYOUTS[name](tmp_path)
    wanted = find_splits(place)
    put(tmp_path / hidden / "_annotations.coco.json", coco_json(TRAIN))
    put(tmp_path / hidden / "_annotations.csv", f"{BOXES}\na.png,dog,10,10,30,40\n")
    put(tmp_path / hidden / "a.xml", f"<annotation>{DOG}</annotation>")
    assert find_splits(place) == wanted
    assert load_split(place, "train").issues == []


def test_hidden_files_beside_the_labels(tmp_path: Path) -> None:
    place = LAYOUTS["yolo"](tmp_path)
    put(tmp_path / "labels" / "train" / ".z.txt", "0 0.5 0.5 0.2 0.2\n")
    assert load_split(place, "train").issues == []


def test_a_hidden_xml_file_makes_no_voc_folder_of_a_coco_one(tmp_path: Path) -> None:
    place = LAYOUTS["coco"](tmp_path)
    put(tmp_path / "annotations" / "._instances.xml", "")
    assert find_splits(place) == ["train", "val"]


@pytest.mark.parametrize(("kept", "stated"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("suffix", [".json", ".xml"])
def test_a_label_file_in_another_normal_form_than_the_image_beside(kept: str, stated: str, suffix: str, tmp_path: Path) -> None:
    name, other = (unicodedata.normalize(form, "é") for form in (kept, stated))
    write_image(tmp_path / f"{name}.png", 100, 50)
    objects = [("dog", (10, 10, 30, 40))]
    put(tmp_path / f"{other}{suffix}", voc_xml(objects) if suffix == ".xml" else labelme_json("gone", objects))
    split = load_split(tmp_path, "train")
    assert ([record.objects for record in split.records], split.issues) == ([1], [])


@pytest.mark.parametrize("given", ["obj.data", "."])
def test_a_darknet_file_of_the_working_folder_has_its_lists_beside_it(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(LAYOUTS["darknet"](tmp_path))
    assert load_split(Path(given), "train").issues == []
    assert "working folder" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "pipe"),
    [
        ("csv-tensorflow", "train_labels.csv"),
        ("voc", "ImageSets/Main/train.txt"),
        ("darknet", "obj.data"),
        ("yolo", "data.yaml"),
    ],
)
def test_a_pipe_in_a_data_set_is_told(name: str, pipe: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    (tmp_path / pipe).unlink()
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(UserError, match=f"{pipe}: cannot be read"):
        load_split(tmp_path, "train")


def test_a_pipe_among_labelmes_files_is_an_issue(tmp_path: Path) -> None:
    place = LAYOUTS["labelme"](tmp_path)
    (tmp_path / "train" / "a.json").unlink()
    os.mkfifo(tmp_path / "train" / "a.json")
    assert "a.json: cannot be read (not a regular file)" in str(only_issue(load_split(place, "train")))


def test_two_lists_of_one_split_in_a_voc_folder(tmp_path: Path) -> None:
    place = LAYOUTS["voc"](tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    val = next(path for path in lists.iterdir() if path.stem in ("val", "valid"))
    other = lists / ("valid.txt" if val.stem == "val" else "val.txt")
    other.write_text(val.read_text())
    assert len(load_split(place, "val").records) == len(val.read_text().split())
    other.write_text((lists / "train.txt").read_text())
    with pytest.raises(UserError, match=r"val.txt and valid.txt are one split and list different images; keep one of them"):
        load_split(place, "val")


def test_a_voc_list_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    place = LAYOUTS["voc"](tmp_path)
    listed = tmp_path / "ImageSets" / "Main" / "train.txt"
    listed.unlink()
    listed.symlink_to("elsewhere.txt")
    with pytest.raises(UserError, match=r"train.txt: cannot be read"):
        load_split(place, "train")
