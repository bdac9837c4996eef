"""An image of labeled images side by side, to see whether boxes and names fit the images."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from yolov9k.common.arrays import FILL, Image
from yolov9k.common.errors import UserError
from yolov9k.common.files import user_path
from yolov9k.data.draw import draw_boxes, mosaic
from yolov9k.data.images import read_image, write_image
from yolov9k.data.records import Record, Split

_CELL = 480  # pixels: four to a row still show boxes of a few pixels


def plot_grid(split: Split, path_png: str | Path, count: int = 16, seed: int = 0) -> Path:
    """Draw `count` images of `split`, drawn by `seed`, with their boxes and class names, to a PNG file.

    Crowd regions are drawn thin. Returns the path. Raises UserError without an image to draw or when the file cannot
    be written.
    """
    path = user_path(path_png)
    total = min(count, len(split.records))
    if total < 1:
        raise UserError(f"{split.source}: no image of {split.name} to draw; ask for a split and a count that give some")
    chosen = np.sort(np.random.default_rng(seed).choice(len(split.records), total, replace=False))
    cells = [_draw_cell(split.records[index], split.names) for index in chosen]
    canvas = mosaic(cells, math.ceil(math.sqrt(total)))
    write_image(path, canvas, ".png")
    return path


def _draw_cell(record: Record, names: list[str]) -> Image:
    """One image with its boxes, uint8 [cell, cell, 3] BGR, gray where it does not reach."""
    cell = np.full((_CELL, _CELL, 3), FILL, np.uint8)
    image = read_image(record.path, truncated=True)
    gain = _CELL / max(image.shape[:2])
    height, width = (max(1, min(_CELL, round(side * gain))) for side in image.shape[:2])
    small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    boxes = record.boxes * np.array([width, height, width, height])
    for chosen, line in ((record.crowd, 1), (~record.crowd, 2)):
        draw_boxes(small, boxes[chosen], record.classes[chosen], names, line_width=line)
    cell[:height, :width] = small
    return cell
