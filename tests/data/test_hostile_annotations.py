"""Annotation files that nobody wrote by hand: each is one short line about its file, and the rest of the data set is read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_cases import BOX, only_issue, write_image, write_yolo
from yolov9k.common.errors import UserError
from yolov9k.data.config import read_split
from yolov9k.data.formats.outlines import join_outlines
from yolov9k.data.records import Split

LONG = 500  # characters of a message, its paths aside
HUGE = 10**400
OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
HEAD = '<?xml version="1.0" encoding="{}"?>'
NAMES = ("~nobody-is-called-so/x.jpg", "a" * 300, "a/" * 3000 + "x.jpg", "\0", "x\0.jpg", "..", "/", "images", "*" * 40)
if os.name != "nt":
    NAMES += ("\ud800.jpg",)


def check_messages(split: Split, root: Path) -> None:
    for issue in split.issues:
        text = str(issue).replace(str(root), "")
        assert "\n" not in text.replace("\\n", "")
        assert len(text) < LONG + len(str(issue.path)), text[:1000]


# YOLO labels, lists, data.yaml


@pytest.mark.parametrize("name", NAMES)
def test_any_name_in_a_list_is_one_issue(tmp_path: Path, name: str) -> None:
    write_yolo(tmp_path, {"a": BOX})
    (tmp_path / "list.txt").write_bytes(f"images/a.jpg\n{name}\n".encode("utf-8", "replace"))
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [a]\n")
    split = read_split(tmp_path / "data.yaml", "train")
    assert [record.path.name for record in split.records] == ["a.jpg"]
    assert len(split.fatal_issues) == 1
    check_messages(split, tmp_path)


@pytest.mark.parametrize("key", ["train", "path"])
@pytest.mark.parametrize("name", [*NAMES, "**/" * 40 + "x.jpg", "x\0*", "a/" * 3000 + "*", "["])
def test_any_path_in_data_yaml_is_one_line(tmp_path: Path, key: str, name: str) -> None:
    if key == "train" and name in ("images", "..", "*" * 40):
        return  # these lead to folders
    write_yolo(tmp_path, {"a": BOX})
    keys = {"train": "nowhere", "names": ["a"], key: name}
    (tmp_path / "data.yaml").write_text(json.dumps(keys).replace("\\ud800", "\\uFFFD"))
    with pytest.raises(UserError) as caught:
        read_split(tmp_path / "data.yaml", "train")
    assert str(caught.value).startswith(str(tmp_path / "data.yaml"))
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling", "loop", "device"])
def test_what_is_no_file_in_place_of_labels_or_a_list(tmp_path: Path, kind: str) -> None:
    def put(path: Path) -> None:
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to({"dangling": "nowhere", "loop": path.name, "device": "/dev/zero"}[kind])

    write_yolo(tmp_path, {"a": BOX, "b": None})
    put(tmp_path / "labels" / "b.txt")
    split = read_split(tmp_path / "data.yaml", "train")
    assert len(split.fatal_issues) == 1
    assert "label file cannot be read" in split.fatal_issues[0].message
    assert sum(len(record.classes) for record in split.records) == 1
    put(tmp_path / "list.txt")
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [a]\n")
    if kind == "folder":
        with pytest.raises(UserError, match="train is empty: no image found"):
            read_split(tmp_path / "data.yaml", "train")
    else:
        with pytest.raises(UserError, match=r"list\.txt"):
            read_split(tmp_path / "data.yaml", "train")


def test_the_root_of_the_file_system_is_no_data_set(tmp_path: Path) -> None:
    for keys in ("train: /\n", "path: /\ntrain: .\n", "train: /..\n"):
        (tmp_path / "data.yaml").write_text(f"{keys}names: [a]\n")
        with pytest.raises(UserError, match="is the root of the file system"):
            read_split(tmp_path / "data.yaml", "train")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nc: 30000000", "more than 100,000 classes"),
        ("nc: 100000000000", "more than 100,000 classes"),
        ("names: {0: a, 99999999: b}", "names goes up to class 99,999,999, more than 100,000 classes"),
        (f"names: [[{'x, ' * 10_000}]]", "name of class 0 is ['x', 'x'"),
        (f"names: {'x' * 10_000}", "names is 'xxx"),
        (f"{'k' * 1000}: 1", "not found, looked in"),
        (f"names: [a]\npath: {'p' * 10_000}", "not found, looked in"),
        (f"names: [a]\nval: [[{'x, ' * 10_000}]]", "val holds ['x', 'x'"),
        ("names: !!set {a, b}", "names is {"),
        ("nc: 2024-01-01", "nc is datetime.date(2024, 1, 1)"),
    ],
)
def test_any_value_in_data_yaml_is_one_short_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: nowhere\n{text}\n")
    with pytest.raises(UserError) as caught:
        read_split(tmp_path / "data.yaml", "train")
    assert words in str(caught.value)
    assert len(str(caught.value)) < LONG + 3 * len(str(tmp_path))


def test_twenty_thousand_class_names(tmp_path: Path) -> None:
    names = [f"class {number // 2}" for number in range(20_000)]
    write_yolo(tmp_path, {"a": BOX}, json.dumps(names))
    assert read_split(tmp_path / "data.yaml", "train").names == names


ENCODINGS = {"bom": "utf-8-sig", "utf-16": "utf-16", "utf-16 without a mark": "utf-16-le", "utf-32": "utf-32"}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_text_of_a_data_set_in_any_encoding(tmp_path: Path, kind: str) -> None:
    write_yolo(tmp_path, {"a": BOX, "b": f"{BOX}\n1 0.5 0.5 0.1 0.1\n"})
    texts = {"list.txt": "images\\a.jpg\r\nimages/b.jpg\r\n", "data.yaml": "train: list.txt\r\nnames: [ä, b]\r\n"}
    for label in ("a", "b"):
        texts[f"labels/{label}.txt"] = (tmp_path / "labels" / f"{label}.txt").read_text()
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode(ENCODINGS[kind]))
    split = read_split(tmp_path / "data.yaml", "train")
    assert split.issues == []
    assert split.names == ["ä", "b"]
    assert [len(record.classes) for record in split.records] == [1, 2]


def test_backslashes_in_data_yaml(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set" / "one", {"a": BOX})
    for keys in (
        "train: set\\one\\images",
        "path: set\\one\ntrain: images",
        "train: ..\\set\\one\\images",
        "train: set\\*\\images",
    ):
        (tmp_path / "data.yaml").write_text(f"{keys}\nnames: [a]\n")
        assert len(read_split(tmp_path / "data.yaml", "train").records) == 1, keys


# COCO


def coco(root: Path, **changes: Any) -> Path:
    """A file of two images and two objects; keys such as `images_id` change the first entry of that list."""
    data: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 20, "width": 40} for n in (1, 2)],
        "categories": [{"id": n, "name": name} for n, name in ((1, "a"), (7, "b"))],
        "annotations": [{"id": n, "image_id": n, "category_id": 7, "bbox": [1, 2, 10, 9], "area": 90} for n in (1, 2)],
    }
    for key, value in changes.items():
        entry, _, field = key.partition("_")
        data[entry][0][field] = value
    for n in (1, 2):
        write_image(root / f"{n}.png")
    (root / "train.json").write_text(json.dumps(data))
    return root / "train.json"


VALUES = [
    HUGE,
    -HUGE,
    float("inf"),
    float("nan"),
    "x" * 10_000,
    "\0",
    "\ud800",
    [HUGE] * 4,
    [[HUGE] * 6],
    {"a": "b" * 9999},
    None,
    [[]] * 999,
]
FIELDS = [
    "images_id", "images_file_name", "images_height", "images_width", "categories_id", "categories_name", "annotations_id",
    "annotations_image_id", "annotations_category_id", "annotations_bbox", "annotations_area", "annotations_segmentation",
    "annotations_iscrowd",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_in_coco(tmp_path: Path, field: str) -> None:
    for value in VALUES:
        path = coco(tmp_path, **{field: value})
        if field.startswith("categories"):
            with suppress(UserError):
                read_split(path, "train")
            continue
        split = read_split(path, "train")
        check_messages(split, tmp_path)
        assert sum(len(record.classes) for record in split.records) >= 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' * 50_000, f"[{'9' * 5000}]", "", "[1", '{"a": NaN}', "\x00"])
def test_json_of_any_kind_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_split(path, "train")
    assert len(str(caught.value)) < LONG


def test_long_outlines_are_joined_in_little_memory(tmp_path: Path) -> None:
    """All distances of these two would be 18.6 GiB."""
    circle = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    parts = [np.stack([np.cos(circle) + x, np.sin(circle)], 1).astype(np.float32) for x in (0, 5)]
    joined = join_outlines(parts)
    assert len(joined) == 100_002
    after = np.roll(joined, -1, 0).astype(np.float64)
    area = 0.5 * np.abs((joined[:, 0] * after[:, 1] - after[:, 0] * joined[:, 1]).sum())
    assert area == pytest.approx(2 * np.pi, rel=1e-4)  # of both: the bridge has none
    many = join_outlines([np.array([[n, 0], [n + 0.5, 0], [n, 1]], np.float32) for n in range(1000)])
    assert len(many) == 3 * 1000 + 2 * 999


def test_very_many_outlines_are_joined_without_copying_all_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied corners grow with the number of outlines, not with its square."""
    copied = 0
    concatenate = np.concatenate

    def counting(parts: Any) -> Any:
        nonlocal copied
        joined = concatenate(parts)
        copied += len(joined)
        return joined

    monkeypatch.setattr(np, "concatenate", counting)
    corner = np.array([[0, 0], [0.5, 0], [0, 1]], np.float32)
    joined = join_outlines([np.add(corner, (n % 60, n // 60), dtype=np.float32) for n in range(4000)])
    monkeypatch.undo()
    assert len(joined) == 3 * 4000 + 2 * 3999
    assert copied < 200 * len(joined)
    after = np.roll(joined, -1, 0)
    area = 0.5 * abs((joined[:, 0] * after[:, 1] - after[:, 0] * joined[:, 1]).sum())
    assert area == pytest.approx(4000 * 0.25)


# Pascal VOC


def voc(root: Path, text: str | bytes) -> Path:
    for name in ("bad", "good"):
        write_image(root / "JPEGImages" / f"{name}.jpg")
    folder = root / "Annotations"
    folder.mkdir(exist_ok=True)
    (folder / "good.xml").write_text(f"<annotation>{OBJECT.format('cell')}</annotation>")
    (folder / "bad.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
REFUSED = {
    "entities": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation><object><name>&l9;</name></object></annotation>',
    "parameter entities": '<!DOCTYPE a [<!ENTITY % p "x">]><annotation/>',
    "outer entities": '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
    "default attributes": f'<!DOCTYPE a [<!ATTLIST b c CDATA "{"x" * 100_000}">]><a>{"<b/>" * 10_000}</a>',
    "deep": "<a>" * 300_000,
    "deep and ended": "<a>" * 100_000 + "</a>" * 100_000,
    "a zero byte": b"<annotation>\0</annotation>",
    "nothing": b"",
    **{name: HEAD.format(name) + "<annotation/>" for name in ("foo", "base64", "rot13", "idna", "utf-7", "punycode", "hex")},
    "unicode-escape": HEAD.format("unicode-escape") + r"<annotation>\ud800</annotation>",
    "no GB2312": HEAD.format("gb2312").encode() + b"<annotation>\xff\xff</annotation>",
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_xml_that_is_refused_is_one_issue(tmp_path: Path, kind: str) -> None:
    split = read_split(voc(tmp_path, REFUSED[kind]), "train")
    assert [record.path.stem for record in split.records] == ["good"]
    issue = only_issue(split)
    assert issue.fatal
    assert issue.path.name == "bad.xml"
    check_messages(split, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        f"<object><name>{chr(10) * 1_000_000}</name></object>",
        f"<object><name>{'n' * 100_000}</name></object>" * 3,
        OBJECT.format("cell").replace(">1<", f">{'1' * 100_000}<"),
        OBJECT.format("cell").replace(">1<", f">{'1' * 100_000}x<"),
        OBJECT.format("cell").replace(">1<", ">1e999<"),
        "<object/>" * 100,
    ],
)
def test_objects_that_cannot_be_are_issues(tmp_path: Path, text: str) -> None:
    split = read_split(voc(tmp_path, f"<annotation>{text}</annotation>"), "train")
    assert sum(len(record.classes) for record in split.records) == 1
    assert split.fatal_issues
    check_messages(split, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        f"<size><width>{'9' * 5000}</width><height>5</height></size>",
        "".join(OBJECT.format(f"n{n}") for n in range(3000)),
        f"<!-- {'-' * 0}{'x' * 100_000} -->{OBJECT.format('cell')}",
    ],
)
def test_what_is_long_and_no_fault(tmp_path: Path, text: str) -> None:
    assert len(read_split(voc(tmp_path, f"<annotation>{text}</annotation>"), "train").records) == 2


NAMED = {
    "gb2312": "车", "gbk": "鎔", "gb18030": "猫", "big5": "貓", "shift_jis": "車", "euc-kr": "고양이", "utf8": "猫",
    "utf-16": "猫", "latin-1": "zoë",
}  # fmt: skip


@pytest.mark.parametrize(("encoding", "name"), NAMED.items())
def test_names_in_the_encoding_that_is_declared(tmp_path: Path, encoding: str, name: str) -> None:
    text = f"{HEAD.format(encoding)}<annotation>{OBJECT.format(name)}</annotation>"
    split = read_split(voc(tmp_path, text.encode(encoding)), "train")
    assert split.issues == []
    assert sorted(split.names) == sorted(["cell", name])
