"""What was detected in one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolov9k.common.arrays import Image
from yolov9k.data.draw import class_name, draw_boxes


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

    def to_yolo_text(self, conf: bool = False) -> str:
        """A line for each box: class, center x, center y, width, height as shares of the image, score if `conf`."""
        height, width = self.image.shape[:2]
        low, high = self.boxes[:, :2].astype(np.float64), self.boxes[:, 2:].astype(np.float64)
        rows = np.hstack([(low + high) / 2, high - low]) / [width, height, width, height]
        lines = []
        for index, row, score in zip(self.classes, rows, self.scores, strict=True):
            values = [*row, score] if conf else row
            lines.append(" ".join([str(int(index)), *(f"{value:.6f}" for value in values)]) + "\n")
        return "".join(lines)

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
