"""A new format is a class and its registration: it is opened, listed, checked and trained on without another change."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.data_cases import write_image, write_yolo
from yolov9k.common.errors import UserError
from yolov9k.common.text import read_text
from yolov9k.config.recipe import TrainRecipe
from yolov9k.data.check import check_data
from yolov9k.data.config import find_splits, load_split
from yolov9k.data.formats import base
from yolov9k.data.formats.base import AnnotatedImage, Annotation, Format, Listing, register, registered_formats
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.loader import make_loader
from yolov9k.data.records import DataIssue


class Table(Format):
    """Tables with a row an object: split, image, class, x1, y1, x2, y2 in pixels."""

    dataset = "a .table file"
    entry = "a .table file of one split"

    def open(self, path: Path) -> DatasetLayout | None:
        if path.suffix != ".table":
            return None
        splits = dict.fromkeys(row["split"] for row in self.rows(path))
        return DatasetLayout(path, None, {split: [str(path)] for split in splits}, [path.parent])

    def accepts(self, path: Path) -> bool:
        return path.suffix == ".table"

    def read(self, paths: Sequence[Path], split: str, names: Sequence[str] | None, layout: DatasetLayout) -> Listing:
        rows = [(path, number, row) for path in paths for number, row in enumerate(self.rows(path), 2)]
        found = list(names or sorted({row["class"] for _, _, row in rows}))
        images: dict[Path, AnnotatedImage] = {}
        listing = Listing(found, list(range(len(found))), [])
        for path, number, row in rows:
            if row["split"] != split:
                continue
            place = path.parent / row["image"]
            image = images.setdefault(place, AnnotatedImage(place, path, [], pixels=True, line=number))
            if row["class"] in found:
                x1, y1, x2, y2 = (float(row[key]) for key in ("x1", "y1", "x2", "y2"))
                image.annotations.append(Annotation(found.index(row["class"]), (x1, y1, x2, y2), f"row {number}", number))
            else:
                listing.issues.append(DataIssue(path, number, f"class {row['class']} is not in names; add it", fatal=True))
        listing.images = list(images.values())
        return listing

    @staticmethod
    def rows(path: Path) -> list[dict[str, str]]:
        return list(csv.DictReader(read_text(path).splitlines()))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images of 40 x 20 to train on, one of them with a box beyond it, and one to validate on."""
    monkeypatch.setattr(base, "_registered", list(registered_formats()))
    register(Table())
    for name in "abc":
        write_image(tmp_path / f"{name}.png")
    rows = ["train,a.png,dog,10,5,30,15", "train,a.png,cat,0,0,8,8", "train,b.png,dog,90,0,99,9", "val,c.png,cat,4,4,9,9"]
    (tmp_path / "file.table").write_text("split,image,class,x1,y1,x2,y2\n" + "\n".join(rows))
    return tmp_path / "file.table"


def test_a_data_set_of_a_new_format_is_loaded_and_checked(table: Path) -> None:
    assert find_splits(table) == ["train", "val"]
    split = load_split(table, "train")
    assert (split.names, [record.path.name for record in split.records]) == (["cat", "dog"], ["a.png", "b.png"])
    assert split.records[0].classes.tolist() == [1, 0]
    assert split.records[0].boxes[0].tolist() == [0.25, 0.25, 0.75, 0.75]
    assert [str(issue) for issue in split.issues] == [f"{table}:4: row 4 lies outside the image; correct or remove it"]
    report = check_data(table)
    assert [(part.name, part.images, part.boxes) for part in report.splits] == [("train", 2, 2), ("val", 1, 1)]
    assert report.fatal_count == 1


def test_a_new_format_is_trained_on(table: Path) -> None:
    loader = make_loader(load_split(table, "train"), TrainRecipe(), img_size=32, batch=2, augment=True, workers=0, epochs=20)
    (batch,) = loader
    assert batch.images.shape == (2, 3, 32, 32)
    (batch,) = make_loader(load_split(table, "val"), TrainRecipe(), img_size=32, batch=2, augment=False, workers=0)
    assert batch.boxes[0, 0, 0] == 0
    assert batch.counts.tolist() == [1]


def test_a_data_yaml_lists_it_among_others_and_its_names_count(table: Path) -> None:
    """The new format, which is asked first, also gives the classes where nobody else does."""
    write_yolo(table.parent / "yolo", {"y": "1 0.5 0.5 0.2 0.4"})
    (table.parent / "both.yaml").write_text("train: [yolo/images, file.table]\n")
    split = load_split(table.parent / "both.yaml", "train")
    assert split.names == ["cat", "dog"]
    assert [record.path.stem for record in split.records] == ["a", "b", "y"]
    assert split.records[2].classes.tolist() == [1]
    (table.parent / "both.yaml").write_text("train: [yolo/images, file.table]\nnames: [dog]\n")
    issues = [str(issue) for issue in load_split(table.parent / "both.yaml", "train").fatal_issues]
    assert any("file.table:3: class cat is not in names" in issue for issue in issues)


def test_messages_name_it(table: Path) -> None:
    with pytest.raises(UserError, match=r"gone: not found; give a \.table file, a data\.yaml"):
        load_split(table.parent / "gone", "train")
    (table.parent / "x.yaml").write_text("train: notes.md\nnames: [x]")
    (table.parent / "notes.md").touch()
    with pytest.raises(UserError, match=r"notes\.md: not a folder, a \.txt list, .*, a \.table file of one split; correct"):
        load_split(table.parent / "x.yaml", "train")


def test_without_it_nothing_knows_the_table(tmp_path: Path) -> None:
    (tmp_path / "file.table").write_text("split,image,class,x1,y1,x2,y2\n")
    with pytest.raises(UserError, match=r"file\.table: not a dataset; give a data\.yaml"):
        find_splits(tmp_path / "file.table")


def test_only_their_own_files_name_formats() -> None:
    """Neither the reading of a split nor the report on it knows any."""
    root = Path(base.__file__).parents[1]
    names = {path.stem for path in (root / "formats").glob("*.py")} - {"__init__", "base", "checks", "layout"}
    assert names >= {"coco", "data_yaml", "voc", "yolo"}
    for path in root.glob("*.py"):
        assert not any(f"formats.{name}" in path.read_text(encoding="utf-8") for name in names), path
