"""Boxes and labels on images: distinct colors by class, sizes that follow the image's."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov9k.common.arrays import FILL, Image
from yolov9k.common.errors import one_line

Color = tuple[int, int, int]

_GOLDEN_RATIO = 0.6180339887498949
_LONGEST = 80  # characters of a label
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_color(index: int) -> Color:
    """BGR color of a class. Steps of the golden ratio keep the hues of any first n classes apart."""
    hue = (0.58 + index * _GOLDEN_RATIO) % 1.0
    value = (1.0, 0.8, 0.92)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.65, 1.0)[index // 3 % 3], value)
    return round(255 * blue), round(255 * green), round(255 * red)


def text_color(background: Color) -> Color:
    """Black or white, whichever reads better on the background (BGR; luma weights of ITU-R BT.601)."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)


def class_name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    classes: NDArray[Any],
    names: Sequence[str],
    scores: NDArray[Any] | None = None,
    *,
    labels: bool = True,
    confidences: bool = True,
    line_width: int | None = None,
) -> Image:
    """Draw onto `image` (uint8 [H, W, 3] BGR, changed in place and returned).

    boxes [n, 4] x1 y1 x2 y2 px; classes [n]; scores [n] or None for ground truth. The first box is drawn last, on top:
    detections come best first. line_width None: about 1/300 of the image's mean side.
    """
    width = line_width or max(1, round(sum(image.shape[:2]) / 2 * 0.0033))
    corners = np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4)).clip(-1e4, 1e5).round().astype(int)
    for row in reversed(range(len(corners))):
        index = int(classes[row])
        color = class_color(index)
        x1, y1, x2, y2 = map(int, corners[row])
        cv2.rectangle(image, (x1, y1), (x2, y2), color, width)
        score = f"{float(scores[row]):.2f}" if scores is not None and confidences else ""
        text = f"{class_name(names, index) if labels else ''} {score}".strip()
        if text:
            put_label(image, text, (x1, y1), color, width)
    return image


def put_label(image: Image, text: str, corner: tuple[int, int], color: Color, width: int) -> None:
    """Text on a filled plate above the corner (x, y) of a box, moved inside the image where it would stick out."""
    text = one_line(text, _LONGEST).encode("ascii", "backslashreplace").decode()  # all that OpenCV's font has
    scale, weight = max(width / 3.5, 0.4), max(1, width // 2)
    (wide, high), base = cv2.getTextSize(text, _FONT, scale, weight)
    plate = wide + 2 * weight + 2, high + base + weight
    x = max(0, min(corner[0] - width // 2, image.shape[1] - plate[0]))
    y = corner[1] - plate[1] if corner[1] >= plate[1] else max(0, min(corner[1], image.shape[0] - plate[1]))
    cv2.rectangle(image, (x, y), (x + plate[0], y + plate[1]), color, cv2.FILLED)
    cv2.putText(image, text, (x + weight + 1, y + high + weight), _FONT, scale, text_color(color), weight, cv2.LINE_AA)


def crop(image: Image, box: NDArray[Any], gain: float = 1.02, pad: float = 10) -> Image:
    """A copy of what a box (x1 y1 x2 y2 px) shows, `gain` times and `pad` pixels larger where the image goes on."""
    corners = np.asarray(box, np.float64)
    center, half = (corners[:2] + corners[2:]) / 2, ((corners[2:] - corners[:2]) * gain + pad) / 2
    limits = np.array(image.shape[1::-1])
    (x1, y1), (x2, y2) = (np.nan_to_num(corner).clip(0, limits).astype(int) for corner in (center - half, center + half))
    return np.ascontiguousarray(image[y1:y2, x1:x2])


def mosaic(tiles: Sequence[Image], columns: int, limit: int = 1920) -> Image:
    """Tiles (uint8 [h, w, 3], any sizes) in a grid on gray, scaled down so that no side exceeds `limit` pixels."""
    rows = -(-len(tiles) // columns)
    high, wide = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    canvas: Image = np.full((rows * high, columns * wide, 3), FILL, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * high, number % columns * wide
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    shrink = limit / max(canvas.shape[:2])
    if shrink >= 1:
        return canvas
    return np.asarray(cv2.resize(canvas, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)
