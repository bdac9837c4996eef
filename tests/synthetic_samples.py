"""Images with rectangles of pure colors, and a detector that finds them: known ground truth, end to end, untrained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from yolov9k.data.records import Record, Split

NAMES = ["red", "blue"]
_BGR = [(0, 0, 255), (255, 0, 0)]


def paint(size: tuple[int, int], rectangles: list[tuple[int, int, int, int, int]]) -> np.ndarray:
    """uint8 [h, w, 3] BGR, gray with rectangles (class, x1, y1, x2, y2); size (height, width)."""
    image = np.full((*size, 3), 114, np.uint8)
    for index, x1, y1, x2, y2 in rectangles:
        image[y1:y2, x1:x2] = _BGR[index]
    return image


def write_painted(path: Path, rectangles: list[tuple[int, ...]]) -> Path:
    """An image of 120 x 200 pixels with these rectangles, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), paint((120, 200), rectangles))
    return path


def record(path: Path, image_id: int, size: tuple[int, int], rectangles: list[tuple[int, ...]]) -> Record:
    """Write the painted image and return its ground truth."""
    assert cv2.imwrite(str(path), paint(size, rectangles))
    rows = np.array(rectangles, np.float32).reshape(-1, 5)
    height, width = size
    return Record(
        path=path,
        image_id=image_id,
        height=height,
        width=width,
        classes=rows[:, 0].astype(np.int64),
        boxes=rows[:, 1:] / np.array([width, height, width, height], np.float32),
        polygons=[None] * len(rows),
        crowd=np.zeros(len(rows), bool),
        areas=(rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2]),
    )


def split(folder: Path) -> Split:
    """Four images of odd and unlike shapes, one without objects; category ids 7 and 3."""
    records = [
        record(folder / "wide.png", 11, (90, 250), [(0, 10, 20, 70, 80), (1, 150, 5, 240, 60)]),
        record(folder / "tall.png", 5, (301, 140), [(1, 20, 30, 120, 130), (0, 30, 200, 90, 290)]),
        record(folder / "empty.png", 8, (64, 64), []),
        record(folder / "large.png", 2, (420, 600), [(0, 300, 100, 560, 400)]),
    ]
    return Split("val", NAMES, [7, 3], records, [], folder)


class ColorDetector(nn.Module):
    """Stands where a YOLOv9 stands: the largest red and the largest blue region of each image, with certainty."""

    num_classes, names, stride, letterbox = 2, NAMES, 32, "center"

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def branches(self, x: Tensor, main_only: bool = False) -> list[list[Tensor]]:
        return [[torch.stack([self._find(image) for image in x])]]

    def decode(self, maps: list[Tensor]) -> Tensor:
        return maps[0]

    def candidates(self, maps: list[Tensor], threshold: float) -> tuple[Tensor, None]:
        return maps[0], None

    def nonfinite(self, maps: list[Tensor]) -> Tensor:
        return ~maps[0].isfinite().flatten(1).all(1)

    def to_lean(self) -> ColorDetector:
        return self

    def fuse(self) -> ColorDetector:
        return self

    def _find(self, image: Tensor) -> Tensor:
        columns = torch.zeros(6, 2)
        red, _, blue = image
        for index, mask in enumerate([red - blue > 0.4, blue - red > 0.4]):
            ys, xs = mask.nonzero(as_tuple=True)
            if len(xs):
                x1, x2, y1, y2 = (float(v) for v in (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1))
                columns[:4, index] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
                columns[4 + index, index] = 0.9
        return columns
