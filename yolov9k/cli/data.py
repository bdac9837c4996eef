"""`yolov9k data`."""

from __future__ import annotations

from yolov9k.cli.parser import console
from yolov9k.common.errors import DATA, UserError
from yolov9k.config import DataCheckOptions


def check(options: DataCheckOptions) -> None:
    """Report images, boxes, classes, sizes, every error with its file and line. Exits with 3 where a split is missing."""
    from yolov9k.data.check import check_data, print_report
    from yolov9k.data.config import find_splits, read_split
    from yolov9k.data.grid import plot_grid

    report = check_data(options.path, difficult=options.difficult, keep_empty_classes=options.keep_empty_classes)
    print_report(report, console)
    if options.plot:
        there = [name for name in find_splits(options.path) if name not in report.missing]
        console.print(f"grid: {plot_grid(read_split(options.path, (there or ['train'])[0]), options.plot)}")
    if options.strict and report.fatal_count:
        raise UserError(f"{options.path}: {report.fatal_count} errors; correct or remove them", DATA)
    if report.missing:
        raise SystemExit(DATA)
