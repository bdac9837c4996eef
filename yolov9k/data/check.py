"""What a dataset holds and what is wrong with it, as a report to read before a long training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yolov9k.common.arrays import Float32Array
from yolov9k.common.errors import UserError
from yolov9k.data.config import find_splits, load_split
from yolov9k.data.grid import plot_grid
from yolov9k.data.records import Fault, Record, Split, count_fatal

__all__ = ["Report", "SplitReport", "Spread", "check_data", "plot_grid", "print_report", "summarize"]
SMALL, MEDIUM = 32.0**2, 96.0**2  # areas in square pixels where COCO divides small from medium from large


class Spread(NamedTuple):
    """Least, median and greatest of a quantity in pixels; all 0 when there is nothing to measure."""

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
    """Counts of a part. `class_boxes` and `class_images` go by class; `sizes` counts small, medium and large boxes."""

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
    faults: list[Fault]


@dataclass
class Report:
    """All parts of a dataset. `faults` holds each fault once, even if several parts share it."""

    source: Path
    splits: list[SplitReport]
    faults: list[Fault]

    @property
    def fatal_count(self) -> int:
        """How many faults cost a row, a sample or a whole part."""
        return count_fatal(self.faults)

    def render(self, console: Console | None = None) -> None:
        """Print the report, to stdout unless `console` says otherwise."""
        print_report(self, console or Console())


def check_data(path: str | Path, *, strict: bool = False) -> Report:
    """Read every part of a dataset and report on it.

    A part that cannot be read is a fatal fault of the report. Raises UserError when the source itself cannot be
    understood, and with `strict` at the first part that has a fatal fault.
    """
    reports: list[SplitReport] = []
    faults: list[Fault] = []
    for name in find_splits(path):
        part = _check_part(path, name, strict)
        if isinstance(part, Fault):
            faults.append(part)
        else:
            reports.append(part)
            faults.extend(part.faults)
    return Report(Path(path), reports, list(dict.fromkeys(faults)))


def _check_part(path: str | Path, name: str, strict: bool) -> SplitReport | Fault:
    try:
        return summarize(load_split(path, name, strict=strict))
    except UserError as error:
        if strict:
            raise
        return Fault(Path(path), None, f"{name}: {error}", fatal=True)


def summarize(split: Split) -> SplitReport:
    """Counts of one part."""
    records, num_classes = split.records, len(split.names)
    sides = np.concatenate([_sides(record) for record in records] or [np.zeros((0, 2), np.float32)])
    classes = [record.classes for record in records]
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
        backgrounds=sum(len(record.classes) == 0 for record in records),
        class_boxes=boxes.tolist(),
        class_images=images.tolist(),
        sizes=(small, len(sides) - small - large, large),
        widths=Spread.of(sides[:, 0]),
        heights=Spread.of(sides[:, 1]),
        faults=split.faults,
    )


def _sides(record: Record) -> Float32Array:
    """Width and height of each box in pixels of the original image, float32 [n, 2]."""
    boxes = record.pixel_boxes
    return (boxes[:, 2:] - boxes[:, :2]).round(2)  # else float32 turns 32 pixels into 31.999998 and medium into small


def print_report(report: Report, console: Console) -> None:
    """Print tables of parts and classes, then every fault with its file and line."""
    if report.splits:
        console.print(_part_table(report.splits))
        console.print(_class_table(report.splits))
    for fault in report.faults:
        mark = "[red]fault[/red] " if fault.fatal else "[yellow]notice[/yellow]"
        console.print(f"{mark} {escape(str(fault))}", soft_wrap=True, highlight=False)
    notices = len(report.faults) - report.fatal_count
    console.print(f"{report.source}: {report.fatal_count} faults, {notices} notices", soft_wrap=True, highlight=False)


def _part_table(splits: Sequence[SplitReport]) -> Table:
    table = Table(title="Parts", caption="sizes in pixels of the original images; small < 32², medium < 96²")
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
        "faults": [count_fatal(split.faults) for split in splits],
        "notices": [len(split.faults) - count_fatal(split.faults) for split in splits],
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
    table.add_column("class")
    for split in splits:
        table.add_column(f"{split.name} boxes", justify="right")
        table.add_column("images", justify="right")
    counts = [dict(zip(s.names, zip(s.class_boxes, s.class_images, strict=True), strict=True)) for s in splits]
    for name in dict.fromkeys(name for split in splits for name in split.names):
        cells = [f"{value:,}" for count in counts for value in count.get(name, (0, 0))]
        table.add_row(escape(name), *cells)
    return table
