"""What `augment` and `augment_boxes` are tested with: samples made visible, random layers, outlines and views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov9k.data.batch import collate
from yolov9k.data.dataset import Sample

KINDS = ("still", "upright", "turned", "tilted")


def render(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sample's image, uint8 BGR [h, w, 3], the classes of its objects [n] and their boxes [n, 4], corners in pixels."""
    batch = collate([sample])
    (classes, center, side), count = np.split(batch.boxes[0].numpy(), [1, 3], 1), int(batch.counts[0])
    size = np.array(sample.shape[::-1], np.float32)
    boxes = np.hstack([center - side / 2, center + side / 2]) * np.tile(size, 2)
    return batch.images[0].numpy()[::-1].transpose(1, 2, 0), classes[:count, 0].astype(int), boxes[:count]


class AugmentCase(NamedTuple):
    """Arguments of `augment` up to size."""

    pixels: Tensor
    layers: Tensor
    ranges: Tensor
    matrices: Tensor
    mix_weights: Tensor
    hsv_gains: Tensor
    size: tuple[int, int]


class BoxesCase(NamedTuple):
    """Arguments of `augment_boxes` up to size."""

    points: Tensor
    ends: Tensor
    classes: Tensor
    min_area_ratio: Tensor
    ranges: Tensor
    matrices: Tensor
    size: tuple[int, int]


def matrix(rng: np.random.Generator, kind: str, side: float) -> np.ndarray:
    """A view onto a canvas of about twice `side`: as it is, scaled, turned and sheared, or in perspective; maybe flipped."""
    if kind == "still":
        return np.eye(3)
    scale, angle = rng.uniform(0.4, 2.5), rng.uniform(-math.pi, math.pi) if kind != "upright" else 0.0
    turn = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    result = np.eye(3)
    result[:2, :2] = turn @ np.diag(rng.choice([-1.0, 1.0], 2))
    result[:2, 2] = rng.uniform(0, 2 * side, 2) - result[:2, :2] @ (side / 2, side / 2)
    if kind == "tilted":
        result[2, :2] = rng.uniform(-0.4, 0.4, 2) / side
    return result


def ranges(rng: np.random.Generator, images: int, most: int) -> tuple[Tensor, int]:
    """So many of something for each of two views, one after another; some views have none."""
    counts = rng.integers(0, most + 1, (images, 2))
    ends = counts.cumsum().reshape(images, 2)
    return torch.from_numpy(np.stack([ends - counts, ends], -1)), int(counts.sum())


def table(rows: Sequence[Sequence[int]]) -> Tensor:
    """Layers whose rows lie next to each other: the first six columns of each are given."""
    return torch.tensor([[*row, 3 * row[2], row[2]] for row in rows])


def shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask: an oval, whole rows of nothing above or below it, or specks."""
    if rng.random() < 0.4:
        return rng.random((height, width)) < 0.8
    y, x = np.mgrid[:height, :width] - rng.uniform(0.3, 0.7, (2, 1, 1)) * np.reshape([height, width], (2, 1, 1))
    radii = rng.uniform(0.2, 0.7, 2) * (height, width) + 0.1
    return (x / radii[1]) ** 2 + (y / radii[0]) ** 2 < 1


def augment_case(
    seed: int, images: int = 2, kind: str = "turned", most: int = 5, size: tuple[int, int] = (23, 37)
) -> AugmentCase:
    """Layers of 0 to some tens of pixels around a canvas of twice the size, half of them with masks; smooth or noisy.

    Between rows there may be bytes that belong to nothing.
    """
    rng = np.random.default_rng(seed)
    bounds, count = ranges(rng, images, most)
    side, data, layers, start = max(size), [], [], 0
    for _ in range(count):
        height, width = rng.integers(0, side + 1, 2)
        left, top = rng.integers(-side // 2, 2 * side, 2) if kind != "still" else rng.integers(-side // 2, side // 2, 2)
        image = rng.integers(0, 256, (height, width, 3)) if rng.random() < 0.7 else np.full((height, width, 3), 200)
        masked = rng.random() < 0.5
        mask = shape(rng, height, width) * 255 if masked else np.zeros((0, width))
        stride, mask_stride = 3 * width + rng.integers(0, 4), width + rng.integers(0, 3)
        rows, cover = rng.integers(0, 256, (height, stride)), rng.integers(0, 2, (height * masked, mask_stride))
        rows[:, : 3 * width], cover[:, :width] = image.reshape(height, 3 * width), mask
        data += [rows.reshape(-1), cover.reshape(-1)]
        layers.append([start, height, width, left, top, start + rows.size if masked else -1, stride, mask_stride])
        start += rows.size + cover.size
    pixels = np.concatenate([np.zeros(0), *data]).astype(np.uint8)
    views = np.array([matrix(rng, kind, side) for _ in range(2 * images)]).reshape(images, 2, 3, 3)
    mix_weights = np.where(rng.random(images) < 0.5, 1, rng.random(images))
    hsv_gains = np.where(rng.random((images, 1)) < 0.7, 1 + rng.uniform(-1, 1, (images, 3)), 1)
    return AugmentCase(
        torch.from_numpy(pixels),
        torch.tensor(layers, dtype=torch.int64).reshape(-1, 8),
        bounds,
        torch.from_numpy(views.astype(np.float32)),
        torch.from_numpy(mix_weights.astype(np.float32)),
        torch.from_numpy(hsv_gains.astype(np.float32)),
        size,
    )


def boxes_case(seed: int, images: int = 2, kind: str = "turned", most: int = 6, size: tuple[int, int] = (48, 64)) -> BoxesCase:
    """Boxes, polygons of many points, points and nothing, in and around the image."""
    rng = np.random.default_rng(seed)
    bounds, count = ranges(rng, images, most)
    outlines = []
    for _ in range(count):
        corner, extent = rng.uniform(-20, 70, 2), rng.uniform(0, 60, 2)
        x, y = np.stack([corner, corner + extent], 1)
        box = np.array([[x[0], y[0]], [x[1], y[0]], [x[1], y[1]], [x[0], y[1]]])
        star = corner + extent * rng.random((rng.integers(0, 30), 2))
        outlines.append(box if rng.random() < 0.5 else star)
    lengths = np.array([len(outline) for outline in outlines], np.int64)
    views = [np.linalg.inv(matrix(rng, kind, 32)) for _ in range(2 * images)]
    views = [view / view[2, 2] if abs(view[2, 2]) > 1e-6 else np.eye(3) for view in views]
    return BoxesCase(
        torch.from_numpy(np.concatenate([np.zeros((0, 2)), *outlines]).astype(np.float32)),
        torch.from_numpy(lengths.cumsum()),
        torch.from_numpy(rng.integers(0, 80, count)),
        torch.from_numpy(rng.choice([-1, 0.01, 0.1, 0.5], count).astype(np.float32)),
        bounds,
        torch.from_numpy(np.array(views).reshape(images, 2, 3, 3).astype(np.float32)),
        size,
    )
