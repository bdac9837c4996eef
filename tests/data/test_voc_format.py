"""Pascal VOC: what is read, and what is said about each thing that can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data_cases import only_issue, write_image
from tests.support import shared
from yolov9k.data.config import load_split
from yolov9k.data.formats.voc import read_voc

OBJECT = "<object>\n<name>{}</name>\n<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>\n"


def voc(root: Path, objects: dict[str, str | None], lists: dict[str, str] | None = None) -> Path:
    for stem, body in objects.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg", 100, 50)
        (root / "Annotations").mkdir(exist_ok=True)
        if body is not None:
            text = f"<annotation>\n<size><width>100</width><height>50</height></size>\n{body}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
    for part, text in (lists or {}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text(text)
    return root


def test_voc_boxes_stand_as_they_are_and_names_span_all_splits(tmp_path: Path) -> None:
    objects: dict[str, str | None] = {
        "a": OBJECT.format("dog", 10, 10, 30, 40) + OBJECT.format("cat", 1, 1, 100, 50),
        "b": OBJECT.format("bird", 5, 5, 10, 10),
    }
    root = voc(tmp_path, objects, {"train": "a\n", "val": "b  1\n", "bird_val": "b 1\n"})
    train, val = load_split(root, "train"), load_split(root, "val")
    assert train.names == val.names == ["bird", "cat", "dog"]
    assert train.issues == val.issues == []
    assert [record.path.stem for record in train.records] == ["a"]
    assert [record.path.stem for record in val.records] == ["b"]
    assert train.records[0].classes.tolist() == [2, 1]
    expected = np.array([[0.1, 0.2, 0.3, 0.8], [0.01, 0.02, 1, 1]], np.float32)
    np.testing.assert_array_equal(train.records[0].boxes, expected)
    assert train.records[0].pixel_boxes[0].round(2).tolist() == [10, 10, 30, 40]


@pytest.mark.parametrize(
    ("body", "words", "fatal"),
    [
        (OBJECT.format("dog", 10, 10, 10, 40), "dog box 10 10 10 40 has no area", True),
        (OBJECT.format("dog", 40, 10, 10, 40), "has no area", True),
        (OBJECT.format("dog", "nan", 10, 10, 40), "not a finite number", True),
        (OBJECT.format("dog", "", 10, 10, 40), "? 10 10 40", True),
        (OBJECT.format("dog", 90, 10, 120, 40), "clipped", False),
        (OBJECT.format("dog", 1, 1, 9, 9), "duplicate", True),
    ],
)
def test_voc_bad_object_is_told_with_its_line(tmp_path: Path, body: str, words: str, fatal: bool) -> None:
    issue = only_issue(load_split(voc(tmp_path, {"a": OBJECT.format("dog", 1, 1, 9, 9) + body}), "train"))
    assert str(issue).startswith(f"{tmp_path / 'Annotations' / 'a.xml'}:6: ")
    assert words in issue.message
    assert issue.fatal == fatal


def test_voc_class_outside_given_names(tmp_path: Path) -> None:
    voc(tmp_path / "voc", {"a": OBJECT.format("dog", 1, 1, 9, 9) + OBJECT.format("cow", 1, 1, 9, 9)})
    (tmp_path / "data.yaml").write_text("train: voc\nnames: [cat, dog]")
    split = load_split(tmp_path / "data.yaml", "train")
    assert "'cow' is not in names (cat, dog)" in only_issue(split).message
    assert split.records[0].classes.tolist() == [1]


def test_voc_broken_xml_missing_image_and_label(tmp_path: Path) -> None:
    objects: dict[str, str | None] = {"a": "<object>\n</wrong>", "b": None, "c": OBJECT.format("dog", 1, 1, 9, 9)}
    root = voc(tmp_path, objects, {"train": "a\nb\nc\ngone\n"})
    (root / "Annotations" / "lost.xml").write_text("<annotation/>")
    split = load_split(root, "train")
    told = {str(issue).removeprefix(f"{root}{os.sep}").replace(os.sep, "/"): issue.fatal for issue in split.issues}
    starts = [
        ("Annotations/a.xml:4: not valid XML", True),
        ("JPEGImages/b.jpg: image without a label", False),
        ("ImageSets/Main/train.txt:4: image not found", True),
        ("Annotations/lost.xml: label without an image", False),
    ]
    assert len(told) == len(starts)
    for start, fatal in starts:
        assert [fatal] == [value for text, value in told.items() if text.startswith(start)], (start, told)
    assert [record.path.stem for record in split.records] == ["b", "c"]


@pytest.mark.long
def test_bccd() -> None:
    root = shared("data/bccd")
    splits = [load_split(root, name) for name in ("train", "val", "test")]
    assert [len(split.records) for split in splits] == [205, 87, 72]
    assert all(split.names == ["Platelets", "RBC", "WBC"] for split in splits)
    issues = [issue for split in splits for issue in split.issues]
    assert sorted(issue.path.stem for issue in issues) == ["BloodImage_00338", "BloodImage_00343"]
    assert all(issue.fatal and issue.line and "no area" in issue.message for issue in issues)
    assert sum(len(record.classes) for split in splits for record in split.records) + len(issues) == 4888
    assert len(read_voc(root, "trainval").images) == 292


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("GB2312", "gb18030"), ("Shift_JIS", "cp932"), ("EUC-KR", "cp949"), ("utf8", "utf-8"), ("windows-31j", "cp932"),
     ("x-sjis", "cp932"), ("ks_c_5601-1987", "cp949"), ("windows-949", "cp949"), ("x-gbk", "gb18030"), ("GBK", "gb18030"),
     ("x-euc-jp", "euc-jp"), ("x-unicode20utf8", "utf-8"), ("Windows-31J", "cp932")],
)  # fmt: skip
def test_voc_files_declare_their_encoding(tmp_path: Path, declared: str, encoding: str) -> None:
    name = {"cp949": "고양이"}.get(encoding, "日本")
    root = voc(tmp_path, {"a": OBJECT.format(name, 1, 1, 9, 9)})
    path = root / "Annotations" / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>\n{path.read_text(encoding="utf-8")}'.encode(encoding))
    split = load_split(root, "train")
    assert (split.names, split.issues) == ([name], [])


def test_voc_file_that_cannot_be_decoded_costs_no_other(tmp_path: Path) -> None:
    root = voc(tmp_path, dict.fromkeys("abc", OBJECT.format("dog", 1, 1, 9, 9)))
    (root / "Annotations" / "a.xml").write_bytes(b'<?xml version="1.0" encoding="klingon"?><annotation/>')
    (root / "Annotations" / "b.xml").write_bytes(b"<annotation>\xe9</annotation>")
    split = load_split(root, "train")
    assert [issue.path.name for issue in split.fatal_issues] == ["a.xml", "b.xml"]
    assert all("not valid XML" in issue.message for issue in split.fatal_issues)
    assert [record.path.stem for record in split.records] == ["c"]
