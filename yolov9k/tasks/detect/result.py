"""What was detected in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov9k.common.arrays import Image
from yolov9k.data.draw import class_name, crop, draw_boxes


@dataclass
class Result:
    """What was found in one image, best first.

    image: uint8 [H, W, 3] BGR, as it was read; boxes: float32 [n, 4] x1 y1 x2 y2 in its pixels; scores: float32 [n];
    classes: int64 [n]. frame: the number in a video, from 0, else None.
    """

    path: Path
    image: Image = field(repr=False)
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: Sequence[str] = field(repr=False)
    frame: int | None = None
    source: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    def found(self) -> list[str]:
        """Class names of what was found, one for each box."""
        return [class_name(self.names, int(index)) for index in self.classes]

    def draw(self, *, labels: bool = True, confidences: bool = True, line_width: int | None = None) -> Image:
        """A copy of the image with the boxes on it."""
        return draw_boxes(
            self.image.copy(), self.boxes, self.classes, self.names, self.scores,
            labels=labels, confidences=confidences, line_width=line_width,
        )  # fmt: skip

    def crops(self) -> list[tuple[str, Image]]:
        """Class name and part of the image of each box, a little larger than the box as published."""
        return [(name, crop(self.image, box)) for name, box in zip(self.found(), self.boxes, strict=True)]

    def to_yolo_text(self, conf: bool = False) -> str:
        """A line for each box: class, center x, center y, width, height as shares of the image, score if `conf`."""
        return yolo_text(self.classes, self.boxes, self.image.shape[:2], self.scores if conf else None)

    def to_text(self, conf: bool = False) -> str:
        """`to_yolo_text`."""
        return self.to_yolo_text(conf)

    def to_json(self) -> dict[str, Any]:
        """Ready for json.dumps: path, frame, width, height, detections (class, name, score, box x1 y1 x2 y2 in px)."""
        rows = zip(self.classes, self.scores, self.boxes, strict=True)
        detections = [
            {
                "class": int(index),
                "name": class_name(self.names, int(index)),
                "score": round(float(score), 5),
                "box": [round(float(value), 3) for value in box],
            }
            for index, score, box in rows
        ]
        height, width = self.image.shape[:2]
        return {"path": str(self.path), "frame": self.frame, "width": width, "height": height, "detections": detections}


def yolo_text(classes: NDArray[Any], boxes: NDArray[Any], size: tuple[int, ...], scores: NDArray[Any] | None = None) -> str:
    """A line for each box [n, 4] x1 y1 x2 y2 px of an image of size (height, width): class, center, sides as shares, score."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    rows = np.hstack([(low + high) / 2, high - low]) / [size[1], size[0], size[1], size[0]]
    rows = rows if scores is None else np.hstack([rows, scores[:, None]])
    lines = (
        " ".join([str(int(index)), *(f"{value:.6f}" for value in row)]) + "\n" for index, row in zip(classes, rows, strict=True)
    )
    return "".join(lines)
