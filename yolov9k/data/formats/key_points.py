"""Rows of YOLO labels that were made for pose: key points behind the box, x, y and 0, 1 or 2 for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolov9k.common.numbers import parse_number
from yolov9k.data.records import DataIssue


def count_points(text: str) -> int:
    """How many key points follow the box in each row of a label file; 0 where not all rows are so.

    A row of an outline may have as many numbers: that the first four are a box around the points tells them apart.
    """
    if len(text.lstrip().partition("\n")[0].split()) < 8:
        return 0  # boxes, as nearly all files have
    rows = [row.split() for row in text.splitlines() if row.strip()]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or (min(lengths) - 5) % 3 or not all(map(_has_points, rows)):
        return 0
    return (min(lengths) - 5) // 3


def _has_points(row: Sequence[str]) -> bool:
    try:
        x, y, w, h, *rest = map(parse_number, row[1:])
    except ValueError:
        return False
    points = [point for point in zip(rest[::3], rest[1::3], rest[2::3], strict=True) if point[2]]
    around = all(abs(px - x) <= w and abs(py - y) <= h for px, py, _ in points)  # twice the box: points may leave it
    return w > 0 and h > 0 and around and set(rest[2::3]) <= {0, 1, 2}


def warn_of_points(found: Sequence[tuple[Path, int]]) -> list[DataIssue]:
    """One warning for all label files with such rows, each given with its number of points."""
    if not found:
        return []
    (path, points), rest = found[0], len(found) - 1
    what = f"rows look like boxes with {points} key points each" + (f", those of {rest} more label files too" if rest else "")
    remedy = f"add kpt_shape: [{points}, 3] to data.yaml to take the boxes, else they are outlines or refused"
    return [DataIssue(path, None, f"{what}; {remedy}", fatal=False)]
