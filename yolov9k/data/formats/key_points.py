"""Rows of YOLO labels that were made for pose: key points behind the box, x, y and perhaps 0, 1 or 2 for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from yolov9k.common.numbers import parse_number
from yolov9k.data.records import DataIssue


class KeyPoints(NamedTuple):
    """What kpt_shape says: how many points, and how many numbers each."""

    points: int
    numbers: int


def find_points(text: str) -> KeyPoints | None:
    """Key points that follow the box in each row of a label file; None where not all rows are so.

    A row of an outline may have as many numbers: that the first four are a box around the points tells them apart.
    """
    if len(text.lstrip().partition("\n")[0].split()) < 8:
        return None  # boxes, as nearly all files have
    rows = [row.split() for row in text.splitlines() if row.strip()]
    length = len(rows[0]) - 5
    if any(len(row) - 5 != length for row in rows):
        return None
    for numbers, fewest in ((3, 1), (2, 3)):  # an outline of few corners may look like a box and one or two points
        if length % numbers == 0 and length >= fewest * numbers and all(_has_points(row, numbers) for row in rows):
            return KeyPoints(length // numbers, numbers)
    return None


def _has_points(row: Sequence[str], numbers: int) -> bool:
    try:
        x, y, w, h, *rest = map(parse_number, row[1:])
    except ValueError:
        return False
    seen = rest[2::3] if numbers == 3 else [1.0] * (len(rest) // 2)
    points = [(px, py) for px, py, flag in zip(rest[::numbers], rest[1::numbers], seen, strict=True) if flag]
    share = 1.0 if numbers == 3 else 0.51  # twice the box: points may leave it; without flags they tell by lying inside
    around = all(abs(px - x) <= share * w and abs(py - y) <= share * h for px, py in points)
    return w > 0 and h > 0 and around and set(seen) <= {0, 1, 2}


def warn_of_points(found: Sequence[tuple[Path, KeyPoints]]) -> list[DataIssue]:
    """One warning for all label files with such rows, each given with its points."""
    if not found:
        return []
    (path, shape), rest = found[0], len(found) - 1
    what = f"rows look like boxes with {shape.points} key points each"
    what += f", those of {rest} more label files too" if rest else ""
    remedy = (
        f"add kpt_shape: [{shape.points}, {shape.numbers}] to data.yaml to take the boxes, else they are outlines or refused"
    )
    return [DataIssue(path, None, f"{what}; {remedy}", fatal=False)]
