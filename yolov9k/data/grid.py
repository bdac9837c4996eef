"""A picture of labelled images side by side, to see whether boxes and names fit the images."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov9k.data.records import Record, Split
from yolov9k.errors import UserError

Picture = NDArray[np.uint8]
_CELL = 480  # pixels: four to a row still show boxes of a few pixels
_GREY = 114


def plot_grid(split: Split, path_png: str | Path, count: int = 16, seed: int = 0) -> Path:
    """Draw `count` images of `split`, drawn by `seed`, with their boxes and class names, to a PNG file.

    Crowd regions are drawn thin. Returns the path. Raises UserError without an image to draw or when the file cannot
    be written.
    """
    path = Path(path_png)
    total = min(count, len(split.records))
    if total < 1:
        raise UserError(f"{split.source}: no image of {split.name} to draw; ask for a part and a count that give some")
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.records), total, replace=False))
    columns = math.ceil(math.sqrt(total))
    canvas = np.full((math.ceil(total / columns) * _CELL, columns * _CELL, 3), _GREY, np.uint8)
    for place, index in enumerate(chosen):
        top, left = place // columns * _CELL, place % columns * _CELL
        canvas[top : top + _CELL, left : left + _CELL] = _draw_cell(split.records[index], split.names)
    _write(path, canvas)
    return path


def _write(path: Path, picture: Picture) -> None:
    encoded, data = cv2.imencode(".png", picture)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes() if encoded else b"")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def _draw_cell(record: Record, names: list[str]) -> Picture:
    """One image with its boxes, uint8 [cell, cell, 3] BGR, grey where it does not reach."""
    cell = np.full((_CELL, _CELL, 3), _GREY, np.uint8)
    image = cv2.imdecode(np.fromfile(record.path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{record.path}: image cannot be decoded; replace or remove it")
    gain = _CELL / max(image.shape[:2])
    height, width = (max(1, min(_CELL, round(side * gain))) for side in image.shape[:2])
    cell[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    corners = (record.boxes * np.array([width, height, width, height])).round().astype(int).tolist()
    for (x1, y1, x2, y2), label, crowd in zip(corners, record.classes.tolist(), record.crowd.tolist(), strict=True):
        cv2.rectangle(cell, (x1, y1), (x2, y2), class_colour(label), 1 if crowd else 2)
        _draw_name(cell, names[label], (x1, y1), class_colour(label))
    return cell


def _draw_name(cell: Picture, name: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    (width, height), base = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    x, y = min(corner[0], _CELL - width), max(corner[1], height + base)
    cv2.rectangle(cell, (x, y - height - base), (x + width, y), colour, -1)
    cv2.putText(cell, name, (x, y - base // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)


def class_colour(label: int) -> tuple[int, int, int]:
    """A bright BGR colour for a class; steps of the golden ratio keep hues apart however many classes there are."""
    hue = int(label * 0.618034 * 180) % 180
    blue, green, red = cv2.cvtColor(np.array([[[hue, 170, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
