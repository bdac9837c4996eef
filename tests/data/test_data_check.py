"""The report on a dataset agrees with what was put there, and the grid shows it."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.support import shared
from yolov9k.common.errors import UserError
from yolov9k.data.check import DataReport, Spread, check_data, plot_grid, print_report
from yolov9k.data.config import load_split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of 200 x 200. Train: boxes of 20, 50 and 100 pixels, a background, two issues. Val: one box."""
    labels = {
        "train/a": "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.5 0.5\n5 0.5 0.5 0.5 0.5\n",
        "train/b": "",
        "train/c": "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n",
        "val/d": "1 0.5 0.5 0.1 0.2\n",
    }
    for name, text in labels.items():
        for folder, suffix in (("images", ".png"), ("labels", ".txt")):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            path = (tmp_path / folder / name).with_suffix(suffix)
            if suffix == ".txt":
                path.write_text(text)
            else:
                Image.fromarray(np.full((200, 200, 3), 200, np.uint8)).save(path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: ['[cell]', dust]")
    return tmp_path / "data.yaml"


def printed(report: DataReport) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_counts(data: Path) -> None:
    report = check_data(data)
    train, val = report.splits
    assert (train.name, train.images, train.boxes, train.backgrounds, train.crowd) == ("train", 3, 4, 1, 0)
    assert (train.class_boxes, train.class_images) == ([3, 1], [2, 1])
    assert train.sizes == (2, 1, 1)
    assert train.widths == Spread(20, 35, 100)
    assert (val.images, val.sizes, val.heights) == (1, (1, 0, 0), Spread(40, 40, 40))
    assert report.fatal_count == 2
    assert [(issue.path.name, issue.line) for issue in report.issues] == [("a.txt", 4), ("c.txt", 2)]


def test_printed_report_names_every_fault(data: Path) -> None:
    report = check_data(data)
    text = printed(report)
    for issue in report.issues:
        assert str(issue) in text
    assert "2 errors, 0 warnings" in text
    assert "[cell]" in text  # brackets in names are no markup


def test_a_split_that_cannot_be_read_does_not_hide_the_others(data: Path) -> None:
    data.write_text("train: images/train\nval: images/gone\nnames: [x, y]")
    report = check_data(data)
    assert [split.name for split in report.splits] == ["train"]
    assert report.fatal_count == 3
    assert "images/gone" in printed(report)


def test_strict(data: Path) -> None:
    with pytest.raises(UserError, match="2 errors in train"):
        check_data(data, strict=True)


def test_split_without_boxes(data: Path) -> None:
    (data.parent / "labels" / "val" / "d.txt").write_text("")
    val = check_data(data).splits[1]
    assert (val.boxes, val.class_boxes, val.sizes, val.widths) == (0, [0, 0], (0, 0, 0), Spread(0, 0, 0))


def test_bccd_report() -> None:
    report = check_data(shared("data/bccd"))
    assert [(split.images, split.boxes) for split in report.splits] == [(205, 2804), (87, 1137), (72, 945)]
    assert report.fatal_count == 2
    assert "BloodImage_00343.xml:50" in printed(report)


def test_coco_demo_report() -> None:
    report = check_data(shared("data/coco-demo"))
    assert [(split.images, split.boxes, split.crowd) for split in report.splits] == [(27, 148, 1)]
    assert sum(report.splits[0].sizes) == 148


def test_grid_draws_boxes_where_they_are(data: Path, tmp_path: Path) -> None:
    split = load_split(data, "val")
    path = plot_grid(split, tmp_path / "new" / "grid.png", count=4)
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (480, 480, 3)
    changed = (image != 200).any(2)
    rows, columns = np.nonzero(changed)
    assert abs(int(columns.min()) - 216) <= 1  # left side of the box: 0.45 * 480, and lines are two wide
    assert abs(int(rows.max()) - 288) <= 1  # its bottom: 0.6 * 480
    assert not changed[210:270, 230:250].any()  # nothing is drawn over the object


def test_grid_is_drawn_by_its_seed(data: Path, tmp_path: Path) -> None:
    split = load_split(data, "train")
    files = [plot_grid(split, tmp_path / f"{n}.png", count=1, seed=seed) for n, seed in enumerate([0, 0, 1, 2, 3])]
    images = [file.read_bytes() for file in files]
    assert images[0] == images[1]
    assert len(set(images)) > 1
    assert cv2.imread(str(plot_grid(split, tmp_path / "all.png"))).shape == (960, 960, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["grid", "grid.jpg"])
def test_a_grid_is_a_png_whatever_its_name(data: Path, tmp_path: Path, name: str) -> None:
    path = plot_grid(load_split(data, "train"), tmp_path / name, count=1)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_grid_errors(data: Path, tmp_path: Path) -> None:
    split = load_split(data, "train")
    with pytest.raises(UserError, match="no image of train"):
        plot_grid(split, tmp_path / "x.png", count=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        plot_grid(split, tmp_path / "file" / "x.png")
