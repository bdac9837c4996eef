"""The input of a training step as five passes of OpenCV: what the fused operators replaced, and are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from yolov9k.common.arrays import FILL, Float32Array, Image
from yolov9k.data.augment import MAX_COVER, AugmentParams, Matrix, Mosaic
from yolov9k.data.labels import MIN_AREA_RATIO, MIN_AREA_RATIO_OUTLINED, Labels, concatenate
from yolov9k.ops.augment_boxes import clip_outlines
from yolov9k.ops.reference.augment import UNIT
from yolov9k.ops.reference.augment_boxes import MAX_ASPECT, MIN_SIDE, hulls

GRAY = (FILL, FILL, FILL)
Shape = tuple[int, int]
Tile = tuple[Image, Labels]


def batch(params_list: Sequence[AugmentParams], tiles: Sequence[Tile], size: int) -> tuple[Tensor, list[Labels]]:
    """Images uint8 [B, 3, size, size], RGB, and their labels: augmentations, all with mosaics, carried out on decoded tiles."""
    images, labels = torch.empty(len(params_list), 3, size, size, dtype=torch.uint8), []
    for params, planes in zip(params_list, images.numpy(), strict=True):
        image, seen = apply(params, tiles, size)
        cv2.split(image, [planes[2], planes[1], planes[0]])
        labels.append(seen)
    return images, labels


def apply(params: AugmentParams, tiles: Sequence[Tile], size: int) -> Tile:
    """One params."""
    views = [_view(part, tiles, size) for part in params.mosaics]
    image, labels = mix(*views, params.mix_weight) if len(views) > 1 else views[0]
    return flip(recolor(image, params.hsv_gains), labels, flip_lr=params.flip_lr, flip_ud=params.flip_ud)


def _view(part: Mosaic, tiles: Sequence[Tile], size: int) -> Tile:
    canvas = copy_paste(*mosaic([tiles[i] for i in part.indices], part.center, size), part.paste, part.paste_seed)
    return warp(*canvas, part.warp.matrix((2 * size, 2 * size), (size, size)), (size, size))


def mosaic(tiles: Sequence[Tile], center: tuple[float, float], size: int) -> Tile:
    """Lay four images, none larger than `size`, around `center` (shares of size) on a canvas of 2 size x 2 size."""
    canvas: Image = np.full((2 * size, 2 * size, 3), FILL, np.uint8)
    x, y = round(center[0] * size), round(center[1] * size)
    parts = []
    for corner, (image, labels) in enumerate(tiles):
        height, width = image.shape[:2]
        left, top = (x if corner % 2 else x - width), (y if corner > 1 else y - height)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, 2 * size), min(top + height, 2 * size)
        canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
        parts.append(shifted(labels, left, top))
    labels = concatenate(parts)
    points, lengths, boxes = clip_outlines(labels.points, labels.lengths, 2 * size, 2 * size)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return canvas, replace(labels, boxes=boxes, points=points, lengths=lengths).chosen(inside)


def shifted(labels: Labels, x: float, y: float) -> Labels:
    """Moved by x and y pixels."""
    offsets = np.array([x, y, x, y], np.float32)
    return replace(labels, boxes=labels.boxes + offsets, points=labels.points + offsets[:2])


def copy_paste(image: Image, labels: Labels, probability: float, seed: int) -> Tile:
    """Paste outlined objects, each with `probability`, at their mirrored place where they hide little of others.

    The image is changed in place. `seed` decides which objects. (Ghiasi et al., arXiv 2012.07177)
    """
    selected = np.random.default_rng(seed).random(len(labels)) < probability
    chosen = np.flatnonzero(selected & labels.outlined)
    if not len(chosen):
        return image, labels
    mirrored = labels.flipped(image.shape[1], image.shape[0], flip_lr=True, flip_ud=False)
    boxes, taken, patches = labels.boxes, [], []
    for index in chosen.tolist():
        box = mirrored.boxes[index]
        if (_cover(box, boxes) < MAX_COVER).all():
            taken.append(index)
            boxes = np.vstack([boxes, box])
            patches.append(_cut_out(image, labels.boxes[index], mirrored.outline(index)))
    for patch, mask, (left, top) in patches:  # only now, so that no patch shows another
        place = image[top : top + patch.shape[0], left : left + patch.shape[1]]
        cv2.copyTo(patch, mask, place)
    keep = np.zeros(len(labels), bool)
    keep[taken] = True
    return image, concatenate([labels, mirrored.chosen(keep)])


def _cover(box: Float32Array, boxes: Float32Array) -> Float32Array:
    """Share of each of `boxes` [n, 4] that `box` hides."""
    overlap = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
    share: Float32Array = overlap.clip(0).prod(1) / areas
    return share


def _cut_out(image: Image, box: Float32Array, outline: Float32Array) -> tuple[Image, Image, tuple[int, int]]:
    """The mirrored image within a box, the mask of the mirrored outline in it, and (left, top) of its place."""
    width = image.shape[1]
    (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    patch = image[y1:y2, x1:x2][:, ::-1].copy()
    mask: Image = np.zeros(patch.shape[:2], np.uint8)
    fraction = 4  # binary digits of OpenCV's fixed-point coordinates, which count from the first pixel's center
    points = np.round((outline - (width - x2, y1) - 0.5) * (1 << fraction)).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, shift=fraction)
    return patch, mask, (width - x2, y1)


def warp(image: Image, labels: Labels, matrix: Matrix, shape: tuple[int, int]) -> Tile:
    """See image and labels through a 3x3 matrix in a window `shape` (height, width); outside is gray."""
    height, width = shape
    # OpenCV's coordinates are those of pixel centers
    centered = _shift(-0.5) @ matrix @ _shift(0.5)
    if matrix[2, 0] or matrix[2, 1]:
        seen = cv2.warpPerspective(image, centered, (width, height), borderValue=GRAY)
    else:
        seen = cv2.warpAffine(image, centered[:2], (width, height), borderValue=GRAY)
    return seen, warped(labels, matrix, width, height)


def mix(first: Tile, second: Tile, share: float) -> Tile:
    """Mix-up: blend two images of one size, `share` of the first, and keep the objects of both (arXiv 1710.09412)."""
    blend = cv2.addWeighted(first[0], share, second[0], 1 - share, 0)
    return blend, concatenate([first[1], second[1]])


def recolor(image: Image, gains: tuple[float, float, float]) -> Image:
    """Multiply hue, saturation and value by gains, by tables of their 256 levels."""
    if gains == (1.0, 1.0, 1.0):
        return image
    levels = np.arange(256)
    hue, saturation, value = (levels * round(gain * UNIT) // UNIT for gain in gains)  # the operators' fixed point
    tables = [hue % 180, saturation.clip(0, 255), value.clip(0, 255)]  # OpenCV's hue counts to 180
    planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
    turned = [cv2.LUT(plane, table.astype(np.uint8)) for plane, table in zip(planes, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(turned), cv2.COLOR_HSV2BGR)


def flip(image: Image, labels: Labels, *, flip_lr: bool, flip_ud: bool) -> Tile:
    """Mirror left to right (`flip_lr`) and top to bottom (`flip_ud`)."""
    if not (flip_lr or flip_ud):
        return image, labels
    code = -1 if flip_lr and flip_ud else 1 if flip_lr else 0
    labels = labels.flipped(image.shape[1], image.shape[0], flip_lr=flip_lr, flip_ud=flip_ud)
    return cv2.flip(image, code), labels


def warped(labels: Labels, matrix: Matrix, width: int, height: int) -> Labels:
    """Seen through a 3x3 matrix in a window of width x height; objects that hardly show are dropped."""
    turned = labels.points @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32)
    moved = turned[:, :2] / turned[:, 2:]
    points, lengths, boxes = clip_outlines(moved, labels.lengths, width, height)
    before = hulls(torch.from_numpy(moved), torch.from_numpy(labels.lengths)).numpy()
    keep = survivors(before, boxes, labels.outlined)
    return replace(labels, boxes=boxes, points=points, lengths=lengths).chosen(keep)


def survivors(before: Float32Array, after: Float32Array, outlined: np.ndarray) -> np.ndarray:
    """Which boxes [n, 4] are still worth learning once the image's edge cut `before` down to `after`."""
    sides = after[:, 2:] - after[:, :2]
    share = sides.prod(1) / np.maximum((before[:, 2:] - before[:, :2]).prod(1), 1e-9)
    aspect = sides.max(1) / np.maximum(sides.min(1), 1e-9)
    needed = np.where(outlined, MIN_AREA_RATIO_OUTLINED, MIN_AREA_RATIO)
    return (sides > MIN_SIDE).all(1) & (aspect < MAX_ASPECT) & (share > needed)


def _shift(by: float) -> Matrix:
    return np.array([[1, 0, by], [0, 1, by], [0, 0, 1]], float)
