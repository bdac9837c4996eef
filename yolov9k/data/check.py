"""What a dataset holds and what is wrong with it, as a report to read before a long training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from yolov9k.common.arrays import Float32Array
from yolov9k.common.console import add_columns, literal, name_cell
from yolov9k.common.errors import LONGEST_LINE, UserError, one_line
from yolov9k.data.config import find_splits, open_dataset, read_split
from yolov9k.data.formats.layout import DatasetLayout
from yolov9k.data.grid import plot_grid
from yolov9k.data.records import DataIssue, Record, Split, count_fatal
from yolov9k.data.repeats import find_overlap

__all__ = ["DataReport", "SplitReport", "Spread", "check_data", "plot_grid", "print_report", "summarize"]
SMALL, MEDIUM = 32.0**2, 96.0**2  # areas in square pixels where COCO divides small from medium from large


class Spread(NamedTuple):
    """Smallest, median and largest of a quantity in pixels; all 0 when there is nothing to measure."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Float32Array) -> Spread:
        """The spread of `values`, float32 [n]."""
        if len(values) == 0:
            return cls(0, 0, 0)
        return cls(float(values.min()), float(np.median(values)), float(values.max()))


@dataclass
class SplitReport:
    """Counts of a split, boxes without the crowd regions, which `crowd` counts.

    `class_boxes` and `class_images` go by class; `sizes` counts small, medium and large boxes; `backgrounds` images
    without an object.
    """

    name: str
    names: list[str]
    images: int
    boxes: int
    crowd: int
    backgrounds: int
    class_boxes: list[int]
    class_images: list[int]
    sizes: tuple[int, int, int]
    widths: Spread
    heights: Spread
    issues: list[DataIssue]


@dataclass
class DataReport:
    """All splits of a dataset. `issues` holds each once, even if several splits share it.

    missing: names of the splits that could not be read.
    """

    source: Path
    splits: list[SplitReport]
    issues: list[DataIssue]
    missing: list[str] = field(default_factory=list)

    @property
    def fatal_count(self) -> int:
        """How many issues cost a row, a sample or a whole split."""
        return count_fatal(self.issues)


def check_data(
    path: str | Path, *, strict: bool = False, difficult: bool = False, keep_empty_classes: bool = False
) -> DataReport:
    """Read every split of a dataset and report on it.

    A split that cannot be read is a fatal issue of the report. Raises UserError when the dataset itself cannot be
    understood, and with `strict` at the first split that has a fatal issue. difficult, keep_empty_classes: as in
    `load_split`.
    """
    layout = replace(open_dataset(Path(path)), keep_empty_classes=keep_empty_classes)
    names = find_splits(layout)
    read = {name: _read(layout, Path(path), name, strict=strict, difficult=difficult) for name in names}
    splits = {name: split for name, split in read.items() if isinstance(split, Split)}
    issues = [issue for split in read.values() for issue in (split.issues if isinstance(split, Split) else [split])]
    if "train" in splits:
        overlaps = (find_overlap(splits["train"], split) for name, split in splits.items() if name != "train")
        issues += [overlap for overlap in overlaps if overlap]
    reports = [summarize(split) for split in splits.values()]
    return DataReport(Path(path), reports, list(dict.fromkeys(issues)), [name for name in names if name not in splits])


def _read(layout: DatasetLayout, path: Path, name: str, *, strict: bool, difficult: bool) -> Split | DataIssue:
    try:
        return read_split(layout, name, strict=strict, difficult=difficult)
    except UserError as error:
        if strict:
            raise
        return DataIssue(path, None, f"{name}: {error}", fatal=True)


def summarize(split: Split) -> SplitReport:
    """Counts of one split."""
    records, num_classes = split.records, len(split.names)
    sides = np.concatenate([_sides(record) for record in records] or [np.zeros((0, 2), np.float32)])
    classes = [record.classes[~record.crowd] for record in records]
    boxes = np.bincount(np.concatenate(classes), minlength=num_classes) if classes else np.zeros(num_classes, np.int64)
    images = sum((np.bincount(np.unique(c), minlength=num_classes) for c in classes), np.zeros(num_classes, np.int64))
    areas = sides.prod(1)
    small, large = int((areas < SMALL).sum()), int((areas >= MEDIUM).sum())
    return SplitReport(
        name=split.name,
        names=split.names,
        images=len(records),
        boxes=len(sides),
        crowd=sum(int(record.crowd.sum()) for record in records),
        backgrounds=sum(record.objects == 0 for record in records),
        class_boxes=boxes.tolist(),
        class_images=images.tolist(),
        sizes=(small, len(sides) - small - large, large),
        widths=Spread.of(sides[:, 0]),
        heights=Spread.of(sides[:, 1]),
        issues=split.issues,
    )


def _sides(record: Record) -> Float32Array:
    """Width and height of each object's box in pixels of the original image, float32 [n, 2]."""
    boxes = record.pixel_boxes[~record.crowd]
    return (boxes[:, 2:] - boxes[:, :2]).round(2)  # else float32 turns 32 pixels into 31.999998 and medium into small


def print_report(report: DataReport, console: Console) -> None:
    """Print tables of splits and classes, then every error and warning with its file and line."""
    if report.splits:
        console.print(_split_table(report.splits))
        console.print(_class_table(report.splits))
    for issue in report.issues:
        mark, style = ("error   ", "red") if issue.fatal else ("warning ", "yellow")
        console.print(literal(one_line(str(issue), LONGEST_LINE), mark, style), soft_wrap=True)
    warnings = len(report.issues) - report.fatal_count
    console.print(literal(f"{report.source}: {report.fatal_count} errors, {warnings} warnings"), soft_wrap=True)


def _split_table(splits: Sequence[SplitReport]) -> Table:
    table = Table(title="Splits", caption="areas in pixels of the original images; small < 32 x 32, medium < 96 x 96")
    for heading in ("", *(split.name for split in splits)):
        table.add_column(heading, justify="right" if heading else "left")
    rows = {
        "images": [split.images for split in splits],
        "backgrounds": [split.backgrounds for split in splits],
        "boxes": [split.boxes for split in splits],
        "crowd regions": [split.crowd for split in splits],
        "small": [split.sizes[0] for split in splits],
        "medium": [split.sizes[1] for split in splits],
        "large": [split.sizes[2] for split in splits],
        "errors": [count_fatal(split.issues) for split in splits],
        "warnings": [len(split.issues) - count_fatal(split.issues) for split in splits],
    }
    for heading, counts in rows.items():
        table.add_row(heading, *(f"{count:,}" for count in counts))
    table.add_row("width, min / median / max", *(_show(split.widths) for split in splits))
    table.add_row("height, min / median / max", *(_show(split.heights) for split in splits))
    return table


def _show(spread: Spread) -> str:
    return f"{spread.low:.0f} / {spread.median:.0f} / {spread.high:.0f}"


def _class_table(splits: Sequence[SplitReport]) -> Table:
    table = Table(title="Boxes and images by class")
    add_columns(table, "class", *(heading for split in splits for heading in (f"{split.name}\nboxes", "\nimages")))
    counts = [dict(zip(s.names, zip(s.class_boxes, s.class_images, strict=True), strict=True)) for s in splits]
    for name in dict.fromkeys(name for split in splits for name in split.names):
        cells = [f"{value:,}" for count in counts for value in count.get(name, (0, 0))]
        table.add_row(name_cell(name), *cells)
    return table
